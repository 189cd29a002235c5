// SPDX-License-Identifier: MIT
// The list of conversations: open, rename, delete.

import { announce, byId, element, icon } from "./dom.js";
import { conversations, forget, rename } from "./store.js";

const SURE_MS = 4000; // for the second press that deletes

/** Keeps the list as it is kept; `chat` shows what is chosen, `onChosen` is called then. */
export function prepareHistory(chat, onChosen) {
  const list = byId("conversations");

  function draw() {
    const current = chat.current.id;
    list.replaceChildren(...conversations().map((each) => row(each, each.id === current)));
  }

  function row(entry, isCurrent) {
    const open = element("button", {
      type: "button", class: "title", title: entry.title, "aria-current": isCurrent ? "true" : null,
      click: () => { chat.open(entry.id); onChosen(); },
    }, entry.title);
    const name = element("button", {
      type: "button", class: "plain icon-only", "aria-label": `Rename ${entry.title}`, title: "Rename",
      click: () => edit(item, entry),
    }, icon("pencil"));
    const bin = element("button", {
      type: "button", class: "plain icon-only", "aria-label": `Delete ${entry.title}`, title: "Delete",
      click: () => ask(bin, entry),
    }, icon("bin"));
    const item = element("li", { class: isCurrent ? "current" : null }, open, name, bin);
    return item;
  }

  function ask(bin, entry) {
    if (bin.dataset.sure) {
      forget(entry.id);
      chat.drop(entry.id);
      draw();
      announce(`${entry.title} is deleted.`);
      byId("new").focus();
      return;
    }
    bin.dataset.sure = "yes";
    bin.classList.remove("icon-only");
    bin.replaceChildren("Delete?");
    bin.setAttribute("aria-label", `Delete ${entry.title}? Press again to delete it.`);
    setTimeout(() => { if (bin.isConnected) draw(); }, SURE_MS);
  }

  function edit(item, entry) {
    let isOver = false;
    const field = element("input", { "aria-label": "Name of the conversation", maxlength: "200" });
    field.value = entry.title;
    const end = (keeps) => {
      if (isOver) return;
      isOver = true;
      const title = field.value.trim();
      if (keeps && title) {
        rename(entry.id, title);
        chat.noteTitle(entry.id, title);
      }
      draw();
    };
    field.addEventListener("blur", () => end(true));
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.stopPropagation();
      end(event.key === "Enter");
    });
    item.replaceChildren(field);
    field.select();
  }

  chat.addEventListener("change", draw);
  window.addEventListener("storage", draw); // another tab
  draw();
}
