// The keys and the signs, on one page.

import { el } from "./dom.js";
import { SECURITY } from "./health.js";
import { securityIcon } from "./icons.js";

const KEYS = [
  ["1 … 8", "Go to a view"],
  ["/", "Search in the view"],
  ["Esc", "Close what is open: help, details, neighbourhood"],
  ["← → ↑ ↓", "In the graph: along a call, and through a column"],
  ["Enter", "Details of the service or call"],
  ["n", "In the graph: only the neighbourhood of the service"],
  ["f", "In the graph: only what fails"],
  ["l", "In the graph: the same as a list"],
  ["+  −  0", "In the graph: larger, smaller, all of it"],
  ["Shift + arrows", "In the graph: move the picture"],
  ["p", "Stop refreshing, and go on"],
  ["t", "Colours: as the system, light, dark"],
  ["?", "This page"],
];
const SIGNS = [
  ["✓", "well", "at least 99 % of requests succeed"],
  ["▲", "troubled", "below 99 %, calls denied, or an endpoint out of use"],
  ["✕", "failing", "below 95 %, or no endpoint left; its line is dashed"],
  ["○", "idle", "no traffic in the window"],
  ["mutual_tls", "mTLS", "encrypted, both sides proved who they are"],
  ["none", "plaintext", "not encrypted; its line is dotted"],
  ["unknown", "unknown", "nobody in the mesh tells; its line is dotted"],
];

export function help(dialog) {
  dialog.append(
    el("div", { class: "panel-head" }, el("h2", { id: "help-title" }, "Keys and signs"),
      el("button", { type: "button", class: "close", "aria-label": "Close help", on: { click: () => dialog.close() } }, "✕")),
    el("div", { class: "help" },
      el("table", {}, el("caption", {}, "Keys"), el("tbody", {}, KEYS.map(([key, what]) => el("tr", {}, el("th", { scope: "row" }, el("kbd", {}, key)), el("td", {}, what))))),
      el("table", {}, el("caption", {}, "Signs"), el("tbody", {}, SIGNS.map(([sign, word, what]) => el("tr", {}, el("th", { scope: "row" }, sign in SECURITY ? securityIcon(sign) : sign, ` ${word}`), el("td", {}, what))))),
    ),
    el("p", { class: "rest" }, "Lines are thicker the more requests they carry. Figures on them: requests a second, their success, and the time within which 95 % were answered. This page only shows; it changes nothing."),
  );
  return () => (dialog.open ? dialog.close() : dialog.showModal());
}
