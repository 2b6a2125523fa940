// Where things go in the graph: boxes in layers inside their group, groups in layers beside each other, so that
// most connections run from left to right.
const box = {w: 180, h: 46, gapX: 54, gapY: 14, rows: 9};
const frame = {pad: 16, head: 46, gapX: 84, gapY: 28, margin: 24};

// layers puts nodes into columns along the edges: first an order that turns few of them back (the greedy one of Eades, Lin
// and Smyth), then the longest path along the others. Edges both ways cancel out. Nodes without edges are left out.
function layers(nodes, weight) {
  const out = new Map(nodes.map(n => [n, []])), into = new Map(nodes.map(n => [n, []]));
  for (const a of nodes) for (const b of nodes) {
    if (a !== b && weight(a, b) > weight(b, a)) { out.get(a).push(b); into.get(b).push(a); }
  }
  const left = new Set(nodes.filter(n => out.get(n).length + into.get(n).length));
  const degree = (list, n) => list.get(n).reduce((sum, m) => sum + (left.has(m) ? 1 : 0), 0);
  const front = [], back = [];
  while (left.size) {
    let best, score = -Infinity, sink;
    for (const n of left) {
      const o = degree(out, n), i = degree(into, n);
      if (o === 0) { sink = n; break; }
      const s = i === 0 ? 1e6 : o - i;
      if (s > score) { score = s; best = n; }
    }
    if (sink !== undefined) { back.unshift(sink); left.delete(sink); } else { front.push(best); left.delete(best); }
  }
  const rank = new Map(), order = front.concat(back), place = new Map(order.map((n, i) => [n, i]));
  for (const n of order) rank.set(n, 1 + Math.max(-1, ...into.get(n).filter(m => place.get(m) < place.get(n)).map(m => rank.get(m))));
  const columns = [];
  for (const n of order) (columns[rank.get(n)] ||= []).push(n);
  sweep(columns, (a, b) => weight(a, b) + weight(b, a));
  return {columns, rest: nodes.filter(n => !rank.has(n)), order};
}

// sweep orders each column by where its neighbours in the columns before it stand.
function sweep(columns, weight) {
  for (let c = 1; c < columns.length; c++) {
    const at = new Map();
    for (let p = 0; p < c; p++) columns[p].forEach((n, i) => at.set(n, (i + 1) / (columns[p].length + 1)));
    const mean = new Map(columns[c].map(n => {
      let sum = 0, total = 0;
      for (const [m, y] of at) { const w = weight(n, m); sum += w * y; total += w; }
      return [n, total ? sum / total : .5];
    }));
    columns[c].sort((a, b) => mean.get(a) - mean.get(b));
  }
}

// inside lays out one group and returns its size and the places of its boxes, from its own corner.
function inside(g) {
  const boxes = D.groups[g].boxes, places = new Map();
  if (state.collapsed.has(g)) return {w: box.w + 2 * frame.pad, h: frame.head + 10, places};
  const whole = clique(boxes);
  const two = whole ? [] : boxes.flatMap(a => boxes.filter(b => a < b && drawn(a, b) && drawn(b, a)));
  const either = two.length <= boxes.length; // few that go both ways have a direction too: from the first to the second
  const l = layers(boxes, (a, b) => !whole && drawn(a, b) && !(either && a > b && drawn(b, a)) ? 1 : 0);
  let x = frame.pad, tallest = 0;
  for (const column of l.columns) {
    const rows = Math.ceil(column.length / Math.ceil(column.length / box.rows)); // columns of one layer are even
    for (let i = 0; i < column.length; i += rows) {
      const part = column.slice(i, i + rows);
      part.forEach((b, row) => places.set(b, {x, y: frame.head + row * (box.h + box.gapY)}));
      tallest = Math.max(tallest, part.length);
      x += box.w + (i + rows < column.length ? 18 : box.gapX);
    }
  }
  let width = l.columns.length ? x - box.gapX : 0, y = frame.head + tallest * (box.h + box.gapY);
  const perRow = Math.max(1, Math.floor((width - frame.pad + 18) / (box.w + 18)), Math.ceil(Math.sqrt(l.rest.length / 4)));
  l.rest.forEach((b, i) => {
    const px = frame.pad + (i % perRow) * (box.w + 18), py = y + Math.floor(i / perRow) * (box.h + box.gapY);
    places.set(b, {x: px, y: py});
    width = Math.max(width, px + box.w);
  });
  y += Math.ceil(l.rest.length / perRow) * (box.h + box.gapY);
  return {w: width + frame.pad, h: y - box.gapY + frame.pad, places, whole};
}

// clique reports whether all boxes of a group reach each other alike: that is said in its head, not drawn.
function clique(boxes) {
  if (boxes.length < 3) return false;
  const first = cells[boxes[0] * N + boxes[1]];
  return boxes.every(a => boxes.every(b => a === b || cells[a * N + b] === first || answer(a, b).text === D.answers[first].text)) && shown(boxes[0], boxes[1]);
}

// The outside stands where connections begin, on the left, though some end there.
const outside = g => D.boxes[D.groups[g].boxes[0]].kind === 'world' || D.boxes[D.groups[g].boxes[0]].kind === 'block';

// layout returns the places of all groups and boxes, and the size of the picture, which is to be seen in a window. Several
// ways are tried: the layers as they are, which have the shortest lines, and their groups filled into columns, which may
// be larger to see.
function layout(window) {
  findBusy();
  const all = D.groups.map((g, i) => ({id: i, ...inside(i)}));
  const weights = new Map();
  for (let f = 0; f < N; f++) for (let t = 0; t < N; t++) {
    const k = groupOf[f] * D.groups.length + groupOf[t];
    if (groupOf[f] !== groupOf[t] && drawn(f, t) && !outside(groupOf[t])) weights.set(k, (weights.get(k) || 0) + 1);
  }
  const l = layers(all.map(g => g.id), (a, b) => weights.get(a * D.groups.length + b) || 0);
  const aspect = Math.min(2.4, Math.max(.9, window.w / Math.max(1, window.h)));
  const area = all.reduce((sum, g) => sum + (g.w + frame.gapX) * (g.h + frame.gapY), 0);
  const height = Math.max(Math.sqrt(area / aspect), ...all.map(g => g.h));
  const place = columns => {
    const size = placeColumns(columns, all), placed = new Set(columns.flat());
    shelves(all.filter(g => !placed.has(g.id)), Math.max(size.w, height * aspect), size);
    return size;
  };
  const scale = size => Math.min(1.15, window.w / (size.w + frame.margin), window.h / (size.h + frame.margin));
  const tries = [.8, 1, 1.3, 1.7].map(f => split([l.columns.flat().concat(l.rest)], all, height * f)), layered = split(l.columns, all, height);
  let best = layered, score = 1.15 * scale(place(layered));
  for (const t of tries) {
    const s = scale(place(t));
    if (s > score) { score = s; best = t; }
  }
  const size = place(best);
  const places = new Map();
  for (const g of all) for (const [b, p] of g.places) places.set(b, {x: g.x + p.x, y: g.y + p.y});
  return {groups: all, places, w: size.w + frame.margin + 36, h: size.h + frame.margin};
}

// split breaks columns that are taller than height.
function split(columns, all, height) {
  const out = [];
  for (const column of columns) {
    let part = [], used = 0;
    for (const g of column) {
      if (part.length && used + all[g].h > height * 1.08) { out.push(part); part = []; used = 0; }
      part.push(g);
      used += all[g].h + frame.gapY;
    }
    if (part.length) out.push(part);
  }
  return out;
}

function placeColumns(columns, all) {
  const heights = columns.map(c => c.reduce((sum, g) => sum + all[g].h + frame.gapY, -frame.gapY));
  const tallest = Math.max(0, ...heights);
  let x = frame.margin;
  columns.forEach((column, i) => {
    const w = Math.max(...column.map(g => all[g].w));
    let y = frame.margin + (tallest - heights[i]) / 2;
    for (const g of column) {
      Object.assign(all[g], {x: x + (w - all[g].w) / 2, y});
      y += all[g].h + frame.gapY;
    }
    x += w + frame.gapX;
  });
  return {w: columns.length ? x - frame.gapX : frame.margin, h: frame.margin + tallest};
}

// shelves puts groups without connections in rows below.
function shelves(rest, width, size) {
  let x = frame.margin, y = size.h + (size.w > frame.margin ? frame.gapY : 0), tall = 0;
  for (const g of rest) {
    if (x > frame.margin && x + g.w > width) { x = frame.margin; y += tall + frame.gapY; tall = 0; }
    Object.assign(g, {x, y});
    x += g.w + frame.gapY;
    tall = Math.max(tall, g.h);
    size.w = Math.max(size.w, x - frame.gapY);
  }
  if (rest.length) size.h = y + tall;
}
