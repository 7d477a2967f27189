// What the figures mean, in four words. A word has a sign of its own and a colour of its own: any
// one of the three is enough.

export const FAILING = "failing";
export const TROUBLED = "troubled";
export const WELL = "well";
export const IDLE = "idle";

export const SIGN = { [FAILING]: "✕", [TROUBLED]: "▲", [WELL]: "✓", [IDLE]: "○" };
const ORDER = { [FAILING]: 0, [TROUBLED]: 1, [WELL]: 2, [IDLE]: 3 };

// One in twenty is what users notice; one in a hundred is what an operator should.
const FAILING_BELOW = 0.95;
const TROUBLED_BELOW = 0.99;

export function compare(left, right) {
  return ORDER[left] - ORDER[right];
}

export function ofSignals(signals) {
  if (!signals || !signals.requests || signals.success === null) return IDLE;
  if (signals.success < FAILING_BELOW) return FAILING;
  return signals.success < TROUBLED_BELOW ? TROUBLED : WELL;
}

function ofSessions(sessions) {
  if (!sessions || (!sessions.open && !sessions.opened_per_s)) return IDLE;
  return sessions.failures ? TROUBLED : WELL;
}

export function ofEdge(edge) {
  const own = edge.signals ? ofSignals(edge.signals) : ofSessions(edge.sessions);
  return own !== FAILING && edge.denied ? TROUBLED : own;
}

export function ofService(row) {
  if (row.endpoints && !row.available) return FAILING;
  const own = row.signals ? ofSignals(row.signals) : ofSessions(row.sessions);
  const isShort = row.available < row.endpoints;
  return own !== FAILING && (row.denied || isShort) ? TROUBLED : own;
}

/** Why a service is not well, in sentences; none if it is. */
export function reasons(row) {
  const told = [];
  if (row.endpoints && !row.available) told.push("No endpoint of it is used by every caller.");
  else if (row.available < row.endpoints) {
    told.push(`Only ${row.available} of ${row.endpoints} endpoints ${row.available === 1 ? "is" : "are"} used by every caller.`);
  }
  if (row.signals && row.signals.failures) {
    told.push(`${row.signals.failures} of the last ${row.signals.requests} requests failed.`);
  }
  if (row.sessions && row.sessions.failures) told.push(`${row.sessions.failures} sessions ended with a failure.`);
  if (row.denied) told.push(`${row.denied} calls were denied by policy.`);
  return told;
}

export function ofEndpoint(row) {
  if (row.state === "available") return row.signals ? ofSignals(row.signals) : IDLE;
  return row.state === "ejected" || row.state === "failing" ? FAILING : TROUBLED;
}

export const SECURITY = {
  mutual_tls: { word: "mTLS", long: "both sides proved who they are (mTLS)" },
  none: { word: "plaintext", long: "plaintext: not encrypted, nobody proved who they are" },
  unknown: { word: "unknown", long: "security unknown: nobody in the mesh reports it" },
};

export function security(edge) {
  return SECURITY[edge.security] ?? SECURITY.unknown;
}
