// Tables that can be sorted, searched and refreshed every second without losing focus or place.

import { attribute, el, keyed, text } from "./dom.js";
import { plural } from "./format.js";
import { securityIcon, turnInto } from "./icons.js";

const PAGE = 150; // rows drawn; the rest on demand, so that a refresh stays cheap

/** `columns`: `{label, of(row) -> text | {text, sign, tone, title}, sort?(row), isNumber?, open?}`.
 *  A column with `open(row)` is a button in each row. `words(row)`: what the search looks at. */
export class Table {
  #sorted;
  #isDown;
  #room = PAGE;
  #rows = [];
  #query = "";

  constructor({ caption, columns, keyOf, words, sortBy = 0, isDown = false, empty }) {
    Object.assign(this, { columns, keyOf, words, empty });
    this.#sorted = sortBy;
    this.#isDown = isDown;
    this.heads = columns.map((column, place) => this.#head(column, place));
    this.body = el("tbody", {});
    this.more = el("button", { type: "button", class: "more", hidden: true, on: { click: () => this.#moreRows() } });
    this.none = el("div", { class: "empty", hidden: true });
    this.table = el("table", {}, el("caption", { class: "unseen" }, caption), el("thead", {}, el("tr", {}, this.heads)), this.body);
    this.root = el("div", { class: "tabled" }, el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, this.table), this.more, this.none);
  }

  show(rows, query = this.#query) {
    this.#rows = rows;
    this.#query = query;
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const found = words.length
      ? rows.filter((row) => words.every((word) => this.words(row).toLowerCase().includes(word)))
      : [...rows];
    this.#order(found);
    keyed(this.body, found.slice(0, this.#room), this.keyOf, () => this.#make(), (node, row) => this.#draw(node, row));
    this.more.hidden = found.length <= this.#room;
    text(this.more, `Show ${Math.min(PAGE, found.length - this.#room)} more of ${found.length}`);
    this.table.hidden = !found.length;
    this.none.hidden = found.length > 0;
    if (!found.length) this.none.replaceChildren(rows.length ? nothingFound(query, rows.length) : this.empty());
  }

  #head(column, place) {
    const mark = el("span", { class: "order", "aria-hidden": "true" });
    const button = el("button", { type: "button", on: { click: () => this.#sort(place) } }, column.label, mark);
    const head = el("th", { scope: "col", class: column.isNumber ? "number" : null }, button);
    head.mark = mark;
    return head;
  }

  #sort(place) {
    this.#isDown = this.#sorted === place ? !this.#isDown : Boolean(this.columns[place].isNumber);
    this.#sorted = place;
    this.show(this.#rows);
  }

  #order(rows) {
    this.heads.forEach((head, place) => {
      const is = place === this.#sorted;
      attribute(head, "aria-sort", is ? (this.#isDown ? "descending" : "ascending") : null);
      text(head.mark, is ? (this.#isDown ? " ↓" : " ↑") : "");
    });
    const column = this.columns[this.#sorted];
    const value = column.sort ?? ((row) => plain(column.of(row)));
    const sign = this.#isDown ? -1 : 1;
    const keys = new Map(rows.map((row) => [row, value(row)]));
    rows.sort((left, right) => {
      const [a, b] = [keys.get(left), keys.get(right)];
      if (a === b) return this.keyOf(left) < this.keyOf(right) ? -1 : 1;
      // What was not measured is last, whichever way.
      if (a === null || a === undefined) return 1;
      if (b === null || b === undefined) return -1;
      return a < b ? -sign : sign;
    });
  }

  #moreRows() {
    this.#room += PAGE;
    this.show(this.#rows);
  }

  #make() {
    const row = el("tr", {});
    row.cells_ = this.columns.map((column, place) => {
      const cell = el(place ? "td" : "th", { scope: place ? null : "row", class: column.isNumber ? "number" : null });
      cell.sign = el("span", { class: "sign", "aria-hidden": "true" });
      cell.words = column.open ? el("button", { type: "button", class: "open", on: { click: () => column.open(row.row) } }) : el("span", {});
      cell.append(cell.sign, cell.words);
      return cell;
    });
    row.append(...row.cells_);
    return row;
  }

  #draw(node, row) {
    node.row = row;
    this.columns.forEach((column, place) => {
      const cell = node.cells_[place];
      const value = column.of(row);
      const { text: words, sign = "", tone = null, title = null, icon = null } = typeof value === "string" ? { text: value } : value;
      text(cell.words, words);
      text(cell.sign, sign && `${sign} `);
      if (icon && !cell.icon) cell.prepend((cell.icon = securityIcon(icon)));
      if (icon) turnInto(cell.icon, icon);
      attribute(cell, "data-tone", tone);
      attribute(cell, "title", title);
    });
  }
}

function plain(value) {
  return typeof value === "string" ? value : value.text;
}

function nothingFound(query, count) {
  return el("p", {}, `Nothing of ${plural(count, "row")} fits “${query}”.`);
}
