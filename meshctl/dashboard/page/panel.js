// The side panel: one service, one call, or one group of services, with all that is known of it.

import { attribute, el, keyed, text } from "./dom.js";
import { Chart } from "./chart.js";
import * as format from "./format.js";
import * as health from "./health.js";
import { securityIcon, turnInto } from "./icons.js";
import { shownName } from "./store.js";

const REFRESH_S = 10; // the whole past is asked for anew; between that, points are added
const MOST_ROWS = 60;

export class Panel {
  #subject = null;
  #past = null;
  #asked = 0;
  #from = null;

  /** `go`: `{service(name), edge(caller, service), focus(name), close()}`. */
  constructor(root, store, go) {
    Object.assign(this, { root, store, go });
    root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") {
        event.stopPropagation();
        go.close();
      }
    });
  }

  get subject() {
    return this.#subject;
  }

  /** `subject`: `{service}`, `{caller, service}`, `{group, members}` or null to close. */
  open(subject, isFocused) {
    const isSame = JSON.stringify(subject) === JSON.stringify(this.#subject);
    if (!subject) {
      const from = this.#from;
      this.#subject = null;
      this.root.hidden = true;
      if (from?.isConnected && this.root.contains(document.activeElement)) from.focus({ preventScroll: true });
      return;
    }
    if (!isSame) {
      if (!this.root.contains(document.activeElement)) this.#from = document.activeElement;
      this.#subject = subject;
      this.#past = null;
      this.#asked = 0;
      this.#build();
    }
    this.root.hidden = false;
    this.show();
    if (isFocused) this.title.focus({ preventScroll: true });
  }

  show() {
    if (!this.#subject || this.root.hidden) return;
    if (this.#subject.members) this.#showGroup();
    else if (this.#subject.caller) this.#showEdge();
    else this.#showService();
  }

  #build() {
    this.title = el("h2", { tabindex: -1 });
    this.state = el("p", { class: "state" });
    this.reasons = el("ul", { class: "reasons" });
    this.actions = el("div", { class: "actions" });
    this.facts = el("dl", { class: "facts" });
    this.charts = [
      new Chart("Requests", format.rate),
      new Chart("Success", format.percent, { least: 0.9, most: 1 }),
      new Chart("p95", format.millis),
    ];
    this.figures = el("div", { class: "charts" }, this.charts.map((chart) => chart.root));
    this.sections = el("div", { class: "sections" });
    this.root.replaceChildren(
      el("div", { class: "panel-head" }, this.title, el("button", { type: "button", class: "close", "aria-label": "Close details", title: "Close (Esc)", on: { click: () => this.go.close() } }, "✕")),
      this.state, this.reasons, this.actions, this.facts, this.figures, this.sections,
    );
    if (!this.#subject.members) this.#ask();
  }

  async #ask() {
    const subject = this.#subject;
    this.#asked = Date.now();
    try {
      const query = new URLSearchParams({ caller: subject.caller ?? "", service: subject.service });
      const answer = await fetch(`/ask/past?${query}`, { signal: AbortSignal.timeout(5000) });
      if (answer.ok && subject === this.#subject) {
        this.#past = await answer.json();
        this.#drawCharts();
      }
    } catch {
      // the page says elsewhere that the dashboard does not answer
    }
  }

  #drawCharts() {
    if (!this.#past) return;
    [this.#past.per_s, this.#past.success, this.#past.p95_ms].forEach((values, place) => {
      this.charts[place].show(this.#past.at, values);
    });
  }

  #grow(signals, sessions) {
    if (Date.now() - this.#asked > REFRESH_S * 1000) this.#ask();
    const past = this.#past;
    const at = this.store.view?.at;
    if (!past || !at || at <= (past.at.at(-1) ?? 0)) return;
    past.at.push(at);
    past.per_s.push(signals?.per_s ?? sessions?.opened_per_s ?? 0);
    past.success.push(signals?.success ?? null);
    past.p95_ms.push(signals?.p95_ms ?? null);
    this.#drawCharts();
  }

  #head(title, state, sign, sentence, reasons) {
    text(this.title, title);
    text(this.state, `${sign} ${sentence}`);
    attribute(this.state, "data-tone", state);
    keyed(this.reasons, reasons, (reason) => reason, () => el("li", {}), (node, reason) => text(node, reason));
    this.reasons.hidden = !reasons.length;
  }

  #facts(rows) {
    keyed(
      this.facts,
      rows.filter((row) => row[1] !== null),
      (row) => row[0],
      (row) => el("div", {}, el("dt", {}, row[0]), el("dd", {})),
      (node, row) => text(node.lastChild, row[1]),
    );
  }

  #action(label, act) {
    if (this.actions.childElementCount) return;
    this.actions.append(el("button", { type: "button", on: { click: act } }, label));
  }

  #showService() {
    const name = this.#subject.service;
    const row = this.store.services.get(name);
    const callers = this.store.byService.get(name) ?? [];
    const called = this.store.byCaller.get(name) ?? [];
    const is = row ? health.ofService(row) : health.IDLE;
    const word = row ? (row.isGone || is === health.IDLE ? "no traffic now" : is) : "calls, and is not called";
    this.#head(shownName(name), is, health.SIGN[is], word, row ? health.reasons(row) : []);
    this.#action("Show its neighbourhood", () => this.go.focus(name));
    this.#facts([...ofSignals(row?.signals), ...ofSessions(row?.sessions), ...load(row)]);
    this.figures.hidden = !row;
    this.#grow(row?.signals, row?.sessions);
    this.#sections([
      this.#calls("Called by", callers, (edge) => edge.caller),
      this.#calls("Calls", called, (edge) => edge.service),
      this.#endpoints((each) => each.service === name),
      this.#routes((each) => each.service === name),
      ...this.#counts(callers),
      this.#denials((each) => each.service === name),
    ]);
  }

  #showEdge() {
    const { caller, service } = this.#subject;
    const edges = (this.store.byCaller.get(caller) ?? []).filter((edge) => edge.service === service);
    const edge = edges[0];
    if (!edge) {
      this.#head(`${shownName(caller)} → ${shownName(service)}`, health.IDLE, health.SIGN.idle, "no calls seen since the page was opened", []);
      return;
    }
    const is = health.ofEdge(edge);
    const security = health.security(edge);
    this.#head(`${shownName(caller)} → ${shownName(service)}`, is, health.SIGN[is], is === health.IDLE ? "no traffic now" : is, edgeReasons(edge));
    this.#facts([
      ["Security", security.long],
      ...ofSignals(edge.signals),
      ...ofSessions(edge.sessions),
      ["With retries", edge.retries_per_s ? `${format.rate(edge.actual_per_s)} (${format.rate(edge.retries_per_s)} are retries)` : null],
      ["Bodies", edge.signals ? `${format.bytes(edge.request_bytes_per_s)} there, ${format.bytes(edge.response_bytes_per_s)} back` : null],
      ["Seen by", seenBy(edge)],
    ]);
    this.#grow(edge.signals, edge.sessions);
    this.#sections([
      ...this.#counts(edges),
      this.#routes((each) => each.service === service && each.caller === caller),
      this.#endpoints((each) => each.service === service && each.caller === caller),
      this.#denials((each) => each.service === service && each.caller === caller),
      this.#both(caller, service),
    ]);
  }

  #showGroup() {
    const { group, members } = this.#subject;
    this.#head(group, health.WELL, "⋯", format.plural(members.length, "service"), []);
    this.figures.hidden = true;
    this.#action("Show them in the graph", () => this.go.unfold(this.#subject.id));
    const rows = members
      .map((name) => ({ name, row: this.store.services.get(name) }))
      .sort((a, b) => (a.name < b.name ? -1 : 1));
    this.#sections([{
      title: "Services",
      rows: rows.map(({ name, row }) => {
        const is = row ? health.ofService(row) : health.IDLE;
        return { key: name, label: shownName(name), tone: is, sign: health.SIGN[is], value: row ? serviceLine(row) : "", act: () => this.go.service(name) };
      }),
    }]);
  }

  #calls(title, edges, nameOf) {
    return {
      title: `${title} (${edges.length})`, id: title,
      rows: [...edges].sort((a, b) => health.compare(health.ofEdge(a), health.ofEdge(b)) || (nameOf(a) < nameOf(b) ? -1 : 1)).map((edge) => {
        const is = health.ofEdge(edge);
        const security = health.security(edge);
        return {
          key: `${edge.caller}\n${edge.service}\n${edge.protocol}`, label: shownName(nameOf(edge)), tone: is, sign: health.SIGN[is],
          value: edgeLine(edge), security: edge.security, title: security.long,
          act: () => this.go.edge(edge.caller, edge.service),
        };
      }),
    };
  }

  #routes(fits) {
    const rows = (this.store.view?.routes ?? []).filter(fits);
    return { title: `Routes (${rows.length})`, id: "Routes", rows: rows.map((each) => {
      const is = health.ofSignals(each.signals);
      return { key: `${each.caller}\n${each.service}\n${each.route}`, label: `${each.route === "-" ? "no route matched" : each.route} (from ${shownName(each.caller)})`, tone: is, sign: health.SIGN[is], value: signalLine(each.signals) };
    }) };
  }

  #endpoints(fits) {
    const rows = (this.store.view?.endpoints ?? []).filter(fits);
    return { title: `Endpoints (${rows.length})`, id: "Endpoints", rows: rows.map((each) => {
      const is = health.ofEndpoint(each);
      const left = each.ejected_for_s ? `, ${format.span(each.ejected_for_s)} more` : "";
      const why = each.why ? `${each.why}` : "";
      return {
        key: JSON.stringify([each.caller, each.caller_host, each.host, each.address, each.version]), tone: is, sign: health.SIGN[is],
        label: `${each.host} as ${shownName(each.caller)} on ${each.caller_host} sees it`, value: `${each.state}${left}${each.signals ? `, ${signalLine(each.signals)}` : ""}`, note: why,
      };
    }) };
  }

  #counts(edges) {
    const sum = (field) => {
      const all = new Map();
      for (const edge of edges) for (const [key, count] of Object.entries(edge[field])) all.set(key, (all.get(key) ?? 0) + count);
      return [...all].sort();
    };
    const meaning = this.store.topics.mesh?.data?.flags ?? {};
    return [
      { title: "Answers by status", id: "codes", rows: sum("codes").map(([code, count]) => ({
        key: code, label: code === "0" ? "no answer was sent" : code, value: String(count), tone: code >= "500" || code === "0" ? health.FAILING : null, sign: code >= "500" || code === "0" ? "✕" : "",
      })) },
      { title: "Of these, answered or cut by a proxy", id: "flags", rows: sum("flags").map(([flag, count]) => ({
        key: flag, label: flag, value: String(count), note: meaning[flag] ?? "", tone: health.TROUBLED, sign: "▲",
      })) },
    ];
  }

  #denials(fits) {
    const rows = (this.store.topics.denials?.data?.rows ?? []).filter(fits);
    return { title: "Denied", id: "denied", rows: rows.map((each) => ({
      key: `${each.caller}\n${each.policy}`, label: `${shownName(each.caller)}, policy ${each.policy}`, value: `${each.count}`, note: [each.why, each.at].filter(Boolean).join(" – "), tone: health.TROUBLED, sign: "▲",
    })) };
  }

  #both(caller, service) {
    return { title: "Both sides", id: "both", rows: [caller, service].map((name) => ({ key: name, label: shownName(name), value: "", act: () => this.go.service(name) })) };
  }

  #sections(sections) {
    keyed(this.sections, sections.filter((each) => each.rows.length), (each) => each.id ?? each.title, makeSection, drawSection);
  }
}

function makeSection() {
  const made = el("section", {});
  made.heading = el("h3", {});
  made.list = el("ul", { class: "rows" });
  made.rest = el("p", { class: "rest" });
  made.append(made.heading, made.list, made.rest);
  return made;
}

function drawSection(made, section) {
  text(made.heading, section.title);
  keyed(made.list, section.rows.slice(0, MOST_ROWS), (row) => row.key, makeRow, drawRow);
  const rest = section.rows.length - MOST_ROWS;
  text(made.rest, rest > 0 ? `and ${rest} more: see the table` : "");
}

function makeRow(row) {
  const made = el("li", {});
  made.sign = el("span", { class: "sign", "aria-hidden": "true" });
  made.label = row.act ? el("button", { type: "button", class: "open", on: { click: () => made.row.act() } }) : el("span", {});
  made.figure = el("span", {});
  made.note = el("span", { class: "note" });
  made.icon = row.security ? securityIcon(row.security) : null;
  made.append(el("span", { class: "label" }, made.sign, made.label), el("span", { class: "value" }, made.icon, made.figure), made.note);
  return made;
}

function drawRow(made, row) {
  made.row = row;
  attribute(made, "data-tone", row.tone ?? null);
  attribute(made, "title", row.title ?? null);
  text(made.sign, row.sign ? `${row.sign} ` : "");
  text(made.label, row.label);
  text(made.figure, row.value);
  if (made.icon) turnInto(made.icon, row.security);
  text(made.note, row.note ?? "");
}

function ofSignals(signals) {
  if (!signals) return [];
  return [
    ["Requests", format.rate(signals.per_s)],
    ["Success", format.percent(signals.success)],
    ["p50 / p95 / p99", `${format.millis(signals.p50_ms)} / ${format.millis(signals.p95_ms)} / ${format.millis(signals.p99_ms)}`],
  ];
}

function ofSessions(sessions) {
  if (!sessions) return [];
  return [
    ["Sessions", `${sessions.open} open, ${format.rate(sessions.opened_per_s)} new`],
    ["Bytes", `${format.bytes(sessions.received_bytes_per_s)} there, ${format.bytes(sessions.sent_bytes_per_s)} back`],
  ];
}

function load(row) {
  if (!row) return [];
  const effective = row.signals?.per_s ?? 0;
  const extra = row.actual_per_s - effective;
  return [
    ["With retries", row.signals && extra > 0.005 ? `${format.rate(row.actual_per_s)} (+${format.percent(extra / (effective || row.actual_per_s))})` : null],
    ["Endpoints", row.endpoints ? `${row.available} of ${row.endpoints} available` : null],
  ];
}

function edgeReasons(edge) {
  const told = [];
  if (edge.signals?.failures) told.push(`${edge.signals.failures} of the last ${edge.signals.requests} requests failed.`);
  if (edge.sessions?.failures) told.push(`${edge.sessions.failures} sessions ended with a failure.`);
  if (edge.denied) told.push(`${edge.denied} calls were denied by policy.`);
  if (edge.security === "none") told.push("The call is not encrypted.");
  return told;
}

function seenBy(edge) {
  if (edge.seen_by.length > 1) return "both proxies";
  return edge.seen_by[0] === "source" ? "the caller's proxy only" : "the called proxy only";
}

export function signalLine(signals) {
  if (!signals) return "no traffic";
  return `${format.rate(signals.per_s)} · ${format.percent(signals.success)} · ${format.millis(signals.p95_ms)}`;
}

export function edgeLine(edge) {
  if (edge.signals) return signalLine(edge.signals);
  if (edge.sessions) return `${edge.sessions.open} open`;
  return edge.denied ? `${edge.denied} denied` : "no traffic";
}

function serviceLine(row) {
  if (row.signals) return signalLine(row.signals);
  return row.sessions ? `${row.sessions.open} open` : "no traffic";
}
