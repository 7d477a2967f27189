// A small chart of the last minutes: a line, its largest and newest figure in words.

import { attribute, el, svg, text } from "./dom.js";

const WIDTH = 300;
const HEIGHT = 56;
const GAP_S = 15; // longer without a look: the line is broken

export class Chart {
  constructor(title, shown, { least = null, most = null } = {}) {
    Object.assign(this, { title, shown, least, most });
    this.now = el("b", {});
    this.range = el("span", { class: "range" });
    this.area = svg("path", { class: "area" });
    this.line = svg("path", { class: "stroke" });
    this.picture = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" }, this.area, this.line);
    this.root = el("figure", {}, el("figcaption", {}, el("span", {}, title), this.now, this.range), this.picture);
  }

  /** Seconds and values, the oldest first; a value may be null. */
  show(at, values) {
    const known = values.filter((value) => value !== null);
    const last = values.at(-1) ?? null;
    text(this.now, this.shown(last));
    if (!known.length) {
      text(this.range, "nothing seen yet");
      attribute(this.line, "d", null);
      attribute(this.area, "d", null);
      attribute(this.picture, "aria-label", `${this.title}: nothing seen yet`);
      return;
    }
    const low = Math.min(...known);
    const high = Math.max(...known);
    const floor = this.least === null ? 0 : Math.min(this.least, low);
    const top = this.most ?? (high > floor ? high : floor + 1);
    const from = at[0];
    const length = Math.max(30, at.at(-1) - from);
    const x = (moment) => (((moment - from) / length) * WIDTH).toFixed(1);
    const y = (value) => (HEIGHT - 3 - ((value - floor) / (top - floor || 1)) * (HEIGHT - 8)).toFixed(1);
    let line = "";
    let area = "";
    let begun = null;
    const close = (end) => {
      if (begun !== null) area += `L${x(end)} ${HEIGHT}L${begun} ${HEIGHT}Z`;
      begun = null;
    };
    values.forEach((value, place) => {
      if (value === null || (place && at[place] - at[place - 1] > GAP_S)) close(at[place - 1]);
      if (value === null) return;
      const point = `${x(at[place])} ${y(value)}`;
      line += `${begun === null ? "M" : "L"}${point}`;
      area += `${begun === null ? "M" : "L"}${point}`;
      begun ??= x(at[place]);
    });
    close(at.at(-1));
    attribute(this.line, "d", line);
    attribute(this.area, "d", area);
    const minutes = Math.round((at.at(-1) - from) / 6) / 10;
    const range = low === high ? this.shown(low) : `${this.shown(low)} to ${this.shown(high)}`;
    text(this.range, range);
    attribute(this.picture, "aria-label", `${this.title} over ${minutes} minutes: ${range}, now ${this.shown(last)}`);
  }
}
