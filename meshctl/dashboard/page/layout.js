// Where the nodes of a graph of calls go: columns from callers on the left to the called on the
// right, few crossings, and the same place again at the next refresh. Pure.
//
// The usual four steps of a layered drawing: turn cycles round, give ranks, order within ranks by
// the middle of the neighbours, then move each node as near to its neighbours as the order allows.

const MAX_RANKS = 8;
const SWEEPS = 10;
const SHIFTS = 6;
const STRETCH = 1.7; // at most: a flat graph uses the height of the window, up to a point

export const SIZE = { width: 186, height: 56, column: 130, row: 34, bend: 24 };

/** `nodes`: `{id, rank?}`; `links`: `{from, to}` by id. `previous`: the last answer, or null.
 *  `aspect`: width through height of the window.
 *  Gives `{places: Map id -> {x, y, rank}, paths: Map "from\nto" -> [[x, y], ...], width, height}`,
 *  with x and y of centres, and a path from the right side of `from` to the left side of `to`. */
export function layout(nodes, links, previous = null, aspect = 0) {
  const ids = nodes.map((node) => node.id).sort();
  const plain = unique(links.filter((link) => link.from !== link.to));
  const ranks = ranked(nodes, ids, plain);
  const columns = ordered(ids, plain, ranks, previous);
  positioned(columns);
  return drawn(links, ranks, columns, aspect);
}

export function pairKey(from, to) {
  return `${from}\n${to}`;
}

function unique(links) {
  return [...new Map(links.map((link) => [pairKey(link.from, link.to), link])).values()].sort((a, b) =>
    pairKey(a.from, a.to) < pairKey(b.from, b.to) ? -1 : 1,
  );
}

function ranked(nodes, ids, links) {
  if (nodes.length && nodes.every((node) => node.rank !== undefined)) {
    return squeezed(new Map(nodes.map((node) => [node.id, node.rank])));
  }
  const longest = byLongestPath(ids, forward(ids, links));
  return Math.max(0, ...longest.values()) < MAX_RANKS ? longest : squeezed(depths(ids, links));
}

function squeezed(ranks) {
  const used = [...new Set(ranks.values())].sort((a, b) => a - b);
  return new Map([...ranks].map(([id, rank]) => [id, used.indexOf(rank)]));
}

function outgoing(ids, links) {
  const out = new Map(ids.map((id) => [id, []]));
  for (const link of links) out.get(link.from)?.push(link.to);
  return out;
}

/** Roots first: who is called by nobody, then by the fewest. */
function roots(ids, links) {
  const called = new Map(ids.map((id) => [id, 0]));
  for (const link of links) called.set(link.to, called.get(link.to) + 1);
  return [...ids].sort((a, b) => called.get(a) - called.get(b) || (a < b ? -1 : 1));
}

/** The links with those turned round that close a cycle. */
function forward(ids, links) {
  const out = outgoing(ids, links);
  const state = new Map();
  const back = new Set();
  for (const root of roots(ids, links)) {
    const stack = [[root, 0]];
    if (state.has(root)) continue;
    state.set(root, "open");
    while (stack.length) {
      const top = stack[stack.length - 1];
      const next = out.get(top[0])[top[1]++];
      if (next === undefined) {
        state.set(top[0], "done");
        stack.pop();
      } else if (!state.has(next)) {
        state.set(next, "open");
        stack.push([next, 0]);
      } else if (state.get(next) === "open") {
        back.add(pairKey(top[0], next));
      }
    }
  }
  return links.map((link) =>
    back.has(pairKey(link.from, link.to)) ? { from: link.to, to: link.from } : link,
  );
}

function byLongestPath(ids, links) {
  const out = outgoing(ids, links);
  const missing = new Map(ids.map((id) => [id, 0]));
  for (const link of links) missing.set(link.to, missing.get(link.to) + 1);
  const ranks = new Map(ids.map((id) => [id, 0]));
  const ready = ids.filter((id) => !missing.get(id));
  while (ready.length) {
    const id = ready.shift();
    for (const next of out.get(id)) {
      ranks.set(next, Math.max(ranks.get(next), ranks.get(id) + 1));
      missing.set(next, missing.get(next) - 1);
      if (!missing.get(next)) ready.push(next);
    }
  }
  return ranks;
}

/** Calls from the nearest root: few columns, also for a thousand calls criss-cross. */
export function depths(ids, links) {
  const out = outgoing(ids, links);
  const order = roots(ids, links);
  const called = new Set(links.map((link) => link.to));
  const found = new Map();
  const queue = [];
  const begin = (id) => {
    found.set(id, 0);
    queue.push(id);
  };
  order.filter((id) => !called.has(id)).forEach(begin);
  for (;;) {
    while (queue.length) {
      const id = queue.shift();
      for (const next of out.get(id)) {
        if (found.has(next)) continue;
        found.set(next, found.get(id) + 1);
        queue.push(next);
      }
    }
    const left = order.find((id) => !found.has(id));
    if (left === undefined) return found;
    begin(left);
  }
}

/** Columns of slots. A slot is a node, or a bend of a link that passes the column. */
function ordered(ids, links, ranks, previous) {
  const columns = [];
  const slots = new Map();
  const slot = (id, rank, isBend) => {
    const made = { id, rank, isBend, left: [], right: [], y: 0, sort: 0 };
    slots.set(id, made);
    (columns[rank] ??= []).push(made);
    return made;
  };
  for (const id of ids) slot(id, ranks.get(id), false);
  for (let rank = 0; rank < columns.length; rank += 1) columns[rank] ??= [];
  for (const link of links) {
    const [near, far] = ranks.get(link.from) <= ranks.get(link.to) ? [link.from, link.to] : [link.to, link.from];
    let before = slots.get(near);
    for (let rank = ranks.get(near) + 1; rank < ranks.get(far); rank += 1) {
      const bend = slot(`${pairKey(link.from, link.to)}\n${rank}`, rank, true);
      before.right.push(bend);
      bend.left.push(before);
      before = bend;
    }
    if (ranks.get(near) !== ranks.get(far)) {
      before.right.push(slots.get(far));
      slots.get(far).left.push(before);
    }
  }
  const known = ids.filter((id) => previous?.places.has(id));
  if (known.length && known.length >= ids.length * 0.6) keptOrder(columns, previous);
  else sweep(columns);
  return columns;
}

function numbered(column) {
  column.forEach((each, place) => {
    each.place = place;
  });
}

function middle(neighbours, fallback) {
  if (!neighbours.length) return fallback;
  return neighbours.reduce((sum, each) => sum + each.place, 0) / neighbours.length;
}

function sweep(columns) {
  columns.forEach(numbered);
  let best = null;
  let fewest = Infinity;
  for (let round = 0; round < SWEEPS; round += 1) {
    const isRightwards = round % 2 === 0;
    const walk = isRightwards ? columns : [...columns].reverse();
    for (const column of walk) {
      for (const each of column) each.sort = middle(isRightwards ? each.left : each.right, each.place);
      column.sort((a, b) => a.sort - b.sort || a.place - b.place);
      numbered(column);
    }
    const crossed = crossings(columns);
    if (crossed < fewest) {
      fewest = crossed;
      best = columns.map((column) => [...column]);
    }
  }
  best?.forEach((column, rank) => {
    columns[rank] = column;
    numbered(column);
  });
}

function crossings(columns) {
  let count = 0;
  for (const column of columns) {
    const ends = [];
    for (const each of column) for (const next of each.right) ends.push([each.place, next.place]);
    for (let one = 0; one < ends.length; one += 1) {
      for (let two = one + 1; two < ends.length; two += 1) {
        if ((ends[one][0] - ends[two][0]) * (ends[one][1] - ends[two][1]) < 0) count += 1;
      }
    }
    if (ends.length > 1500) return count; // good enough is enough there
  }
  return count;
}

/** What was there keeps its order; what is new goes beside its neighbours. */
function keptOrder(columns, previous) {
  const before = new Map([...previous.places].map(([id, place]) => [id, place.y]));
  const passes = new Map(previous.bends);
  for (let round = 0; round < 2; round += 1) {
    for (const column of columns) {
      for (const each of column) {
        const near = [...each.left, ...each.right].filter((other) => other.y !== undefined && other.isPut);
        const y = before.get(each.id) ?? passes.get(each.id);
        each.isPut = y !== undefined || near.length > 0;
        each.sort = y ?? (near.length ? near.reduce((sum, other) => sum + other.sort, 0) / near.length : Infinity);
      }
    }
  }
  for (const column of columns) {
    column.sort((a, b) => (a.sort === b.sort ? (a.id < b.id ? -1 : 1) : a.sort - b.sort));
    numbered(column);
  }
}

function space(above, below) {
  const half = (each) => (each.isBend ? SIZE.bend : SIZE.height) / 2;
  return half(above) + half(below) + (above.isBend && below.isBend ? 4 : SIZE.row);
}

function positioned(columns) {
  for (const column of columns) {
    let y = 0;
    column.forEach((each, place) => {
      if (place) y += space(column[place - 1], each);
      each.y = y;
    });
    const centre = y / 2;
    for (const each of column) each.y -= centre;
  }
  for (let round = 0; round < SHIFTS; round += 1) {
    const isRightwards = round % 2 === 0;
    for (const column of isRightwards ? columns : [...columns].reverse()) {
      const wanted = column.map((each) => {
        const near = isRightwards ? each.left : each.right;
        const all = near.length ? near : [...each.left, ...each.right];
        return all.length ? all.reduce((sum, other) => sum + other.y, 0) / all.length : each.y;
      });
      apart(column, wanted);
    }
  }
}

/** The nearest places to the wanted ones that keep order and distance: pool adjacent violators. */
function apart(column, wanted) {
  const offsets = [];
  column.forEach((each, place) => {
    offsets.push(place ? offsets[place - 1] + space(column[place - 1], each) : 0);
  });
  const pools = [];
  column.forEach((each, place) => {
    pools.push({ sum: wanted[place] - offsets[place], count: 1 });
    while (pools.length > 1) {
      const last = pools[pools.length - 1];
      const before = pools[pools.length - 2];
      if (before.sum / before.count <= last.sum / last.count) break;
      before.sum += last.sum;
      before.count += last.count;
      pools.pop();
    }
  });
  let place = 0;
  for (const pool of pools) {
    for (let count = 0; count < pool.count; count += 1, place += 1) {
      column[place].y = Math.round(pool.sum / pool.count + offsets[place]);
    }
  }
}

function drawn(links, ranks, columns, aspect) {
  const all = columns.flat();
  const top = Math.min(0, ...all.map((each) => each.y - SIZE.height / 2));
  const bottom = Math.max(0, ...all.map((each) => each.y + SIZE.height / 2));
  const x = (rank) => rank * (SIZE.width + SIZE.column) + SIZE.width / 2;
  const width = columns.length ? x(columns.length - 1) + SIZE.width / 2 : 0;
  const stretch = aspect ? Math.min(STRETCH, Math.max(1, width / aspect / Math.max(1, bottom - top))) : 1;
  const shifted = (y) => Math.round((y - top - SIZE.height / 2) * stretch + SIZE.height / 2);
  const places = new Map();
  const bends = new Map();
  for (const each of all) {
    if (each.isBend) bends.set(each.id, shifted(each.y));
    else places.set(each.id, { x: x(each.rank), y: shifted(each.y), rank: each.rank });
  }
  const paths = new Map();
  for (const link of links) {
    paths.set(pairKey(link.from, link.to), points(link, ranks, places, bends, x));
  }
  return { places, bends, paths, width, height: shifted(bottom - SIZE.height / 2) + SIZE.height / 2 };
}

function points(link, ranks, places, bends, x) {
  const half = SIZE.width / 2;
  const from = places.get(link.from);
  const to = places.get(link.to);
  if (link.from === link.to) {
    const y = from.y - SIZE.height / 2;
    return { kind: "loop", points: [[from.x + 30, y], [from.x - 30, y]] };
  }
  if (from.rank === to.rank) {
    return { kind: "side", points: [[from.x + half, from.y], [to.x + half, to.y]] };
  }
  const step = from.rank < to.rank ? 1 : -1;
  const way = [[from.x + step * half, from.y]];
  for (let rank = from.rank + step; rank !== to.rank; rank += step) {
    const y = bends.get(`${pairKey(link.from, link.to)}\n${rank}`) ?? from.y;
    way.push([x(rank) - step * half, y], [x(rank) + step * half, y]);
  }
  way.push([to.x - step * half, to.y]);
  return { kind: step > 0 ? "on" : "back", points: way };
}

/** The path as SVG has it. */
export function curve({ kind, points: way }) {
  if (kind === "loop") {
    const [[x, y], [end, bottom]] = way;
    return `M${x} ${y}C${x + 16} ${y - 34} ${end - 16} ${y - 34} ${end} ${bottom}`;
  }
  if (kind === "side") {
    const [[x, y], [end, bottom]] = way;
    const out = 34 + Math.abs(bottom - y) * 0.12;
    return `M${x} ${y}C${x + out} ${y} ${end + out} ${bottom} ${end} ${bottom}`;
  }
  let path = `M${way[0][0]} ${way[0][1]}`;
  for (let place = 1; place < way.length; place += 1) {
    const [x, y] = way[place - 1];
    const [end, bottom] = way[place];
    if (place % 2 === 0) path += `L${end} ${bottom}`;
    else path += `C${(x + end) / 2} ${y} ${(x + end) / 2} ${bottom} ${end} ${bottom}`;
  }
  return path;
}

/** The point at `share` (0 to 1) of the first or the last open stretch, where a label may stand. */
export function pointOn({ kind, points: way }, share) {
  if (kind === "loop") return [way[0][0] - 30, way[0][1] - 26];
  const [[x, y], [end, bottom]] = way;
  if (kind === "side") {
    const out = 34 + Math.abs(bottom - y) * 0.12;
    return bezier(x, y, x + out, y, end + out, bottom, end, bottom, share);
  }
  return bezier(x, y, (x + end) / 2, y, (x + end) / 2, bottom, end, bottom, share);
}

function bezier(x0, y0, x1, y1, x2, y2, x3, y3, t) {
  const u = 1 - t;
  const mix = (a, b, c, d) => u * u * u * a + 3 * u * u * t * b + 3 * u * t * t * c + t * t * t * d;
  return [mix(x0, x1, x2, x3), mix(y0, y1, y2, y3)];
}
