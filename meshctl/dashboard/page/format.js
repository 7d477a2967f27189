// Figures and moments as people read them. What was not measured is a dash, never a zero.

export const NONE = "–";
const SPACE = "\u202f"; // a narrow one that does not break

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return NONE;
  return `${figure(perSecond)}/s`;
}

export function figure(value) {
  if (value === null || value === undefined) return NONE;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size >= 999_500) return `${(value / 1e6).toFixed(1)}M`;
  if (size >= 9_950) return `${(value / 1e3).toFixed(size >= 99_500 ? 0 : 1)}k`;
  if (size >= 99.5) return value.toFixed(0);
  if (size >= 0.995) return value.toFixed(1);
  if (size < 0.01) return "<0.01";
  return value.toFixed(2);
}

/** Rounded down: what fails is never shown as 100 %. */
export function percent(share) {
  if (share === null || share === undefined) return NONE;
  if (share >= 1) return `100${SPACE}%`;
  const value = share * 100;
  const digits = value >= 99 ? 2 : 1;
  const scale = 10 ** digits;
  return `${(Math.floor(value * scale) / scale).toFixed(digits)}${SPACE}%`;
}

export function millis(ms) {
  if (ms === null || ms === undefined) return NONE;
  if (ms >= 9_995) return `${(ms / 1000).toFixed(1)}${SPACE}s`;
  if (ms >= 99.5) return `${ms.toFixed(0)}${SPACE}ms`;
  return `${ms < 9.95 ? ms.toFixed(1) : ms.toFixed(0)}${SPACE}ms`;
}

export function bytes(perSecond) {
  if (perSecond === null || perSecond === undefined) return NONE;
  let value = perSecond;
  for (const unit of ["B/s", "KiB/s", "MiB/s", "GiB/s"]) {
    if (value < 999.5 || unit === "GiB/s") {
      return `${value >= 99.5 || unit === "B/s" ? value.toFixed(0) : value.toFixed(1)}${SPACE}${unit}`;
    }
    value /= 1024;
  }
  return NONE;
}

export function span(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (whole >= 2 * length) return `${Math.floor(whole / length)}${SPACE}${unit}`;
  }
  return `${whole}${SPACE}s`;
}

/** `in 29 d`, `4 d ago`. */
export function relative(atSeconds, nowSeconds) {
  const left = atSeconds - nowSeconds;
  return left >= 0 ? `in ${span(left)}` : `${span(-left)} ago`;
}

export function clock(atSeconds) {
  return new Date(atSeconds * 1000).toLocaleTimeString("en-GB", { hour12: false });
}

export function moment(atSeconds) {
  const date = new Date(atSeconds * 1000);
  return `${date.toISOString().slice(0, 10)} ${date.toISOString().slice(11, 16)} UTC`;
}

/** RFC 3339 to seconds; null for an empty or strange one. */
export function seconds(text) {
  const at = Date.parse(text);
  return Number.isNaN(at) ? null : at / 1000;
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}
