// SPDX-License-Identifier: MIT
// Asks for the API key, once each time that the server wants one.

import { byId } from "./dom.js";
import { key } from "./server.js";

/** Makes the dialog work; `onKey` is called when there is a new one. Gives what opens it. */
export function prepareKeyDialog(onKey) {
  const dialog = byId("key");
  const form = dialog.querySelector("form");
  byId("close-key").addEventListener("click", () => dialog.close());
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    key.use(form.elements.key.value.trim(), form.elements.keep.checked);
    form.reset();
    dialog.close();
    onKey();
  });
  return () => {
    if (dialog.open) return;
    const wrong = key.value ? "The key that this page has is not one of this server's. " : "";
    byId("key-why").textContent = `${wrong}Keys are made on the server's computer with: caravan keys add NAME`;
    dialog.showModal();
  };
}
