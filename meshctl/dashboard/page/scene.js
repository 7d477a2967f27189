// Which part of the mesh the graph shows, as nodes and links: all of a small mesh; of a large one
// what fails, the busiest, and the rest in groups; or the neighbourhood of one service. Pure.

import * as health from "./health.js";
import { depths } from "./layout.js";
import { OUTSIDE, shownName } from "./store.js";

const ALL_NODES = 44; // more do not fit a screen with names that can be read
const ALL_LINKS = 90;
const COLUMNS = 6;
const EACH_COLUMN = 5;
const NEIGHBOURS = 9; // of one side; more healthy ones become a group

export class Sticky {
  // A service that was shown stays shown: nodes must not come and go with each second's figures.
  shown = new Set();
  ranks = null;
  count = 0;
  edges = 0;
}

/** `choice`: `{focus, onlyFailing, opened: Set of group ids}`. */
export function scene(store, choice, sticky) {
  const names = store.nodes();
  if (choice.focus && names.includes(choice.focus)) return neighbourhood(store, choice);
  if (choice.onlyFailing) return failing(store, choice.opened);
  if (names.length <= ALL_NODES && store.edges.size <= ALL_LINKS) return whole(store, names);
  return overview(store, names, choice, sticky);
}

export function healthOf(store, name) {
  const row = store.services.get(name);
  const own = row ? health.ofService(row) : health.IDLE;
  if (own !== health.IDLE) return own;
  const calls = store.byCaller.get(name) ?? [];
  return calls.some((edge) => health.ofEdge(edge) !== health.IDLE) ? health.WELL : health.IDLE;
}

function single(store, name, rank) {
  const node = { id: `s:${name}`, name, label: shownName(name), members: [name], isGroup: false };
  if (rank !== undefined) node.rank = rank;
  node.health = healthOf(store, name);
  node.isOutside = name === OUTSIDE;
  return node;
}

function group(id, label, members, rank) {
  return { id: `g:${id}`, name: id, label, members, isGroup: true, health: health.WELL, ...(rank === undefined ? {} : { rank }) };
}

function whole(store, names) {
  return linked(store, names.map((name) => single(store, name)), { kind: "whole" });
}

function failing(store, opened) {
  const bad = new Set();
  const calling = new Set();
  const called = new Set();
  const shown = new Set();
  const isBad = (is) => is === health.FAILING || is === health.TROUBLED;
  for (const [key, edge] of store.edges) {
    if (!isBad(health.ofEdge(edge))) continue;
    bad.add(key);
    calling.add(edge.caller);
    called.add(edge.service);
  }
  for (const name of new Set([...store.services.keys(), ...calling, ...called])) {
    if (isBad(healthOf(store, name))) shown.add(name);
  }
  const well = (names) => [...names].filter((name) => !shown.has(name)).sort();
  const beside = { "callers, well": well(calling), "called, well": well(called).filter((name) => !calling.has(name)) };
  const isFew = shown.size + Object.values(beside).flat().length <= ALL_NODES / 2;
  const nodes = [];
  for (const [word, names] of Object.entries(beside)) {
    if (isFew || names.length < 3 || opened.has(`g:${word}`)) names.forEach((name) => shown.add(name));
    else nodes.push(group(word, `${names.length} ${word}`, names));
  }
  nodes.push(...[...shown].sort().map((name) => single(store, name)));
  return linked(store, nodes, { kind: "failing", count: shown.size, kept: (edge, key) => isFew || bad.has(key) });
}

function neighbourhood(store, { focus, opened }) {
  const callers = (store.byService.get(focus) ?? []).map((edge) => edge.caller);
  const called = (store.byCaller.get(focus) ?? []).map((edge) => edge.service);
  const nodes = [single(store, focus, 1)];
  const taken = new Set([focus]);
  const side = (names, id, word, rank) => {
    const all = [...new Set(names)].filter((name) => !taken.has(name)).sort();
    all.forEach((name) => taken.add(name));
    const sorted = byTrouble(store, all);
    const kept = all.length <= NEIGHBOURS + 1 || opened.has(`g:${id}`) ? sorted : sorted.slice(0, NEIGHBOURS);
    nodes.push(...kept.map((name) => single(store, name, rank)));
    const rest = sorted.slice(kept.length);
    if (rest.length) nodes.push(group(id, `${rest.length} more ${word}`, rest, rank));
  };
  side(callers, `callers of ${focus}`, "callers", 0);
  side(called, `called by ${focus}`, "called", 2);
  const kept = (edge) => edge.caller === focus || edge.service === focus;
  return linked(store, nodes, { kind: "focus", focus, hidden: store.nodes().length - taken.size, kept });
}

function overview(store, names, { opened }, sticky) {
  if (!sticky.ranks || sticky.count !== names.length || sticky.edges !== store.edges.size) {
    const links = [...store.edges.values()].map((edge) => ({ from: edge.caller, to: edge.service }));
    sticky.ranks = depths(names, links.filter((link) => link.from !== link.to));
    sticky.count = names.length;
    sticky.edges = store.edges.size;
  }
  const columns = [];
  for (const name of names) (columns[Math.min(sticky.ranks.get(name), COLUMNS - 1)] ??= []).push(name);
  const nodes = [];
  columns.forEach((column, rank) => {
    const before = column.filter((name) => sticky.shown.has(name)).length;
    let room = Math.max(0, EACH_COLUMN - before);
    for (const name of byTrouble(store, column)) {
      const isBad = healthOf(store, name) === health.FAILING;
      if (sticky.shown.has(name) || (!isBad && room <= 0)) continue;
      if (isBad && room <= 0 && column.filter((each) => sticky.shown.has(each)).length >= 2 * EACH_COLUMN) continue;
      sticky.shown.add(name);
      room -= 1;
    }
    const isOpen = opened.has(`g:column ${rank + 1}`);
    const rest = column.filter((name) => !isOpen && !sticky.shown.has(name));
    const kept = column.filter((name) => isOpen || sticky.shown.has(name));
    if (rest.length === 1) kept.push(rest.pop());
    nodes.push(...kept.map((name) => single(store, name, rank)));
    if (rest.length) nodes.push(group(`column ${rank + 1}`, `${rest.length} more services`, rest, rank));
  });
  return linked(store, nodes, { kind: "overview", hidden: names.length - nodes.filter((node) => !node.isGroup).length });
}

function byTrouble(store, names) {
  const load = (name) => {
    const row = store.services.get(name);
    return row?.signals?.per_s ?? row?.sessions?.opened_per_s ?? 0;
  };
  return [...names].sort(
    (a, b) => health.compare(healthOf(store, a), healthOf(store, b)) || load(b) - load(a) || (a < b ? -1 : 1),
  );
}

/** Adds the links: all calls between two nodes are one. */
function linked(store, nodes, { kept = () => true, ...rest }) {
  const of = new Map();
  for (const node of nodes) {
    for (const name of node.members) of.set(name, node);
    if (node.isGroup) node.health = worst(node.members.map((name) => healthOf(store, name)));
  }
  const links = new Map();
  for (const [key, edge] of store.edges) {
    const from = of.get(edge.caller);
    const to = of.get(edge.service);
    if (!from || !to || !kept(edge, key) || (from === to && from.isGroup)) continue;
    const id = `${from.id}\n${to.id}`;
    const link = links.get(id);
    if (link) link.edges.push(edge);
    else links.set(id, { id, from: from.id, to: to.id, edges: [edge], isQuiet: from.isGroup || to.isGroup });
  }
  for (const link of links.values()) summed(link);
  return { nodes, links: [...links.values()], ...rest };
}

function worst(all) {
  return all.reduce((left, right) => (health.compare(left, right) <= 0 ? left : right), health.IDLE);
}

/** Figures of a link from those of its calls; the latency is that of the slowest. */
function summed(link) {
  let requests = 0;
  let failures = 0;
  let perSecond = 0;
  let p95 = null;
  for (const { signals, sessions } of link.edges) {
    if (signals) {
      requests += signals.requests;
      failures += signals.failures;
      perSecond += signals.per_s;
      if (signals.p95_ms !== null) p95 = Math.max(p95 ?? 0, signals.p95_ms);
    }
    if (sessions) perSecond += sessions.opened_per_s;
  }
  link.perSecond = perSecond;
  link.success = requests ? 1 - failures / requests : null;
  link.p95 = p95;
  link.isTcp = link.edges.every((edge) => edge.sessions && !edge.signals);
  link.open = link.edges.reduce((sum, edge) => sum + (edge.sessions?.open ?? 0), 0);
  link.denied = link.edges.reduce((sum, edge) => sum + edge.denied, 0);
  link.health = worst(link.edges.map(health.ofEdge));
  const kinds = new Set(link.edges.map((edge) => edge.security));
  link.security = kinds.has("none") ? "none" : kinds.has("unknown") ? "unknown" : "mutual_tls";
}
