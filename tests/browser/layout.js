// What is wrong with drawings of sixty random graphs, half of them with cycles, and with the same
// graphs with one service more.
async () => {
  const { SIZE, layout } = await import("/page/layout.js");
  let seed = 1;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const faults = [];
  for (let round = 0; round < 60; round += 1) {
    // Eight in a row still have a column each; deeper meshes are drawn by their distance instead.
    const count = 2 + Math.floor(random() * (round % 2 ? 7 : 25));
    const ids = [...Array(count).keys()].map((each) => `s${each}`);
    const links = [];
    for (let each = 0; each < count * 2; each += 1) {
      const [one, two] = [Math.floor(random() * count), Math.floor(random() * count)];
      const ends = round % 2 ? [Math.min(one, two), Math.max(one, two)] : [one, two];
      links.push({ from: ids[ends[0]], to: ids[ends[1]] });
    }
    const made = layout(ids.map((id) => ({ id })), links);
    const places = [...made.places.values()];
    if (places.length !== count) faults.push(`round ${round}: ${places.length} of ${count} placed`);
    for (const [place, one] of places.entries()) {
      for (const two of places.slice(place + 1)) {
        if (one.x === two.x && Math.abs(one.y - two.y) < SIZE.height) faults.push(`round ${round}: two overlap`);
      }
    }
    if (round % 2) {
      for (const { from, to } of links) {
        if (from !== to && made.places.get(from).x >= made.places.get(to).x) faults.push(`round ${round}: ${from} is not left of ${to}`);
      }
    }
    const more = layout([...ids, "new"].map((id) => ({ id })), [...links, { from: "new", to: ids[0] }], made);
    for (const [id, one] of made.places) {
      for (const [other, two] of made.places) {
        const [then, now] = [more.places.get(id), more.places.get(other)];
        const isSame = one.rank === then.rank && two.rank === now.rank && one.rank === two.rank;
        if (isSame && one.y < two.y && then.y > now.y) faults.push(`round ${round}: ${id} and ${other} changed places`);
      }
    }
  }
  return faults;
}
