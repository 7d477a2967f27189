// Drawn, not typed: no font can be relied on to have a lock.

import { attribute, svg } from "./dom.js";

const PATHS = {
  mutual_tls: "M3 6.5h8v6H3zM4.8 6.5V4.4a2.2 2.2 0 0 1 4.4 0v2.1",
  none: "M3 6.5h8v6H3zM4.8 6.5V3.4a2.2 2.2 0 0 1 4.2-.9",
  unknown: "M4.3 4.6A2.7 2.7 0 1 1 7.9 7.1Q7 7.5 7 8.9M7 11.6v.6",
};

export function securityIcon(kind) {
  const path = svg("path", { d: PATHS[kind] ?? PATHS.unknown });
  const made = svg("svg", { class: "icon", viewBox: "0 0 14 14", width: 14, height: 14, "aria-hidden": "true", focusable: "false" }, path);
  made.path = path;
  return made;
}

export function turnInto(icon, kind) {
  attribute(icon.path, "d", PATHS[kind] ?? PATHS.unknown);
  attribute(icon, "data-security", kind);
}
