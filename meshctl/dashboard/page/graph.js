// The graph of calls: drawn in SVG, moved by mouse, finger or keys. Nodes and links are kept and
// only their figures change; they move only when what is shown changes.

import { attribute, keyed, svg, text } from "./dom.js";
import * as format from "./format.js";
import * as health from "./health.js";
import { securityIcon, turnInto } from "./icons.js";
import { SIZE, curve, layout, pairKey, pointOn } from "./layout.js";
import { shownName } from "./store.js";

const MARGIN = 34;
const LEAST = 0.12;
const MOST = 2.5;
const READABLE = 0.56; // smaller only if asked for: then part of the graph is outside the window
const LABELLED = 60; // more labels than this cover each other: then only those of the chosen node
const STEP = 60;
const CHARACTERS = 18;

export class Graph {
  #places = null;
  #shape = "";
  #scene = { nodes: [], links: [] };
  #move = { x: 0, y: 0, scale: 1 };
  #isMoved = false;
  #isFitted = false;
  #hovered = null;
  #current = null; // the one tab stop: an id of a node or a link
  #chosen = null;
  #pointers = new Map();
  #pinch = 0;
  #dragged = 0;

  /** `choose(item)` for a click or Enter on a node or link. */
  constructor(choose) {
    this.choose = choose;
    this.links = svg("g", {});
    this.nodes = svg("g", {});
    this.labels = svg("g", { "aria-hidden": "true" });
    this.stage = svg("g", {}, this.links, this.labels, this.nodes);
    this.root = svg(
      "svg",
      { class: "graph", role: "group", "aria-label": "Graph of calls. Arrow keys walk along it, Enter opens details." },
      svg("defs", {}, ["ok", "warn", "bad", "idle"].map(arrow)),
      this.stage,
    );
    this.#listen();
    new ResizeObserver(() => this.#resized()).observe(this.root);
  }

  get current() {
    return this.#current;
  }

  show(scene, chosen) {
    this.#scene = scene;
    this.#chosen = chosen;
    const shape = JSON.stringify([scene.nodes.map((node) => [node.id, node.rank]), scene.links.map((link) => link.id).sort(), scene.focus]);
    const isNew = shape !== this.#shape;
    if (isNew) {
      this.#shape = shape;
      const box = this.root.getBoundingClientRect();
      const aspect = box.height ? (box.width - 2 * MARGIN) / Math.max(1, box.height - 2 * MARGIN) : 0;
      this.#places = layout(scene.nodes, scene.links, this.#places, aspect);
    }
    this.byId = new Map([...scene.nodes, ...scene.links].map((each) => [each.id, each]));
    if (!this.byId.has(this.#current)) this.#current = scene.nodes.find((node) => node.name === scene.focus)?.id ?? scene.nodes[0]?.id ?? null;
    const near = this.#near();
    const most = Math.max(1, ...scene.links.map((link) => link.perSecond));
    keyed(this.nodes, scene.nodes, (node) => node.id, (node) => this.#makeNode(node), (node, row) => this.#drawNode(node, row, near));
    keyed(this.links, scene.links, (link) => link.id, (link) => this.#makeLink(link), (node, row) => this.#drawLink(node, row, most, near));
    this.#drawLabels(near);
    if (isNew && !this.#isMoved) this.fit();
  }

  /** All of it, or as much of it as can be read, around what was chosen or is worst. */
  fit(least = READABLE) {
    const { width, height } = this.root.getBoundingClientRect();
    if (!this.#places || !width || !height) return;
    const [across, down] = [this.#places.width, this.#places.height];
    const scale = Math.max(least, Math.min(1.15, (width - 2 * MARGIN) / Math.max(1, across), (height - 2 * MARGIN) / Math.max(1, down)));
    const centre = this.#places.places.get(this.#centre()) ?? { x: 0, y: 0 };
    const start = (room, size, at) => {
      if (size * scale <= room - MARGIN) return (room - size * scale) / 2;
      return Math.min(MARGIN, Math.max(room - size * scale - MARGIN, room / 2 - at * scale));
    };
    this.#move = { x: start(width, across, centre.x), y: start(height, down, centre.y), scale };
    this.#isMoved = false;
    this.#isFitted = true;
    this.#moved();
  }

  #centre() {
    const chosen = this.byId?.get(this.#chosen);
    if (chosen) return chosen.from ?? chosen.id;
    const nodes = [...this.#scene.nodes].sort((a, b) => health.compare(a.health, b.health));
    return nodes[0]?.health === health.FAILING ? nodes[0].id : this.#current;
  }

  /** Beside the opened details all stays where it was, or else the chosen one would run away from
   *  under the pointer; it is only kept in view. */
  #resized() {
    if (!this.#isFitted || !(this.#isMoved || this.byId?.has(this.#chosen))) this.fit();
    else if (this.byId?.has(this.#chosen)) this.#reveal(this.#chosen);
  }

  fitAll() {
    this.fit(LEAST);
  }

  zoom(factor, at = null) {
    const box = this.root.getBoundingClientRect();
    const [x, y] = at ?? [box.width / 2, box.height / 2];
    const scale = Math.min(MOST, Math.max(LEAST, this.#move.scale * factor));
    const by = scale / this.#move.scale;
    this.#move = { x: x - (x - this.#move.x) * by, y: y - (y - this.#move.y) * by, scale };
    this.#isMoved = true;
    this.#moved();
  }

  focus(id = this.#current) {
    if (!this.byId?.has(id)) return;
    this.#current = id;
    this.#stops();
    this.#elementOf(id)?.focus({ preventScroll: true });
    this.#reveal(id);
  }

  #moved() {
    const { x, y, scale } = this.#move;
    attribute(this.stage, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${scale.toFixed(4)})`);
    attribute(this.root, "data-far", scale < 0.5);
  }

  #elementOf(id) {
    return this.nodes.keyedChildren?.get(id) ?? this.links.keyedChildren?.get(id);
  }

  /** Ids of the chosen or hovered one and what touches it; null: nothing is special. */
  #near() {
    const id = this.#hovered ?? this.#chosen;
    const item = this.byId?.get(id);
    if (!item) return null;
    const near = new Set([id]);
    if (item.from) near.add(item.from).add(item.to);
    else {
      for (const link of this.#scene.links) {
        if (link.from === id || link.to === id) near.add(link.id).add(link.from).add(link.to);
      }
    }
    return near;
  }

  #listeners(id) {
    return {
      click: () => {
        if (this.#dragged < 6) this.#pick(id);
      },
      focus: () => {
        this.#current = id;
        this.#stops();
      },
      // Not when the picture moves under a mouse that rests.
      pointerenter: (event) => event.pointerType === "mouse" && (event.movementX || event.movementY) && this.#hover(id),
      pointerleave: () => this.#hover(null),
    };
  }

  #pick(id) {
    this.#current = id;
    const item = this.byId.get(id);
    if (item) this.choose(item);
  }

  #hover(id) {
    if (this.#hovered === id) return;
    this.#hovered = id;
    this.show(this.#scene, this.#chosen);
  }

  #makeNode(node) {
    const made = svg("g", { class: "node", role: "button", on: this.#listeners(node.id) });
    const { width, height } = SIZE;
    if (node.isGroup) made.append(svg("rect", { class: "behind", x: -width / 2 + 6, y: -height / 2 - 6, width, height, rx: 9 }));
    made.shape = svg("rect", { class: "box", x: -width / 2, y: -height / 2, width, height, rx: 9 });
    made.sign = svg("text", { class: "sign", x: -width / 2 + 17, y: 5 });
    made.name = svg("text", { class: "name", x: -width / 2 + 32, y: -5 });
    made.figures = svg("text", { class: "figures", x: -width / 2 + 32, y: 15 });
    made.tip = svg("title", {});
    made.append(
      svg("rect", { class: "halo", x: -width / 2 - 5, y: -height / 2 - 5, width: width + 10, height: height + 10, rx: 13 }),
      made.shape, made.sign, made.name, made.figures, made.tip,
    );
    return made;
  }

  #drawNode(made, node, near) {
    const { x, y } = this.#places.places.get(node.id);
    attribute(made, "transform", `translate(${x} ${y})`);
    attribute(made, "data-health", node.isOutside ? "outside" : node.health);
    attribute(made, "data-dim", near !== null && !near.has(node.id));
    attribute(made, "data-chosen", node.id === this.#chosen);
    attribute(made, "tabindex", node.id === this.#current ? 0 : -1);
    text(made.sign, node.isOutside ? "⌂" : node.isGroup ? "⋯" : health.SIGN[node.health]);
    text(made.name, shortened(node.label));
    text(made.figures, node.figures);
    text(made.tip, node.label);
    attribute(made, "aria-label", node.spoken);
  }

  #makeLink(link) {
    const made = svg("g", { class: "link", role: "button", on: this.#listeners(link.id) });
    made.grip = svg("path", { class: "grip" });
    made.line = svg("path", { class: "line" });
    made.tip = svg("title", {});
    made.append(made.grip, made.line, made.tip);
    return made;
  }

  #drawLink(made, link, most, near) {
    const path = curve(this.#places.paths.get(pairKey(link.from, link.to)));
    attribute(made.line, "d", path);
    attribute(made.grip, "d", path);
    const share = Math.log1p(link.perSecond) / Math.log1p(most);
    attribute(made.line, "stroke-width", (1.2 + 4.3 * (link.perSecond ? share : 0)).toFixed(1));
    const kind = { failing: "bad", troubled: "warn", well: "ok", idle: "idle" }[link.health];
    attribute(made.line, "marker-end", `url(#arrow-${kind})`);
    attribute(made, "data-health", link.health);
    attribute(made, "data-security", link.security);
    attribute(made, "data-quiet", link.isQuiet && link.health !== health.FAILING);
    attribute(made, "data-dim", near !== null && !near.has(link.id));
    attribute(made, "data-chosen", link.id === this.#chosen);
    attribute(made, "tabindex", link.id === this.#current ? 0 : -1);
    text(made.tip, link.spoken);
    attribute(made, "aria-label", link.spoken);
  }

  #drawLabels(near) {
    const all = this.#scene.links;
    const wanted = all.filter((link) =>
      near ? near.has(link.id) : all.length <= LABELLED ? !link.isQuiet : link.health === health.FAILING && !link.isQuiet,
    );
    // Labels keep clear of nodes and of each other.
    const placed = [...this.#places.places.values()].map(({ x, y }) => [x, y, (SIZE.width + LABEL.width) / 2 - 6, (SIZE.height + LABEL.height) / 2]);
    const fan = new Map();
    for (const link of wanted) for (const id of [link.from, link.to]) fan.set(id, (fan.get(id) ?? 0) + 1);
    const rows = wanted.map((link) => ({ link, at: free(this.#places.paths.get(pairKey(link.from, link.to)), placed, leaning(link, fan)), isFlat: isFlat(this.#places.paths.get(pairKey(link.from, link.to))) }));
    keyed(this.labels, rows.filter((row) => row.at), (row) => row.link.id, makeLabel, drawLabel);
  }

  #stops() {
    for (const [id, made] of [...this.nodes.keyedChildren, ...this.links.keyedChildren]) {
      attribute(made, "tabindex", id === this.#current ? 0 : -1);
    }
  }

  #reveal(id) {
    const item = this.byId.get(id);
    const place = this.#places.places.get(item.from ?? id);
    const box = this.root.getBoundingClientRect();
    const x = place.x * this.#move.scale + this.#move.x;
    const y = place.y * this.#move.scale + this.#move.y;
    // With room for a column on either side, so that its neighbours are seen too.
    const across = Math.min(box.width / 3, (SIZE.width * 1.5 + SIZE.column) * this.#move.scale + MARGIN);
    const down = Math.min(box.height / 3, 90);
    const into = (at, edge, size) => Math.max(0, edge - at) - Math.max(0, at - (size - edge));
    this.#move.x += into(x, across, box.width);
    this.#move.y += into(y, down, box.height);
    this.#moved();
  }

  /** Right: from a node to its first call, from a call to the called; left: the same way back;
   *  up and down: the next in the column, or the next call of the same node. */
  #walk(key) {
    const item = this.byId.get(this.#current);
    if (!item) return null;
    const y = (id) => this.#places.places.get(id).y;
    const calls = (end, other, id) =>
      this.#scene.links.filter((link) => link[end] === id).sort((a, b) => y(a[other]) - y(b[other]) || (a.id < b.id ? -1 : 1));
    if (item.from) {
      if (key === "ArrowRight") return item.to;
      if (key === "ArrowLeft") return item.from;
      const all = calls("from", "to", item.from);
      return all[all.indexOf(item) + (key === "ArrowDown" ? 1 : -1)]?.id ?? null;
    }
    if (key === "ArrowRight") return calls("from", "to", item.id)[0]?.id ?? null;
    if (key === "ArrowLeft") return calls("to", "from", item.id)[0]?.id ?? null;
    const { rank } = this.#places.places.get(item.id);
    const column = this.#scene.nodes
      .filter((node) => this.#places.places.get(node.id).rank === rank)
      .sort((a, b) => y(a.id) - y(b.id));
    return column[column.indexOf(item) + (key === "ArrowDown" ? 1 : -1)]?.id ?? null;
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key.startsWith("Arrow")) {
      event.preventDefault();
      if (event.shiftKey) {
        this.#move.x += { ArrowLeft: STEP, ArrowRight: -STEP }[event.key] ?? 0;
        this.#move.y += { ArrowUp: STEP, ArrowDown: -STEP }[event.key] ?? 0;
        this.#isMoved = true;
        this.#moved();
        return;
      }
      const next = this.#walk(event.key);
      if (next) this.focus(next);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.#pick(this.#current);
    }
  }

  #listen() {
    const { root } = this;
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = root.getBoundingClientRect();
      const step = Math.max(-120, Math.min(120, event.deltaY));
      this.zoom(Math.exp(-step / 400), [event.clientX - box.left, event.clientY - box.top]);
    }, { passive: false });
    root.addEventListener("pointerdown", (event) => {
      this.#pointers.set(event.pointerId, [event.clientX, event.clientY]);
      this.#dragged = 0;
      this.#pinch = 0;
    });
    const drop = (event) => {
      this.#pointers.delete(event.pointerId);
      this.#pinch = 0;
      attribute(root, "data-dragging", false);
    };
    window.addEventListener("pointerup", drop);
    window.addEventListener("pointercancel", drop);
    root.addEventListener("pointermove", (event) => this.#drag(event));
  }

  #drag(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    this.#pointers.set(event.pointerId, [event.clientX, event.clientY]);
    const points = [...this.#pointers.values()];
    if (points.length === 2) {
      const apart = Math.hypot(points[0][0] - points[1][0], points[0][1] - points[1][1]);
      const box = this.root.getBoundingClientRect();
      const at = [(points[0][0] + points[1][0]) / 2 - box.left, (points[0][1] + points[1][1]) / 2 - box.top];
      if (this.#pinch) this.zoom(apart / this.#pinch, at);
      this.#pinch = apart;
      this.#dragged = 99;
      return;
    }
    this.#dragged += Math.abs(event.clientX - before[0]) + Math.abs(event.clientY - before[1]);
    if (this.#dragged < 6) return;
    attribute(this.root, "data-dragging", true);
    this.#move.x += event.clientX - before[0];
    this.#move.y += event.clientY - before[1];
    this.#isMoved = true;
    this.#moved();
  }
}

function arrow(kind) {
  return svg(
    "marker",
    { id: `arrow-${kind}`, class: `arrow ${kind}`, viewBox: "0 0 10 10", refX: 9, refY: 5, markerWidth: 11, markerHeight: 11, markerUnits: "userSpaceOnUse", orient: "auto-start-reverse" },
    svg("path", { d: "M0 0.8 10 5 0 9.2z" }),
  );
}

function shortened(name) {
  return name.length > CHARACTERS ? `${name.slice(0, CHARACTERS - 1)}…` : name;
}

const LABEL = { width: 108, height: 38 };

/** Where links fan out of one node, their labels stand nearer to the other ends. */
function leaning(link, fan) {
  const more = fan.get(link.from) - fan.get(link.to);
  return more > 1 ? 0.66 : more < -1 ? 0.34 : 0.5;
}

/** A place for a label on its path where none of `placed` is; null if there is none. */
function free(path, placed, lean) {
  for (const step of [0, -0.08, 0.08, -0.16, 0.16, -0.24, 0.24]) {
    const [x, y] = pointOn(path, Math.min(0.75, Math.max(0.25, lean + step)));
    if (placed.every(([left, top, width, height]) => Math.abs(left - x) >= width || Math.abs(top - y) >= height)) {
      placed.push([x, y, LABEL.width, LABEL.height]);
      return [x, y];
    }
  }
  return null;
}

function makeLabel() {
  const made = svg("g", { class: "label" });
  made.icon = securityIcon("unknown");
  made.first = svg("text", {});
  made.second = svg("text", { class: "second" });
  made.ground = svg("rect", { x: -LABEL.width / 2, y: -17, width: LABEL.width, height: 34, rx: 6 });
  made.append(made.ground, made.icon, made.first, made.second);
  return made;
}

/** A flat line runs between the two lines of its label; a steep one passes behind a ground. */
function isFlat({ kind, points: [[, y], [, end]] }) {
  return kind !== "side" && Math.abs(end - y) < 26;
}

function drawLabel(made, { link, at, isFlat: isThrough }) {
  const [above, below] = isThrough ? [-7, 16] : [-2, 12];
  attribute(made.first, "y", above);
  attribute(made.second, "y", below);
  attribute(made.icon, "y", above - 12);
  attribute(made, "data-flat", isThrough);
  const sign = link.health === health.WELL || link.health === health.IDLE ? "" : ` ${health.SIGN[link.health]}`;
  attribute(made, "transform", `translate(${at[0].toFixed(1)} ${at[1].toFixed(1)})`);
  attribute(made, "data-health", link.health);
  const words = `${link.perSecond ? format.rate(link.perSecond) : link.denied ? "denied" : "idle"}${sign}`;
  text(made.first, words);
  attribute(made.first, "x", 8);
  turnInto(made.icon, link.security);
  attribute(made.icon, "x", (-words.length * 3.5 - 8).toFixed(0));
  text(made.second, second(link));
}

function second(link) {
  if (link.isTcp) return `${link.open} open`;
  if (link.denied && link.success === null) return `${link.denied} by policy`;
  if (link.success === null) return link.security === "mutual_tls" ? "mTLS" : health.SECURITY[link.security].word;
  return `${format.percent(link.success)} · ${format.millis(link.p95)}`;
}

/** The words of nodes and links for those who do not see the picture, and the small figures. */
export function worded(scene, store) {
  const names = new Map(scene.nodes.map((node) => [node.id, node.label]));
  for (const node of scene.nodes) {
    const row = node.isGroup ? null : store.services.get(node.name);
    node.isCalling = (store.byCaller.get(node.name) ?? []).some((edge) => health.ofEdge(edge) !== health.IDLE);
    node.figures = figures(node, row);
    const word = node.isOutside ? "callers that are not of the mesh" : node.health;
    node.spoken = node.isGroup
      ? `${node.label}: ${node.members.slice(0, 5).map(shownName).join(", ")}${node.members.length > 5 ? " and others" : ""}. Enter shows them.`
      : `${node.label}, ${word}${spoken(row)}`;
  }
  for (const link of scene.links) {
    const security = health.SECURITY[link.security];
    link.spoken = `${names.get(link.from)} calls ${names.get(link.to)}: ${link.perSecond ? `${format.rate(link.perSecond)}` : "idle"}`
      + `${link.success === null ? "" : `, ${format.percent(link.success)} succeed, p95 ${format.millis(link.p95)}`}`
      + `${link.isTcp ? `, ${link.open} sessions open` : ""}, ${security.long}, ${link.health}`;
  }
  return scene;
}

function figures(node, row) {
  if (node.isGroup) return node.members.length > 1 ? "open the group" : "";
  if (node.isOutside) return "clients";
  if (row?.signals) return `${format.rate(row.signals.per_s)} · ${format.percent(row.signals.success)} · ${format.millis(row.signals.p95_ms)}`;
  if (row?.sessions) return `${row.sessions.open} open · ${format.rate(row.sessions.opened_per_s)} new`;
  return node.isCalling ? "calls only" : "no traffic";
}

function spoken(row) {
  if (row?.signals) {
    return `, ${format.rate(row.signals.per_s)}, ${format.percent(row.signals.success)} succeed, p95 ${format.millis(row.signals.p95_ms)}`;
  }
  return row?.sessions ? `, ${row.sessions.open} sessions open` : "";
}
