// The graph with its tools: search, only what fails, a neighbourhood, and the same as a list.

import { el, text } from "./dom.js";
import { plural } from "./format.js";
import { Graph, worded } from "./graph.js";
import { Sticky, scene } from "./scene.js";
import { shownName } from "./store.js";
import { edges, empty } from "./views.js";

export class GraphView {
  topic = null;
  onlyFailing = false;
  isList = false;
  #opened = new Set();
  #sticky = new Sticky();

  /** `go`: as of the panel, and `item(item)` for what was chosen in the graph. */
  constructor(go) {
    this.go = go;
    this.graph = new Graph((item) => go.item(item));
    this.list = edges(go);
    this.failing = toggle("✕ Only failing", "Only what fails or is troubled (f)", () => this.setFailing(!this.onlyFailing));
    this.whole = el("button", { type: "button", class: "chip", hidden: true, on: { click: () => go.focus(null) } });
    this.asList = toggle("List", "The same as a list (l)", () => this.setList(!this.isList));
    this.zooms = el("span", { class: "zooms" },
      button("−", "Smaller (-)", () => this.graph.zoom(0.8)),
      button("Fit", "All of it (0)", () => this.graph.fitAll()),
      button("+", "Larger (+)", () => this.graph.zoom(1.25)));
    this.caption = el("span", { class: "caption", role: "status" });
    this.tools = [this.failing, this.asList, this.whole, this.zooms];
    this.none = el("div", { class: "empty" });
    this.root = el("div", { class: "graphed" }, this.caption, this.graph.root, this.list.root, this.none);
  }

  count(store) {
    return store.services.size;
  }

  setFailing(is) {
    this.onlyFailing = is;
    this.failing.setAttribute("aria-pressed", String(is));
    if (is) this.go.focus(null);
    else this.go.changed();
  }

  setList(is) {
    this.isList = is;
    this.asList.setAttribute("aria-pressed", String(is));
    this.go.changed();
  }

  unfold(id) {
    this.#opened.add(id);
  }

  fold() {
    this.#opened.clear();
  }

  show(store, query, { focus, chosen }) {
    this.list.root.hidden = !this.isList;
    this.zooms.hidden = this.isList;
    this.whole.hidden = !focus;
    text(this.whole, focus ? `Neighbourhood of ${shownName(focus)} ✕` : "");
    const isEmpty = !store.edges.size && !store.services.size;
    this.graph.root.toggleAttribute("hidden", this.isList || isEmpty);
    this.caption.hidden = this.isList || isEmpty;
    this.none.hidden = !isEmpty || this.isList;
    if (this.isList) {
      this.list.show(store, query);
      return;
    }
    if (isEmpty) {
      this.#empty(store);
      return;
    }
    const shown = worded(scene(store, { focus, onlyFailing: this.onlyFailing, opened: this.#opened }, this.#sticky), store);
    if (!shown.nodes.length) {
      this.none.hidden = false;
      this.graph.root.toggleAttribute("hidden", true);
      this.#say("well", () => empty("Nothing fails", "All calls of the window went well, and every endpoint is in use."));
    }
    text(this.caption, captioned(shown, store));
    this.graph.show(shown, chosen);
  }

  #empty(store) {
    if (!store.view) this.#say("waiting", () => empty("Asking the hosts …", "The first figures need two looks, a second apart."));
    else if (store.view.hosts.length && store.view.hosts.every((host) => host.fault)) {
      this.#say("silent", () => empty("No host answers", "The proxies cannot be asked, so nothing is known of their traffic. See the hosts view for the reasons.", "meshctl status", "meshctl check"));
    } else this.#say("quiet", () => empty("No traffic yet", "The proxies answer and have carried no call so far. Send a request from one service to another; it shows up here within seconds.", "meshctl status", "meshctl graph --declared"));
  }

  #say(word, make) {
    if (this.said === word) return;
    this.said = word;
    this.none.replaceChildren(make());
  }

  /** The service that fits what was typed best; null if none does. */
  find(store, query) {
    const words = query.trim().toLowerCase();
    if (!words) return null;
    const names = store.nodes();
    const shown = (name) => shownName(name).toLowerCase();
    return names.find((name) => shown(name) === words) ?? names.find((name) => shown(name).startsWith(words)) ?? names.find((name) => shown(name).includes(words)) ?? null;
  }

  /** True if the key meant something here. */
  key(key) {
    const acts = {
      f: () => this.setFailing(!this.onlyFailing),
      l: () => this.setList(!this.isList),
      n: () => this.#neighbourhood(),
      "+": () => this.graph.zoom(1.25),
      "=": () => this.graph.zoom(1.25),
      "-": () => this.graph.zoom(0.8),
      0: () => this.graph.fitAll(),
    };
    acts[key]?.();
    return key in acts;
  }

  #neighbourhood() {
    const id = this.graph.current;
    if (id?.startsWith("s:")) this.go.focus(id.slice(2));
  }
}

function captioned(shown, store) {
  const all = plural(store.services.size, "service");
  if (shown.kind === "whole") return `${all}, ${plural(store.edges.size, "call")}`;
  if (shown.kind === "focus") return `Callers of ${shownName(shown.focus)} on the left, what it calls on the right`;
  if (shown.kind === "failing") return `${plural(shown.nodes.filter((node) => !node.isGroup).length, "service")} with trouble or beside it, of ${store.services.size}`;
  return `${all}, ${plural(store.edges.size, "call")}: what fails and the busiest are shown, the rest is in groups`;
}

function button(label, title, act) {
  return el("button", { type: "button", title, "aria-label": title, on: { click: act } }, label);
}

function toggle(label, title, act) {
  return el("button", { type: "button", title, "aria-pressed": "false", on: { click: act } }, label);
}
