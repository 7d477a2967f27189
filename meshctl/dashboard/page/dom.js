// Elements, made without markup: text from the mesh can only ever become text.

const SVG = "http://www.w3.org/2000/svg";

/** `attributes`: `class`, `on` (an object of listeners), booleans for presence, the rest as text.
 *  `children`: nodes, texts, null for nothing; arrays are opened. */
export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "on") {
      for (const [event, listener] of Object.entries(value)) node.addEventListener(event, listener);
    } else {
      attribute(node, key, value);
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** Sets it, or takes it away for null and false; does nothing if it is so already. */
export function attribute(node, key, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(key)) node.removeAttribute(key);
    return;
  }
  const text = value === true ? "" : String(value);
  if (node.getAttribute(key) !== text) node.setAttribute(key, text);
}

/** Does nothing if it is so already: unchanged text costs no layout, and no screen reader a word. */
export function text(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

/** Children of `parent` become one per row, kept by key, in the order of `rows`. */
export function keyed(parent, rows, keyOf, make, update) {
  const known = (parent.keyedChildren ??= new Map());
  const wanted = new Set();
  let place = parent.firstChild;
  for (const row of rows) {
    const key = keyOf(row);
    if (wanted.has(key)) continue;
    wanted.add(key);
    let node = known.get(key);
    if (!node) {
      node = make(row);
      known.set(key, node);
    }
    update(node, row);
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  for (const [key, node] of known) {
    if (!wanted.has(key)) {
      node.remove();
      known.delete(key);
    }
  }
}
