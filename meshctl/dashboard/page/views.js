// The views behind the tabs. Each has `root`, `show(store, query)` and a `count(store)` for its tab.

import { el, keyed, text } from "./dom.js";
import * as format from "./format.js";
import * as health from "./health.js";
import { edgeKey, shownName } from "./store.js";
import { Table } from "./table.js";

const toned = (is, words) => ({ text: words, sign: health.SIGN[is], tone: is });
const order = { failing: 0, troubled: 1, well: 2, idle: 3 };

function state(of) {
  return { label: "State", of: (row) => toned(of(row), of(row)), sort: (row) => order[of(row)] };
}

function number(label, shown, value) {
  return { label, isNumber: true, of: (row) => shown(value(row)), sort: (row) => value(row) };
}

const signals = [
  number("Rate", format.rate, (row) => row.signals?.per_s ?? null),
  number("Success", format.percent, (row) => row.signals?.success ?? null),
  number("p50", format.millis, (row) => row.signals?.p50_ms ?? null),
  number("p95", format.millis, (row) => row.signals?.p95_ms ?? null),
  number("p99", format.millis, (row) => row.signals?.p99_ms ?? null),
];

export function empty(title, why, ...commands) {
  return el("div", {}, el("h2", {}, title), el("p", {}, why), commands.length ? el("p", {}, commands.flatMap((command, place) => [place ? " or " : "", el("code", {}, command)])) : null);
}

const noTraffic = (what) => () =>
  empty(`No ${what} yet`, "Nothing was called since the proxies started, or they have not been asked yet. What goes through the mesh shows up here within seconds.", "meshctl status", "meshctl top --once");

class TableView {
  #slow;

  /** `topic`: a slow source whose age and failure are shown above the table; null: the live view. */
  constructor(options, rows, topic = null) {
    this.table = new Table(options);
    this.rows = rows;
    this.topic = topic;
    this.#slow = topic ? new Slow() : null;
    this.root = el("div", { class: "view" }, this.#slow?.root ?? null, this.table.root);
  }

  show(store, query) {
    this.#slow?.show(store.topics[this.topic]);
    const known = this.topic ? store.topics[this.topic]?.data : store.view;
    this.table.root.hidden = !known && this.topic !== null;
    if (known || !this.topic) this.table.show(known ? this.rows(store) : [], query);
  }

  count(store) {
    return store.view || this.topic ? this.rows(store).length : 0;
  }
}

/** Above what is asked less often: how old it is, and why it is not newer. */
export class Slow {
  constructor() {
    this.age = el("p", { class: "age" });
    this.problem = el("div", { class: "problem", role: "status", hidden: true });
    this.root = el("div", {}, this.problem, this.age);
  }

  show(told) {
    text(this.age, told?.at ? `As of ${format.clock(told.at)}, asked again in the background.` : told?.error ? "" : "Asking the hosts …");
    const error = told?.error;
    const words = error ? JSON.stringify(error) : "";
    if (this.words === words) return;
    this.words = words;
    this.problem.hidden = !error;
    if (!error) return;
    this.problem.replaceChildren(
      el("p", {}, el("strong", {}, "✕ "), error.message, told.at ? "; shown is what was known before" : ""),
      error.output ? el("pre", {}, error.output) : "",
      error.hint ? el("p", {}, "Next: ", el("code", {}, error.hint)) : "",
    );
  }
}

export function services(go) {
  return new TableView({
    caption: "Services", keyOf: (row) => row.service, words: (row) => `${row.service} ${row.protocol} ${health.ofService(row)}`,
    sortBy: 1, empty: noTraffic("services"),
    columns: [
      { label: "Service", of: (row) => shownName(row.service), open: (row) => go.service(row.service) },
      state(health.ofService),
      { label: "Protocol", of: (row) => row.protocol },
      ...signals,
      number("With retries", format.rate, (row) => (row.signals ? row.actual_per_s : null)),
      number("Sessions", (open) => (open === null ? format.NONE : `${open} open`), (row) => row.sessions?.open ?? null),
      number("Denied", (count) => (count ? String(count) : "0"), (row) => row.denied),
      { label: "Endpoints", isNumber: true, of: (row) => (row.endpoints ? `${row.available} of ${row.endpoints}` : format.NONE), sort: (row) => (row.endpoints ? row.available / row.endpoints : null) },
    ],
  }, (store) => [...store.services.values()]);
}

export function edges(go) {
  return new TableView({
    caption: "Calls", keyOf: edgeKey, words: (row) => `${shownName(row.caller)} ${row.service} ${row.protocol} ${row.security} ${health.ofEdge(row)}`,
    sortBy: 2, empty: noTraffic("calls"),
    columns: [
      { label: "Caller", of: (row) => shownName(row.caller), open: (row) => go.edge(row.caller, row.service) },
      { label: "Called", of: (row) => shownName(row.service), open: (row) => go.service(row.service) },
      state(health.ofEdge),
      { label: "Security", of: (row) => ({ text: health.security(row).word, icon: row.security, title: health.security(row).long, tone: row.security === "none" ? health.TROUBLED : null }) },
      ...signals,
      number("Retries", format.rate, (row) => row.retries_per_s),
      number("Sessions", (open) => (open === null ? format.NONE : `${open} open`), (row) => row.sessions?.open ?? null),
      number("Denied", (count) => String(count ?? 0), (row) => row.denied),
    ],
  }, (store) => [...store.edges.values()]);
}

export function routes(go) {
  return new TableView({
    caption: "Routes", keyOf: (row) => JSON.stringify([row.caller, row.service, row.route]),
    words: (row) => `${row.caller} ${row.service} ${row.route}`, sortBy: 3, empty: noTraffic("routes"),
    columns: [
      { label: "Service", of: (row) => row.service, open: (row) => go.service(row.service) },
      { label: "Route", of: (row) => (row.route === "-" ? { text: "none matched", title: "no route matched: the service itself was called" } : row.route) },
      { label: "Caller", of: (row) => shownName(row.caller), open: (row) => go.edge(row.caller, row.service) },
      state((row) => health.ofSignals(row.signals)),
      ...signals,
    ],
  }, (store) => store.view.routes);
}

function endpointState(row) {
  if (row.ejected_for_s) return `${row.state}, ${format.span(row.ejected_for_s)} more`;
  const is = health.ofEndpoint(row);
  return row.state === "available" && (is === health.FAILING || is === health.TROUBLED) ? `available, ${is}` : row.state;
}

export function endpoints(go) {
  return new TableView({
    caption: "Endpoints, as each caller's proxy sees them",
    keyOf: (row) => JSON.stringify([row.caller, row.caller_host, row.service, row.host, row.address, row.version]),
    words: (row) => `${row.service} ${row.host} ${row.address} ${row.version} ${row.zone} ${row.caller} ${row.caller_host} ${row.state} ${row.why}`,
    sortBy: 2, empty: noTraffic("endpoints"),
    columns: [
      { label: "Service", of: (row) => row.service, open: (row) => go.service(row.service) },
      { label: "Host", of: (row) => ({ text: row.host, title: [row.address, row.version, row.zone].filter(Boolean).join(", ") }) },
      {
        label: "State", sort: (row) => order[health.ofEndpoint(row)],
        of: (row) => toned(health.ofEndpoint(row), endpointState(row)),
      },
      { label: "Why", of: (row) => row.why || format.NONE },
      { label: "Seen by", of: (row) => `${shownName(row.caller)} on ${row.caller_host}`, open: (row) => go.edge(row.caller, row.service) },
      ...signals.slice(0, 2), signals[3],
      number("In flight", String, (row) => row.in_flight),
      number("EWMA", format.millis, (row) => row.ewma_ms),
    ],
  }, (store) => store.view.endpoints);
}

function generationOf(row) {
  return row.status?.generation ?? (row.live?.fault ? null : (row.live?.generation ?? null));
}

export function hosts() {
  const merged = (store) => {
    const known = new Map((store.topics.status?.data?.hosts ?? []).map((row) => [row.host, row]));
    const seen = new Map((store.view?.hosts ?? []).map((row) => [row.host, row]));
    const published = store.topics.status?.data?.generation ?? null;
    const findings = store.topics.status?.data?.findings ?? [];
    return [...new Set([...known.keys(), ...seen.keys()])].sort().map((host) => ({
      host, status: known.get(host) ?? null, live: seen.get(host) ?? null, published,
      findings: findings.filter((each) => each.subject === host || each.subject.endsWith(` on ${host}`)),
    }));
  };
  const is = (row) => {
    if (row.live?.fault || row.findings.some((each) => each.severity === "problem")) return health.FAILING;
    if (row.findings.length) return health.TROUBLED;
    return row.status || row.live ? health.WELL : health.IDLE;
  };
  const view = new TableView({
    caption: "Hosts", keyOf: (row) => row.host, words: (row) => `${row.host} ${row.status?.address ?? ""} ${is(row)} ${row.status?.state ?? ""}`,
    sortBy: 1, empty: () => empty("No hosts", "The inventory has no host, or nothing was asked yet.", "meshctl status"),
    columns: [
      { label: "Host", of: (row) => ({ text: row.host, title: row.status?.address ?? "" }) },
      { label: "State", of: (row) => toned(is(row), row.live?.fault ? "does not answer" : (row.status?.state ?? "answers")), sort: (row) => order[is(row)] },
      { label: "What is wrong", of: (row) => row.findings.map((each) => each.message).join("; ") || row.live?.fault || "nothing" },
      { label: "What to do", of: (row) => row.findings[0]?.fix || (row.live?.fault ? "meshctl status" : format.NONE) },
      {
        label: "Policy", sort: generationOf,
        of: (row) => {
          const runs = generationOf(row);
          if (runs === null) return format.NONE;
          return row.published !== null && runs !== row.published ? toned(health.TROUBLED, `${runs}, published is ${row.published}`) : `generation ${runs}`;
        },
      },
      { label: "Consul", of: (row) => row.status?.consul || format.NONE },
      { label: "Version", of: (row) => row.live?.version || row.status?.version || format.NONE },
      number("Up for", (value) => (value === null ? format.NONE : format.span(value)), (row) => row.live?.uptime_s || null),
      number("Loop lag", format.millis, (row) => (row.live && !row.live.fault ? row.live.loop_lag_ms : null)),
    ],
  }, merged, "status");
  // The live view has hosts too, before the slower status is there.
  view.show = function show(store, query) {
    TableView.prototype.show.call(this, store, query);
    this.table.root.hidden = false;
    this.table.show(merged(store), query);
  };
  return view;
}

const SOON_S = 7 * 86400;

export function certificates(go) {
  const now = () => Date.now() / 1000;
  const rows = (store) => (store.topics.status?.data?.workloads ?? []).map((row) => ({ ...row, end: format.seconds(row.not_after) }));
  const is = (row) => {
    if (row.end === null || row.end <= now()) return health.FAILING;
    if (row.renewal_error || (!row.is_renewed && row.end - now() < SOON_S)) return health.TROUBLED;
    return health.WELL;
  };
  const word = (row) => {
    if (row.end === null) return "none, or not known";
    if (row.end <= now()) return "expired";
    return row.renewal_error ? "renewal fails" : is(row) === health.TROUBLED ? "due soon" : "valid";
  };
  return new TableView({
    caption: "Certificates of workloads", keyOf: (row) => `${row.service}\n${row.host}`,
    words: (row) => `${row.service} ${row.host} ${row.spiffe_id} ${row.serial} ${word(row)}`, sortBy: 3,
    empty: () => empty("No workload has a certificate yet", "Each service of the inventory gets one with the first deploy.", "meshctl deploy"),
    columns: [
      { label: "Service", of: (row) => row.service, open: (row) => go.service(row.service) },
      { label: "Host", of: (row) => row.host },
      { label: "State", of: (row) => toned(is(row), word(row)), sort: (row) => order[is(row)] },
      { label: "Ends", of: (row) => (row.end === null ? format.NONE : { text: `${format.relative(row.end, now())}, ${format.moment(row.end)}` }), sort: (row) => row.end },
      { label: "Renewed", of: (row) => renewed(row, now()) },
      { label: "Identity", of: (row) => row.spiffe_id },
      { label: "Serial", of: (row) => (row.serial ? { text: `${row.serial.slice(0, 8)}…`, title: row.serial } : format.NONE) },
    ],
  }, rows, "status");
}

function renewed(row, now) {
  if (row.renewal_error) return toned(health.TROUBLED, row.renewal_error);
  const at = format.seconds(row.renews_at);
  return at === null ? "by meshctl certs rotate" : `by its proxy, ${format.relative(at, now)}`;
}

export function denials(go) {
  const sums = new TableView({
    caption: "Denied calls by policy", keyOf: (row) => JSON.stringify([row.caller, row.service, row.policy]),
    words: (row) => `${row.caller} ${row.service} ${row.policy} ${row.why}`, sortBy: 5, isDown: true,
    empty: () => empty("Nothing was denied", "No call was refused by policy since the dashboard was started.", "meshctl explain SRC DST"),
    columns: [
      { label: "Caller", of: (row) => shownName(row.caller), open: (row) => go.edge(row.caller, row.service) },
      { label: "Called", of: (row) => row.service, open: (row) => go.service(row.service) },
      { label: "Why", of: (row) => row.why || "by a policy that is not at hand" },
      { label: "Written at", of: (row) => row.at || format.NONE },
      { label: "Policy", of: (row) => row.policy },
      number("Times", String, (row) => row.count),
      number("Last", (at) => (at ? `${format.span(Date.now() / 1000 - at)} ago` : format.NONE), (row) => row.last_at),
    ],
  }, (store) => store.topics.denials?.data?.rows ?? [], "denials");
  const calls = new Table({
    caption: "The last denied requests", keyOf: (row) => JSON.stringify([row.id, row.ended_at, row.host]),
    words: (row) => Object.values(row).join(" "), sortBy: 0, isDown: true,
    empty: () => el("p", {}, "The proxies remember no denied request."),
    columns: [
      { label: "Ended", of: (row) => row.ended_at.slice(11, 23) },
      { label: "Caller", of: (row) => shownName(row.caller) },
      { label: "Called", of: (row) => row.service },
      { label: "Request", of: (row) => `${row.method} ${row.path}` },
      { label: "Why", of: (row) => row.why || row.policy },
      { label: "Request id", of: (row) => row.id },
    ],
  });
  const title = el("h2", {}, "The last denied requests");
  const root = el("div", {}, sums.root, title, calls.root);
  return {
    root, topic: "denials", count: (store) => sums.rows(store).length,
    show(store, query) {
      sums.show(store, query);
      const recent = store.topics.denials?.data?.recent;
      const isThere = Boolean(recent?.length);
      title.hidden = calls.root.hidden = !isThere;
      if (isThere) calls.show(recent, query);
    },
  };
}

/** What was published, what each changed, and the difference of any two. */
export class History {
  topic = "history";
  #shown = "";

  constructor() {
    this.slow = new Slow();
    this.list = el("ol", { class: "history" });
    this.none = empty("Nothing is published yet", "The history begins with the first deploy.", "meshctl deploy", "meshctl apply");
    this.from = el("select", { id: "history-from" });
    this.to = el("select", { id: "history-to" });
    this.result = el("div", { role: "status" });
    this.form = el("div", { class: "compare" },
      el("label", { for: "history-from" }, "Compare"), this.from, el("label", { for: "history-to" }, "with"), this.to,
      el("button", { type: "button", on: { click: () => this.#compare() } }, "Show the difference"));
    this.root = el("div", { class: "view" }, this.slow.root, this.form, this.result, this.list, this.none);
  }

  count(store) {
    return store.topics.history?.data?.entries.length ?? 0;
  }

  show(store, query) {
    const told = store.topics.history;
    this.slow.show(told);
    const entries = told?.data?.entries ?? [];
    this.none.hidden = !told?.data || entries.length > 0;
    this.form.hidden = entries.length < 2;
    const numbers = entries.map((entry) => entry.generation);
    if (JSON.stringify(numbers) !== this.#shown) {
      this.#shown = JSON.stringify(numbers);
      this.#choices(numbers);
    }
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const found = entries.filter((entry) => words.every((word) => JSON.stringify(entry).toLowerCase().includes(word)));
    keyed(this.list, found, (entry) => entry.generation, makeEntry, (node, entry) => drawEntry(node, entry, entry === entries[0]));
  }

  #choices(numbers) {
    [this.from, this.to].forEach((select, place) => {
      const chosen = select.value;
      select.replaceChildren(...numbers.map((number) => el("option", { value: number }, `generation ${number}`)));
      select.value = numbers.map(String).includes(chosen) ? chosen : String(numbers[place ? 0 : Math.min(1, numbers.length - 1)] ?? "");
    });
  }

  async #compare() {
    const query = new URLSearchParams({ from: this.from.value, to: this.to.value });
    try {
      const answer = await fetch(`/ask/difference?${query}`, { signal: AbortSignal.timeout(10_000) });
      const told = await answer.json();
      if (!answer.ok) throw new Error(told.error.message);
      this.result.replaceChildren(
        el("h3", {}, `From generation ${query.get("from")} to ${query.get("to")}`),
        changes(told.changes), affected(told),
      );
    } catch (error) {
      this.result.replaceChildren(el("p", { class: "problem" }, `The difference cannot be shown: ${error.message}`));
    }
  }
}

function makeEntry() {
  const made = el("li", {});
  made.head = el("h3", {});
  made.by = el("p", { class: "age" });
  made.what = el("div", {});
  made.append(made.head, made.by, made.what);
  return made;
}

function drawEntry(made, entry, isNewest) {
  text(made.head, `Generation ${entry.generation}${isNewest ? " – in force" : ""}`);
  const at = format.seconds(entry.published_at);
  text(made.by, [at === null ? "" : `${format.moment(at)}, ${format.relative(at, Date.now() / 1000)}`, entry.by && `by ${entry.by}`, entry.why].filter(Boolean).join(" · "));
  const words = JSON.stringify(entry.changes);
  if (made.words === words) return;
  made.words = words;
  made.what.replaceChildren(changes(entry.changes), affected(entry));
}

function changes(rows) {
  if (!rows.length) return el("p", {}, "No setting differs.");
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Changed settings" }, el("table", { class: "changes" },
    el("thead", {}, el("tr", {}, ["Setting", "Before", "After"].map((word) => el("th", { scope: "col" }, word)))),
    el("tbody", {}, rows.map((row) => el("tr", {},
      el("th", { scope: "row" }, row.path),
      el("td", { "data-change": row.before ? "out" : null }, row.before ? `− ${row.before}` : "not set"),
      el("td", { "data-change": row.after ? "in" : null }, row.after ? `+ ${row.after}` : "not set"))))));
}

function affected(told) {
  const words = [["services", told.services], ["hosts", told.hosts]].filter(([, names]) => names?.length)
    .map(([what, names]) => `${what}: ${names.slice(0, 12).join(", ")}${names.length > 12 ? ` and ${names.length - 12} more` : ""}`);
  return words.length ? el("p", { class: "age" }, `Felt by ${words.join("; ")}`) : el("span", {});
}

