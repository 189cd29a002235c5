// SPDX-License-Identifier: MIT
// Puts the page together: chat, history, settings, the live line, and the buttons above them.

import { Chat } from "./chat.js";
import { byId, icon, put } from "./dom.js";
import { capital, share } from "./figures.js";
import { prepareHistory } from "./history.js";
import { prepareKeyDialog } from "./key_dialog.js";
import { LineView } from "./line_view.js";
import { Models } from "./models.js";
import { Poll } from "./poll.js";
import { prepareSettings } from "./settings.js";
import { begin, read, write } from "./store.js";

const WIDE = window.matchMedia("(min-width: 68rem)");
const MIDDLE = window.matchMedia("(min-width: 48rem)");
const DARK = window.matchMedia("(prefers-color-scheme: dark)");

const models = new Models();
const chat = new Chat(models);
const poll = new Poll(() => !byId("line").hidden, () => (models.areSeveral ? models.of(chat.current) : null));
const line = new LineView(byId("line"));
const askKey = prepareKeyDialog(() => {
  poll.begin();
  chat.retryRefused();
});

function prepareButtons() {
  byId("menu").append(icon("menu"));
  byId("menu").addEventListener("click", () => {
    const shows = !document.body.classList.contains("shows-history");
    if (shows && !MIDDLE.matches) showLine(false);
    showHistory(shows);
  });
  byId("new").prepend(icon("plus"));
  byId("new").addEventListener("click", () => { chat.show(begin()); chosen(); });
  byId("open-settings").append(icon("gear"));
  byId("show-line").addEventListener("click", () => {
    const shows = byId("line").hidden;
    if (!MIDDLE.matches) showHistory(false);
    if (WIDE.matches) write("line", shows);
    showLine(shows);
  });
  byId("theme").addEventListener("click", changeTheme);
  DARK.addEventListener("change", nameTheme);
  nameTheme();
  prepareSettings();
  prepareHistory(chat, chosen);
}

/** A conversation was chosen: on a small screen it takes the place of the list. */
function chosen() {
  if (!MIDDLE.matches) showHistory(false);
  if (!WIDE.matches) showLine(false);
  byId("text").focus();
}

function showHistory(shows) {
  document.body.classList.toggle("shows-history", shows);
  byId("menu").setAttribute("aria-expanded", String(shows));
  keepOutOfCovered();
}

/** What lies beneath something else cannot be reached by keyboard either. */
function keepOutOfCovered() {
  const historyCovers = document.body.classList.contains("shows-history") && !MIDDLE.matches;
  const lineCovers = !byId("line").hidden && !WIDE.matches;
  byId("line").inert = historyCovers;
  byId("history").inert = lineCovers && !historyCovers && !byId("line").hidden;
  byId("chat").inert = historyCovers || lineCovers;
}

/** As much as has room beside the chat. */
function fit() {
  showHistory(MIDDLE.matches);
  showLine(WIDE.matches && read("line", true));
}

function showLine(shows) {
  byId("line").hidden = !shows;
  document.body.classList.toggle("shows-line", shows);
  byId("show-line").setAttribute("aria-pressed", String(shows));
  keepOutOfCovered();
  if (shows) poll.begin();
}

const isDark = () => (document.documentElement.dataset.theme ?? (DARK.matches ? "dark" : "light")) === "dark";

function changeTheme() {
  const chosenTheme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = chosenTheme;
  try {
    localStorage.setItem("caravan.theme", chosenTheme);
  } catch {
    // For this page only, then.
  }
  nameTheme();
}

function nameTheme() {
  byId("theme").replaceChildren(icon(isDark() ? "sun" : "moon"));
  byId("theme").setAttribute("aria-label", isDark() ? "Light colours" : "Dark colours");
}

/** What the server is doing, beside the name and where there is no message yet. */
function showHealth({ health, error }) {
  const model = health?.model ?? "";
  const name = models.areSeveral ? "" : model; // the choice says it
  const about = error ? "not reachable" : [name, health.status === "ready" ? "" : health.status].filter(Boolean).join(" · ");
  put(byId("model"), about);
  byId("model").className = error || health.status === "failed" ? "bad" : health.status === "ready" ? "good" : "busy";
  document.title = model ? `${model} – Caravan` : "Caravan";
  put(byId("welcome"), error ? error.message : welcome(health));
}

function welcome(health) {
  if (health.status === "loading") {
    if (health.loads?.length) return `The model is loading: ${share(health.fraction)}.`;
    return `The model is loading. ${health.doing ? capital(health.doing) : ""}`;
  }
  if (health.status === "failed") return health.error?.message ?? "The model could not be loaded.";
  if (health.status === "stopping") return "The server is stopping.";
  const stages = health.stages ?? [];
  if (stages.length === 0) return "Write a message, and the line answers.";
  const names = stages.map((stage) => stage.worker);
  const who = names.length === 1 ? names[0] : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
  return `${health.model} is ready on ${who}.`;
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (document.body.classList.contains("shows-history") && !MIDDLE.matches) {
    showHistory(false);
    byId("menu").focus();
  } else if (!byId("line").hidden && !WIDE.matches) {
    showLine(false);
    byId("show-line").focus();
  } else {
    chat.stop();
  }
});
window.addEventListener("pagehide", () => chat.keepAll());
document.addEventListener("visibilitychange", () => { if (document.hidden) chat.keepAll(); });
chat.addEventListener("key", askKey);
poll.addEventListener("said", (event) => {
  if (event.detail.models) models.note(event.detail.models, event.detail.health.models ?? []);
  showHealth(event.detail);
  line.show(event.detail);
});
poll.addEventListener("key", askKey);
models.addEventListener("choose", () => poll.begin());

prepareButtons();
MIDDLE.addEventListener("change", fit);
WIDE.addEventListener("change", fit);
fit();
poll.begin();
if (MIDDLE.matches) byId("text").focus();
