// The graph: one SVG in a box that scrolls. Nothing is drawn that nobody can follow: many connections between two groups
// are one line, and those of one box are drawn when it is looked at.
const few = 44, fewBundles = 90, fewBoxes = 150;
const graph = {zoom: 1, fitted: true, plan: null, nodes: new Map(), heads: new Map(), hover: -1};

function drawGraph() {
  const canvas = byId('canvas');
  const p = graph.plan = layout({w: canvas.clientWidth, h: canvas.clientHeight});
  graph.nodes.clear();
  graph.heads.clear();
  const root = svg('svg', {viewBox: `0 0 ${p.w} ${p.h}`, role: 'group', id: 'svg', 'aria-label': 'Graph. Arrow keys move between workloads, Enter selects, Escape goes back.'}, markers());
  const back = svg('g', {}), edges = svg('g', {id: 'edges'}), front = svg('g', {});
  for (const g of p.groups) back.append(drawGroup(g));
  for (const [b, at] of p.places) {
    const node = drawNode(b, at);
    graph.nodes.set(b, node);
    front.append(node);
  }
  root.append(back, edges, front);
  canvas.replaceChildren(root);
  byId('expand').textContent = state.collapsed.size ? 'Expand all' : 'Collapse all';
  byId('expand').hidden = state.collapsed.size > 0 && tooMany();
  zoomTo(graph.fitted ? 0 : graph.zoom);
  drawEdges();
}

function markers() {
  return svg('defs', {}, ...['', 'in', 'out', 'deny'].map(k => svg('marker', {id: 'm-' + k, class: 'm-' + k, viewBox: '0 0 8 8', refX: 7, refY: 4,
    markerWidth: 7, markerHeight: 7, markerUnits: 'userSpaceOnUse', orient: 'auto-start-reverse'}, svg('path', {d: 'M0 .6 L8 4 L0 7.4 z'}))));
}

function drawGroup(g) {
  const data = D.groups[g.id], closed = state.collapsed.has(g.id);
  const count = plural(data.boxes.length, 'box', 'boxes');
  const labels = labelTexts(data.labels).filter(t => !t.startsWith('kubernetes.io/metadata.name='));
  const second = closed ? count + openText(data.boxes) : [g.whole ? 'all reach each other' + (answer(data.boxes[0], data.boxes[1]).text === 'all' ? '' : ': ' + answer(data.boxes[0], data.boxes[1]).text) : '', ...labels].filter(Boolean).join('  ') || count;
  const toggle = () => toggleGroup(g.id);
  const head = svg('g', {class: 'head', role: 'button', tabindex: '-1', 'data-group': g.id, 'aria-expanded': String(!closed), onclick: toggle, onkeydown: onEnter(toggle),
    'aria-label': `${data.name}, ${count}`},
    svg('title', {}, `${data.name}: ${count}\n${labels.join('\n')}\n${closed ? 'click to expand' : 'click to collapse'}`),
    svg('rect', {x: 3, y: 3, width: g.w - 6, height: closed ? g.h - 6 : frame.head - 8, rx: 9}),
    svg('text', {x: frame.pad, y: 21, class: 'title'}, fit((closed ? '▸ ' : '▾ ') + data.name, '650 13px ' + sans, g.w - 2 * frame.pad)),
    svg('text', {x: frame.pad + 15, y: 36, class: 'labels'}, fit(second, '11px ' + sans, g.w - 2 * frame.pad - 15)));
  graph.heads.set(g.id, head);
  return svg('g', {class: 'group', transform: `translate(${g.x} ${g.y})`}, svg('rect', {width: g.w, height: g.h, rx: 12}), head);
}

const openText = list => { const n = list.filter(i => fenceText(D.boxes[i]).startsWith('open: no')).length; return n ? `, ${n} open` : ''; };

const onEnter = f => e => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); e.stopPropagation(); f(); } };

function drawNode(i, at) {
  const b = D.boxes[i], open = b.kind === 'workload' && !b.hostNetwork && !b.fencedIngress && !b.fencedEgress;
  const choose = () => select(i);
  const node = svg('g', {class: 'node' + (open ? ' open' : '') + (b.kind === 'workload' ? '' : ' outside'), transform: `translate(${at.x} ${at.y})`, role: 'button', tabindex: '-1',
    'data-box': i, 'aria-label': `${b.name}${fenceText(b) ? ', ' + fenceText(b) : ''}`, 'aria-pressed': 'false', onclick: choose, onkeydown: onEnter(choose),
    onpointerenter: () => look(i), onpointerleave: () => look(-1), onfocus: () => look(i), onblur: () => look(-1)},
    svg('title', {}, [b.name, fenceText(b)].filter(Boolean).join('\n')),
    svg('rect', {class: 'card', width: box.w, height: box.h, rx: 8}),
    b.fencedIngress ? svg('rect', {class: 'bars', x: 5, y: 9, width: 3, height: box.h - 18, rx: 1.5}) : null,
    b.fencedEgress ? svg('rect', {class: 'bars', x: box.w - 8, y: 9, width: 3, height: box.h - 18, rx: 1.5}) : null,
    svg('text', {x: 16, y: 19.5, class: 'name'}, fit(shortName(b), '600 13px ' + sans, box.w - 32)),
    svg('text', {x: 16, y: 36, class: 'sub'}, subtitle(i)));
  return node;
}

const cut = text => fit(text, '600 11.5px ' + sans, box.w - 32);
function subtitle(i) {
  const b = D.boxes[i], busy = state.busy.get(i);
  if (busy) return cut(busyText(busy));
  if (b.kind === 'world') return 'every other address';
  if (b.kind === 'block') return (b.prefixes || []).length > 1 ? plural(b.prefixes.length, 'block') : 'address block';
  if (b.kind === 'nodes') return plural(b.pods.length, 'node');
  const ports = (b.ports || []).map(portText).join(', ');
  return cut(ports || (b.owner === 'Pod' ? 'pod' : plural(b.pods.length, 'pod')));
}

const busyText = n => (state.mode === 'denied' ? [n.into > 5 ? n.into + ' denied to it' : '', n.out > 5 ? n.out + ' denied from it' : ''] :
  [n.into > 5 ? 'reached by ' + n.into : '', n.out > 5 ? 'reaches ' + n.out : '']).filter(Boolean).join(', ');

// The point of view: the box that is looked at, or the one that is selected.
const viewed = () => graph.hover >= 0 ? graph.hover : state.box;
let lookSoon;
function look(i) {
  graph.hover = i;
  cancelAnimationFrame(lookSoon);
  lookSoon = requestAnimationFrame(drawEdges);
}

function drawEdges() {
  const focus = viewed(), layer = byId('edges');
  if (!layer) return;
  layer.replaceChildren();
  byId('svg').classList.toggle('denying', state.mode === 'denied' || state.mode === 'violations');
  overview(layer, focus);
  if (focus >= 0) focusEdges(layer, focus);
  marks(focus);
}

// endOf is where lines to a box end: at the box, or at its group while that is collapsed.
function endOf(i) {
  const p = graph.plan.places.get(i);
  if (p) return {x: p.x, y: p.y, w: box.w, h: box.h, id: i};
  return endOfGroup(groupOf[i]);
}
function endOfGroup(g) {
  const p = graph.plan.groups[g];
  return {x: p.x, y: p.y, w: p.w, h: p.h, id: -1 - g};
}

// findLines collects the pairs to draw, and counts them by their groups.
function findLines() {
  const single = [], bundles = new Map(), whole = graph.plan.groups.map(g => g.whole);
  for (let f = 0; f < N; f++) for (let t = 0; t < N; t++) {
    if (!drawn(f, t) || groupOf[f] === groupOf[t] && (whole[groupOf[f]] || state.collapsed.has(groupOf[f]))) continue;
    single.push([f, t]);
    if (groupOf[f] !== groupOf[t]) {
      const k = groupOf[f] + ' ' + groupOf[t];
      bundles.set(k, (bundles.get(k) || 0) + 1);
    }
  }
  return {single, bundles};
}

// overview draws all connections, or where they are many one line for each pair of groups.
function overview(layer, focus) {
  const {single, bundles} = graph.plan.lines ||= findLines();
  const faint = focus >= 0 ? ' dim' : '', red = state.mode === 'denied' || state.mode === 'violations' ? ' deny' : '';
  if (single.length <= few) {
    pairLines(layer, single, 'edge' + red + faint);
    announce(plural(single.length, 'connection') + busyNote());
    return;
  }
  for (const g of graph.plan.groups) {
    const inner = single.filter(([f, t]) => groupOf[f] === g.id && groupOf[t] === g.id);
    if (inner.length <= few) pairLines(layer, inner, 'edge' + red + faint);
  }
  if (bundles.size <= fewBundles) {
    for (const [k, count] of bundles) {
      const [f, t] = k.split(' ').map(Number);
      line(layer, endOfGroup(f), endOfGroup(t), 'edge bundle' + red + faint, 1.2 + Math.min(4, Math.log2(count) * .7), `${D.groups[f].name} → ${D.groups[t].name}: ${plural(count, 'pair')}`, () => selectGroups(f, t));
    }
    announce(`${plural(single.length, 'connection')}, bundled between namespaces${busyNote()}`);
  } else {
    announce(`${plural(single.length, 'connection')}, too many to draw: point at a workload to see its own`);
  }
}

const busyNote = () => state.busy.size ? ` · ${plural(state.busy.size, 'busy box', 'busy boxes')} drawn when pointed at` : '';

// pairLines draws a line for each pair; what goes both ways is one line with two heads.
function pairLines(layer, pairs, cls) {
  const all = new Set(pairs.map(([f, t]) => f * N + t));
  for (const [f, t] of pairs) {
    const both = all.has(t * N + f);
    if (both && t < f) continue;
    line(layer, endOf(f), endOf(t), cls, 1.3, `${D.boxes[f].name} ${both ? '↔' : '→'} ${D.boxes[t].name}: ${answer(f, t).text}`, () => selectPair(f, t), '', both);
  }
}

function announce(text) {
  const full = state.hits ? `${plural(state.hits.size, 'match', 'matches')} · ${text}` : text;
  if (state.view === 'graph' && byId('live').textContent !== full) byId('live').textContent = full;
}

function focusEdges(layer, focus) {
  const done = new Set(), red = state.mode === 'denied' || state.mode === 'violations';
  for (let i = 0; i < N; i++) {
    for (const [f, t, kind] of [[focus, i, 'out'], [i, focus, 'in']]) {
      if (i === focus || !shown(f, t)) continue;
      const a = endOf(f), b = endOf(t), key = a.id + ' ' + b.id;
      if (a.id === b.id || done.has(key)) continue;
      done.add(key);
      line(layer, a, b, 'edge ' + (red ? 'deny' : kind), 1.9, `${D.boxes[f].name} → ${D.boxes[t].name}: ${answer(f, t).text}`, null, red ? 'deny' : kind);
    }
  }
}

// line draws a connection, with a wide invisible one to point at.
function line(layer, a, b, cls, width, title, onclick, marker, both) {
  const d = route(a, b), end = marker || (cls.includes('deny') ? 'deny' : '');
  if (onclick) layer.append(svg('path', {d, class: 'wide', onclick}, svg('title', {}, title)));
  const e = svg('path', {d, class: cls, 'marker-end': `url(#m-${end})`, 'marker-start': both ? `url(#m-${end})` : null});
  e.style.strokeWidth = width;
  layer.append(e);
}

// route is a curve, or where that would run behind other boxes and look like theirs, a way around them: along the gaps
// between columns and between rows.
function route(a, b) {
  const known = graph.plan.routes ||= new Map(), key = a.id + ' ' + b.id; // hovering asks for the same ones again and again
  if (!known.has(key)) known.set(key, findRoute(a, b));
  return known.get(key);
}

function findRoute(a, b) {
  const c = curve(a, b);
  if (a.id < 0 && b.id < 0) return c.d;
  const blocks = obstacles(a, b);
  if (!crosses(c.points, blocks)) return c.d;
  const right = b.x > a.x + a.w ? 1 : -1, sameColumn = !(b.x >= a.x + a.w - 4) && !(b.x + b.w <= a.x + 4);
  const ya = a.y + a.h / 2, yb = b.y + b.h / 2 + 3, out = sameColumn ? 1 : right, into = sameColumn ? 1 : -right;
  const x1 = out > 0 ? a.x + a.w : a.x, x2 = into > 0 ? b.x + b.w + 1 : b.x - 1, c1 = x1 + out * 20, c2 = x2 + into * 26;
  const length = y => Math.abs(y - ya) + Math.abs(y - yb);
  let best = null, fewest = Infinity;
  for (const y of [...lanes(blocks, a, b)].sort((y, z) => length(y) - length(z)).slice(0, 24)) { // the shortest that is free
    const points = [[x1, ya], [c1, ya], [c1, y], [c2, y], [c2, yb], [x2, yb]], bad = crosses(sampled(points), blocks);
    if (bad < fewest) { fewest = bad; best = points; }
    if (!bad) break;
  }
  return best ? rounded(best) : c.d;
}

// obstacles are the boxes that a line between a and b may meet.
function obstacles(a, b) {
  const all = [], left = Math.min(a.x, b.x) - 100, right = Math.max(a.x + a.w, b.x + b.w) + 100;
  const top = Math.min(a.y, b.y) - 400, bottom = Math.max(a.y + a.h, b.y + b.h) + 400;
  for (const [i, p] of graph.plan.places) {
    if (i !== a.id && i !== b.id && p.x + box.w > left && p.x < right && p.y + box.h > top && p.y < bottom) all.push({x: p.x, y: p.y, w: box.w, h: box.h});
  }
  return all;
}

// lanes are the heights at which a line can run between rows.
function lanes(blocks, a, b) {
  const found = new Set();
  for (const r of [...blocks, a, b]) { found.add(r.y - box.gapY / 2); found.add(r.y + r.h + box.gapY / 2); }
  return found;
}

// crosses counts the boxes that a line runs into.
function crosses(points, blocks) {
  let n = 0;
  for (const r of blocks) if (points.some(([x, y]) => x > r.x - 2 && x < r.x + r.w + 2 && y > r.y - 2 && y < r.y + r.h + 2)) n++;
  return n;
}

function sampled(corners) {
  const out = [];
  for (let i = 1; i < corners.length; i++) {
    const [x1, y1] = corners[i - 1], [x2, y2] = corners[i], n = Math.ceil((Math.abs(x2 - x1) + Math.abs(y2 - y1)) / 16) || 1;
    for (let k = 0; k <= n; k++) out.push([x1 + (x2 - x1) * k / n, y1 + (y2 - y1) * k / n]);
  }
  return out;
}

// rounded is a path through corners, which are rounded off.
function rounded(points) {
  let d = `M${points[0][0]} ${points[0][1]}`;
  for (let i = 1; i < points.length - 1; i++) {
    const [px, py] = points[i - 1], [x, y] = points[i], [nx, ny] = points[i + 1];
    const before = Math.hypot(x - px, y - py), after = Math.hypot(nx - x, ny - y), r = Math.min(12, before / 2, after / 2);
    if (r < .5) continue;
    d += ` L${x - (x - px) / before * r} ${y - (y - py) / before * r} Q${x} ${y} ${x + (nx - x) / after * r} ${y + (ny - y) / after * r}`;
  }
  return d + ` L${points.at(-1)[0]} ${points.at(-1)[1]}`;
}

// curve leaves a on the side that b is on. Boxes above each other are joined by a bow on their right.
function curve(a, b) {
  const ya = a.y + a.h / 2, yb = b.y + b.h / 2 + (a.y === b.y ? 0 : 3);
  if (b.x >= a.x + a.w - 4) return bezier(a.x + a.w, ya, b.x - 1, yb, 1, 1);
  if (b.x + b.w <= a.x + 4) return bezier(a.x, ya + 5, b.x + b.w + 1, yb + 5, -1, -1);
  const x1 = a.x + a.w, x2 = b.x + b.w + 1, bow = Math.max(x1, x2) + Math.min(70, 26 + Math.abs(yb - ya) * .12);
  return cubic(x1, ya, bow, ya, bow, yb, x2, yb);
}
function bezier(x1, y1, x2, y2, d1, d2) {
  const reach = Math.max(32, Math.min(170, Math.abs(x2 - x1) * .5));
  return cubic(x1, y1, x1 + d1 * reach, y1, x2 - d2 * reach, y2, x2, y2);
}
function cubic(x0, y0, x1, y1, x2, y2, x3, y3) {
  const points = [];
  for (let k = 0; k <= 40; k++) {
    const t = k / 40, u = 1 - t, a = u * u * u, b = 3 * u * u * t, c = 3 * u * t * t, e = t * t * t;
    points.push([a * x0 + b * x1 + c * x2 + e * x3, a * y0 + b * y1 + c * y2 + e * y3]);
  }
  return {d: `M${x0} ${y0} C${x1} ${y1} ${x2} ${y2} ${x3} ${y3}`, points};
}

// portsBetween is told in the place of a box's own ports: what it takes from the focus, what it sends there.
function portsBetween(focus, i, goes, comes) {
  if (state.mode === 'denied') return goes && comes ? 'denied both ways' : 'denied';
  const to = goes ? answer(focus, i).text : '', from = comes ? answer(i, focus).text : '';
  return cut(goes && comes ? (to === from ? 'both ways ' + to : `in ${to} · out ${from}`) : to || from);
}

// marks shows which boxes have to do with the focus, and on which ports.
function marks(focus) {
  for (const [i, node] of graph.nodes) {
    const b = D.boxes[i], goes = focus >= 0 && shown(focus, i), comes = focus >= 0 && shown(i, focus), near = goes || comes;
    node.classList.toggle('on', i === focus || i === state.box);
    node.classList.toggle('near', near && i !== focus);
    node.classList.toggle('from', comes && !goes);
    node.classList.toggle('dim', focus >= 0 ? i !== focus && !near : !hit(i));
    node.classList.toggle('hit', Boolean(state.hits) && state.hits.has(i));
    node.setAttribute('aria-pressed', String(i === state.box));
    node.querySelector('.sub').textContent = near ? portsBetween(focus, i, goes, comes) : subtitle(i);
  }
  const target = graph.nodes.get(state.box) || graph.nodes.get([...graph.nodes.keys()].find(hit)) || graph.heads.values().next().value;
  const current = byId('svg').querySelector('[tabindex="0"]');
  if (!current || graph.hover < 0 && document.activeElement !== current) rove(byId('svg'), '', target);
}

function toggleGroup(g) {
  if (!state.collapsed.delete(g)) state.collapsed.add(g);
  let open = D.groups.reduce((sum, d, i) => sum + (state.collapsed.has(i) ? 0 : d.boxes.length), 0);
  for (let i = 0; open > D.limit && i < D.groups.length; i++) { // never more than can be read
    if (i !== g && !state.collapsed.has(i)) { state.collapsed.add(i); open -= D.groups[i].boxes.length; }
  }
  drawGraph();
  const head = graph.heads.get(g);
  rove(byId('svg'), '', head);
  head.focus({preventScroll: true});
}

// zoomTo sets the scale; 0 fits the picture into the window, as far as it stays readable.
function zoomTo(scale) {
  const canvas = byId('canvas'), p = graph.plan, s = byId('svg');
  graph.fitted = !scale;
  if (!scale) scale = Math.min(1.15, Math.max(.7, Math.min((canvas.clientWidth - 4) / p.w, (canvas.clientHeight - 4) / p.h)));
  graph.zoom = Math.min(3, Math.max(.2, scale));
  s.setAttribute('width', p.w * graph.zoom);
  s.setAttribute('height', p.h * graph.zoom);
  s.style.marginTop = Math.max(0, (canvas.clientHeight - p.h * graph.zoom) / 2.6) + 'px';
}

// step moves the focus to the nearest element in a direction.
function step(from, key) {
  const [dx, dy] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key];
  const at = e => { const r = e.getBoundingClientRect(); return [r.left + Math.min(r.width, box.w) / 2, r.top + Math.min(r.height, box.h) / 2]; };
  const [x, y] = at(from);
  let best, cost = Infinity;
  for (const e of [...graph.nodes.values(), ...graph.heads.values()]) {
    const [ex, ey] = at(e), along = (ex - x) * dx + (ey - y) * dy, across = Math.abs((ex - x) * dy) + Math.abs((ey - y) * dx);
    if (e === from || along < 4) continue;
    if (along + 2.5 * across < cost) { cost = along + 2.5 * across; best = e; }
  }
  if (!best) return;
  rove(byId('svg'), '', best);
  best.focus();
}

function wireGraph() {
  const canvas = byId('canvas');
  byId('zoom-in').onclick = () => zoomTo(graph.zoom * 1.25);
  byId('zoom-out').onclick = () => zoomTo(graph.zoom / 1.25);
  byId('zoom-fit').onclick = () => zoomTo(0);
  byId('expand').onclick = () => {
    state.collapsed = new Set(state.collapsed.size ? [] : D.groups.keys());
    graph.fitted = true;
    drawGraph();
  };
  canvas.addEventListener('keydown', e => {
    if (e.key.startsWith('Arrow') && e.target.closest('.node, .head')) { e.preventDefault(); step(e.target.closest('.node, .head'), e.key); }
  });
  canvas.addEventListener('wheel', e => { if (e.ctrlKey || e.metaKey) { e.preventDefault(); zoomTo(graph.zoom * (e.deltaY < 0 ? 1.1 : 1 / 1.1)); } }, {passive: false});
  let from = null;
  canvas.addEventListener('pointerdown', e => { if (!e.target.closest('.node, .head, .wide') && e.button === 0) from = [e.clientX + canvas.scrollLeft, e.clientY + canvas.scrollTop]; });
  addEventListener('pointermove', e => { if (from) { canvas.classList.add('drag'); canvas.scrollTo(from[0] - e.clientX, from[1] - e.clientY); } });
  addEventListener('pointerup', () => { from = null; canvas.classList.remove('drag'); });
  new ResizeObserver(() => { if (graph.plan && graph.fitted && state.view === 'graph') zoomTo(0); }).observe(canvas);
}
