// Puts it together: what is shown is in the address (#view?service=...), so that a reload, the back
// button and a copied address find it again. The token never is.

import { attribute, el, keyed, text } from "./dom.js";
import * as format from "./format.js";
import { GraphView } from "./graphview.js";
import * as health from "./health.js";
import { help } from "./help.js";
import { Live } from "./live.js";
import { Panel } from "./panel.js";
import { Store } from "./store.js";
import { theme } from "./theme.js";
import * as views from "./views.js";

const STALE_MS = 6000;
const at = (id) => document.getElementById(id);

const store = new Store();
let isPaused = false;
let isLater = false; // news came while paused
let query = "";
let interval = 1;
let place = { view: "graph", focus: null, subject: null };

const go = {
  service: (name) => move({ subject: { service: name } }, true),
  edge: (caller, service) => move({ subject: { caller, service } }, true),
  item(item) {
    if (item.isGroup) move({ subject: { group: item.label, id: item.id, members: item.members } }, true);
    else if (!item.from) go.service(item.name);
    else if (item.edges.length === 1) go.edge(item.edges[0].caller, item.edges[0].service);
    else {
      const names = [...new Set(item.edges.flatMap((edge) => [edge.caller, edge.service]))];
      move({ subject: { group: `${format.plural(item.edges.length, "call")} between groups`, id: item.id, members: names } }, true);
    }
  },
  focus(name) {
    if (!name) graph.fold();
    else if (graph.onlyFailing) graph.setFailing(false);
    move({ view: "graph", focus: name, subject: name ? place.subject : null });
  },
  unfold(id) {
    graph.unfold(id);
    move({ view: "graph", subject: null });
  },
  close: () => move({ subject: null }),
  changed: () => show(),
};

const graph = new GraphView(go);
const TABS = [
  ["graph", "Graph", graph],
  ["services", "Services", views.services(go)],
  ["routes", "Routes", views.routes(go)],
  ["endpoints", "Endpoints", views.endpoints(go)],
  ["hosts", "Hosts", views.hosts(go)],
  ["certificates", "Certificates", views.certificates(go)],
  ["configuration", "Configuration", new views.History()],
  ["denials", "Denials", views.denials(go)],
];
const byName = new Map(TABS.map(([name, , view]) => [name, view]));
const panel = new Panel(at("panel"), store, go);
const nextTheme = theme(at("theme"));
const toggleHelp = help(at("help"));

const search = el("input", {
  type: "search", id: "search", placeholder: "Search  /", "aria-label": "Search in this view", autocomplete: "off", spellcheck: "false", list: "names",
  on: { input: () => { query = search.value; show(); }, keydown: searched },
});
const names = el("datalist", { id: "names" });
const tools = el("div", { class: "tools-of-view", role: "toolbar", "aria-label": "Tools of the view" });
const stage = el("div", { class: "stage" });
at("main").append(tools, stage);

function tabs() {
  const made = TABS.map(([name, label], number) => {
    const count = el("span", { class: "count", "aria-hidden": "true" });
    const tab = el("button", { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "main", title: `${label} (${number + 1})`, on: { click: () => move({ view: name }) } }, label, count);
    tab.count = count;
    return tab;
  });
  at("tabs").append(...made);
  at("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -99, End: 99 }[event.key];
    if (!step) return;
    event.preventDefault();
    const now = TABS.findIndex(([name]) => name === place.view);
    const next = Math.abs(step) > 1 ? (step > 0 ? TABS.length - 1 : 0) : (now + step + TABS.length) % TABS.length;
    move({ view: TABS[next][0] });
    at(`tab-${TABS[next][0]}`).focus();
  });
}

function searched(event) {
  if (event.key === "Escape") {
    event.stopPropagation();
    if (search.value) {
      search.value = query = "";
      show();
    } else search.blur();
  }
  if (event.key !== "Enter" || place.view !== "graph" || graph.isList) return;
  const name = graph.find(store, search.value);
  if (!name) return;
  search.value = query = "";
  move({ focus: name, subject: { service: name } });
  graph.graph.focus(`s:${name}`);
}

/** `isChosen`: by the operator now, so the panel gets the focus. */
function move(to, isChosen = false) {
  const isOther = to.view && to.view !== place.view;
  if (isOther) {
    search.value = query = "";
    if (!("subject" in to)) to.subject = null;
  }
  place = { ...place, ...to };
  const written = address(place);
  if (location.hash !== written) history.pushState(null, "", written);
  show();
  panel.open(place.subject, isChosen);
  if (to.subject !== undefined) show();
}

function address({ view, focus, subject }) {
  const words = new URLSearchParams();
  if (focus) words.set("focus", focus);
  if (subject?.service) words.set("service", subject.service);
  if (subject?.caller) words.set("caller", subject.caller);
  const text_ = words.toString();
  return `#${view}${text_ && `?${text_}`}`;
}

function arrived() {
  const [view, rest = ""] = location.hash.slice(1).split("?");
  const words = new URLSearchParams(rest);
  const service = words.get("service");
  const caller = words.get("caller");
  place = {
    view: byName.has(view) ? view : "graph",
    focus: words.get("focus"),
    subject: service ? (caller ? { caller, service } : { service }) : null,
  };
  show();
  panel.open(place.subject, false);
}

let shownView = null;

function show() {
  const view = byName.get(place.view);
  if (shownView !== place.view) {
    shownView = place.view;
    stage.replaceChildren(view.root);
    const zooms = view === graph ? graph.tools : [];
    tools.replaceChildren(search, ...(view === graph ? [names] : []), ...zooms);
    attribute(at("main"), "aria-labelledby", `tab-${place.view}`);
    attribute(at("main"), "data-view", place.view);
    at("main").setAttribute("role", "tabpanel");
  }
  for (const [name, , each] of TABS) {
    const tab = at(`tab-${name}`);
    const is = name === place.view;
    attribute(tab, "aria-selected", String(is));
    attribute(tab, "tabindex", is ? 0 : -1);
    const count = each.count(store);
    text(tab.count, count ? String(count) : "");
  }
  view.show(store, query, { focus: place.focus, chosen: chosenId() });
  if (view === graph && !graph.isList) {
    keyed(names, store.nodes(), (name) => name, (name) => el("option", { value: name }), () => {});
    attribute(search, "list", "names");
  } else attribute(search, "list", null);
  panel.show();
  sums();
  notice();
}

function chosenId() {
  const { subject } = place;
  if (!subject) return null;
  if (subject.members) return subject.id;
  return subject.caller ? `s:${subject.caller}\ns:${subject.service}` : `s:${subject.service}`;
}

function sums() {
  const view = store.view;
  if (!view) return;
  let requests = 0;
  let failures = 0;
  let perSecond = 0;
  let failing = 0;
  for (const row of view.services) {
    if (row.signals) {
      requests += row.signals.requests;
      failures += row.signals.failures;
      perSecond += row.signals.per_s;
    }
    if (health.ofService(row) === health.FAILING) failing += 1;
  }
  const open = view.edges.filter((edge) => edge.security === "none").length;
  const silent = view.hosts.filter((host) => host.fault).length;
  const rows = [
    ["Requests", format.rate(perSecond), null],
    ["Success", format.percent(requests ? 1 - failures / requests : null), null],
    ["Failing", `${failing ? "✕ " : ""}${failing} of ${format.plural(view.services.length, "service")}`, failing ? health.FAILING : null],
    ["Hosts", silent ? `✕ ${silent} of ${view.hosts.length} silent` : `${view.hosts.length} answer`, silent ? health.FAILING : null],
    ["Plaintext", open ? `▲ ${format.plural(open, "call")}` : "none", open ? health.TROUBLED : null],
  ];
  keyed(at("sums"), rows, (row) => row[0], (row) => el("div", {}, el("dt", {}, row[0]), el("dd", {})), (node, row) => {
    text(node.lastChild, row[1]);
    attribute(node, "data-tone", row[2]);
  });
}

const CONNECTION = {
  lost: ["The dashboard's server does not answer. What is shown is old; the page tries again by itself.", "meshctl dashboard"],
  refused: ["This dashboard was started anew, with a new address. Open the one that the command printed.", "meshctl dashboard"],
  crowded: ["Too many tabs show this dashboard. Close some; this one goes on by itself.", ""],
};

function notice() {
  const lines = [];
  const live = connection?.state;
  if (CONNECTION[live]) lines.push(CONNECTION[live]);
  const told = store.topics.view;
  if (told?.error) lines.push([told.error.message, told.error.hint]);
  else if (live === "live" && store.view && isStale()) lines.push(["No new figures have come for a while; the hosts may be slow to answer.", "meshctl status"]);
  const silent = store.view?.hosts.filter((host) => host.fault) ?? [];
  if (silent.length) lines.push([`${silent.map((host) => host.host).slice(0, 5).join(", ")}${silent.length > 5 ? ` and ${silent.length - 5} more` : ""} ${silent.length === 1 ? "does" : "do"} not answer: what ${silent.length === 1 ? "it knows" : "they know"} is missing here.`, "meshctl status"]);
  const words = JSON.stringify(lines);
  if (notice.words !== words) {
    notice.words = words;
    at("notice").hidden = !lines.length;
    at("notice").replaceChildren(...lines.map(([message, hint]) => el("p", {}, el("span", { "aria-hidden": "true" }, "▲ "), message, hint ? [" ", el("code", {}, hint)] : null)));
  }
  const age = told?.at ? Date.now() / 1000 - told.at : null;
  const word = isPaused ? "❚❚ paused" : live !== "live" ? (live === "connecting" ? "… connecting" : "✕ not connected") : !store.view ? "… waiting" : isStale() ? "▲ stale" : "● live";
  text(at("live"), word);
  attribute(at("live"), "data-tone", isPaused || live === "connecting" ? null : word.startsWith("●") ? health.WELL : health.FAILING);
  attribute(at("live"), "title", age === null ? null : `figures of ${format.clock(told.at)}`);
  attribute(document.body, "data-stale", !isPaused && live !== "live" && live !== "connecting" && Boolean(store.view));
}

function isStale() {
  const last = store.topics.view?.at ?? 0;
  return Date.now() - last * 1000 > Math.max(STALE_MS, interval * 4000);
}

function pause() {
  isPaused = !isPaused;
  attribute(at("pause"), "aria-pressed", String(isPaused));
  text(at("pause"), isPaused ? "Go on" : "Pause");
  if (!isPaused && isLater) for (const [topic, told] of later) store.tell(topic, told);
  isLater = false;
  later.clear();
  show();
}

const later = new Map();
let isDue = false;

function news(topic, told) {
  if (isPaused && topic !== "mesh") {
    isLater = true;
    later.set(topic, told);
    return;
  }
  store.tell(topic, told);
  if (topic === "mesh") greeted(told.data);
  if (isDue) return;
  // Several topics that arrive together are drawn once.
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    const begun = performance.now();
    show();
    const view = store.view;
    if (view) performance.measure("refresh", { start: begun, detail: { at: view.at } });
    if (performance.getEntriesByType("measure").length > 200) performance.clearMeasures("refresh");
  });
}

function greeted(mesh) {
  interval = mesh.interval_s;
  text(at("domain"), mesh.trust_domain);
  document.title = `${mesh.trust_domain} – meshctl dashboard`;
}

function isTyping(target) {
  return target instanceof HTMLInputElement || target instanceof HTMLSelectElement;
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || at("help").open) return;
  const number = Number(event.key);
  if (number >= 1 && number <= TABS.length) {
    move({ view: TABS[number - 1][0] });
    at(`tab-${TABS[number - 1][0]}`).focus();
  } else if (event.key === "/") search.focus();
  else if (event.key === "?") toggleHelp();
  else if (event.key === "p") pause();
  else if (event.key === "t") nextTheme();
  else if (event.key === "Escape") {
    if (place.subject) go.close();
    else if (place.focus) go.focus(null);
    else return;
  } else if (place.view !== "graph" || !graph.key(event.key)) return;
  event.preventDefault();
});

at("pause").addEventListener("click", pause);
at("help-open").addEventListener("click", toggleHelp);
window.addEventListener("popstate", arrived);
window.addEventListener("hashchange", arrived);
setInterval(notice, 1000);

tabs();
let connection = null;
arrived();
connection = new Live(news, () => {
  // After a pause of the stream a document may be older than what it stands beside: all come anew.
  notice();
});
notice();
