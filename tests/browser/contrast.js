// The text of a page that has less than 4.5 to 1 against its ground (WCAG AA), and how many texts
// were looked at.
() => {
  const numbers = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const part = (value) => {
    const share = value / 255;
    return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  };
  const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const colour = (each) => {
    const isGroup = each instanceof SVGGElement;
    const box = isGroup ? each.querySelector(":scope > .box, :scope > rect") : null;
    return numbers(box ? getComputedStyle(box).fill : getComputedStyle(each).backgroundColor);
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const found = colour(each);
      if (found.length === 3 || found[3] > 0.9) return found;
    }
    return [255, 255, 255];
  };
  const unseen = "title, [hidden], dialog:not([open]), option, noscript";
  const bad = [];
  let count = 0;
  for (const element of document.querySelectorAll("body *")) {
    const isText = (node) => node.nodeType === 3 && node.textContent.trim();
    if (![...element.childNodes].some(isText) || element.closest(unseen)) continue;
    const style = getComputedStyle(element);
    if (!element.getBoundingClientRect().width || style.visibility === "hidden") continue;
    const ink = numbers(element instanceof SVGElement ? style.fill : style.color);
    const [more, less] = [light(ink), light(ground(element))].sort((x, y) => y - x);
    const ratio = (more + 0.05) / (less + 0.05);
    count += 1;
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${element.outerHTML.slice(0, 120)}`);
  }
  return { count, bad };
}
