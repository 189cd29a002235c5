// SPDX-License-Identifier: MIT
// Which colours: before anything is drawn, so no module. "light", "dark", or the system's where nothing was chosen.
"use strict";

(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("caravan.theme");
  } catch {
    // Storage is forbidden here: the system's.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
