// What is known, by topic, and what the operator has chosen to see. One place; the views only read.

export class Store {
  /** topic -> {at, error, data} */
  topics = {};
  view = null;
  /** Services and edges that were seen since the page was opened. One that falls silent stays where
   *  it is: a graph whose nodes come and go cannot be read. */
  #services = new Map();
  #edges = new Map();
  byCaller = new Map();
  byService = new Map();

  tell(topic, told) {
    this.topics[topic] = told;
    if (topic === "view" && told.data) this.#look(told.data);
  }

  get services() {
    return this.#services;
  }

  get edges() {
    return this.#edges;
  }

  #look(view) {
    this.view = view;
    const services = new Map(view.services.map((row) => [row.service, row]));
    const edges = new Map(view.edges.map((edge) => [edgeKey(edge), edge]));
    for (const [name, row] of this.#services) if (!services.has(name)) services.set(name, silent(row));
    for (const [key, edge] of this.#edges) if (!edges.has(key)) edges.set(key, silent(edge));
    this.#services = bounded(services);
    this.#edges = bounded(edges);
    this.byCaller = grouped(this.#edges, "caller");
    this.byService = grouped(this.#edges, "service");
  }

  /** Nodes: services, and whoever calls without being one (a client outside the mesh). */
  nodes() {
    const names = new Set(this.#services.keys());
    for (const edge of this.#edges.values()) names.add(edge.caller).add(edge.service);
    return [...names].sort();
  }
}

const MAX = 4000;

export function edgeKey(edge) {
  return JSON.stringify([edge.caller, edge.service, edge.protocol]);
}

function silent(row) {
  return { ...row, signals: null, sessions: null, actual_per_s: 0, denied: 0, codes: {}, flags: {},
    retries_per_s: 0, request_bytes_per_s: 0, response_bytes_per_s: 0, isGone: true };
}

function bounded(map) {
  if (map.size <= MAX) return map;
  return new Map([...map].filter(([, row]) => !row.isGone).slice(0, MAX));
}

function grouped(edges, field) {
  const groups = new Map();
  for (const edge of edges.values()) {
    const group = groups.get(edge[field]);
    if (group) group.push(edge);
    else groups.set(edge[field], [edge]);
  }
  return groups;
}

export const OUTSIDE = "unknown";

export function shownName(name) {
  return name === OUTSIDE ? "outside the mesh" : name;
}
