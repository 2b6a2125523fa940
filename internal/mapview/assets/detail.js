// The panel on the right: what there is to know of the box, pair or groups that are selected.
const listed = 40;

function drawDetail() {
  const root = byId('detail');
  if (state.pair) root.replaceChildren(...pairDetail(...state.pair));
  else if (state.between) root.replaceChildren(...betweenDetail(...state.between));
  else if (state.box >= 0) root.replaceChildren(...boxDetail(state.box));
  else root.replaceChildren(...overviewDetail());
  root.scrollTop = 0;
}

const backButton = f => el('button', {type: 'button', class: 'quiet back', onclick: f}, 'Back');
const tag = (kind, ...text) => el('span', {class: 'tag ' + kind}, ...text);
const tags = texts => texts.length ? el('div', {class: 'tags'}, ...texts.map(t => tag('plain', t))) : null;

function overviewDetail() {
  const shape = (cls, ...parts) => svg('svg', {width: 44, height: 26, 'aria-hidden': 'true'}, svg('g', {class: cls}, ...parts));
  const card = () => svg('rect', {class: 'card', x: 2, y: 3, width: 40, height: 20, rx: 5});
  const bar = x => svg('rect', {class: 'bars', x, y: 8, width: 3, height: 10, rx: 1.5});
  const stroke = cls => shape('', svg('path', {class: 'edge ' + cls, d: 'M2 13 L40 13'}));
  const open = D.boxes.filter(b => fenceText(b).startsWith('open: no')).length;
  return [el('h2', {}, 'Overview'),
    el('p', {}, `${plural(D.boxes.length, 'box', 'boxes')} in ${plural(D.groups.length, 'group')}. Point at a workload to see its connections; select it, a connection or a cell to see the ports and the rules behind them.`),
    open ? el('p', {}, tag('warn', plural(open, 'workload')), ' without any fence: no policy denies them anything.') : '',
    ...(D.notices || []).map(n => el('p', {}, tag('warn', 'note'), ' ' + n + '.')),
    el('h3', {}, 'Legend'),
    el('div', {class: 'legend'},
      shape('node', card(), bar(5), bar(36)), 'fenced: bar left for incoming, bar right for outgoing',
      shape('node open', card()), 'open: no policy denies it anything',
      stroke('out'), 'goes out from what you look at', stroke('in'), 'comes in to it', stroke('deny'), 'denied (choose in “Show”)',
      stroke('bundle'), 'many connections between two namespaces'),
    el('h3', {}, 'Keys'),
    el('dl', {}, ...[['/', 'search'], ['Tab', 'next part of the page'], ['arrows', 'move in tabs, graph, matrix and table'], ['Enter', 'select'], ['Esc', 'clear selection or search'], ['1 2 3', 'graph, matrix, table']]
      .flatMap(([k, t]) => [el('dt', {}, el('code', {}, k)), el('dd', {}, t)]))];
}

function boxDetail(i) {
  const b = D.boxes[i];
  const facts = [['Kind', b.owner || b.kind], ['Namespace', b.namespace], ['Pods', b.kind === 'workload' ? String((b.pods || []).length) + (b.part ? ': ' + b.pods.slice(0, 5).join(', ') : '') : ''],
    ['Nodes', b.kind === 'nodes' ? b.pods.slice(0, 12).join(', ') : ''], ['Fence', fenceText(b)], ['Network', b.hostNetwork ? 'the node’s own: policies see the node' : ''],
    ['Blocks', (b.prefixes || []).slice(0, 20).join(', ')]].filter(f => f[1]);
  return [backButton(() => select(-1)), el('h2', {}, b.name),
    el('dl', {}, ...facts.flatMap(([k, v]) => [el('dt', {}, k), el('dd', {}, v)]), ...(b.place ? [el('dt', {}, 'File'), el('dd', {}, el('code', {}, b.place))] : [])),
    b.part ? el('p', {}, tag('warn', 'note'), ' other pods of this workload are treated differently.') : '',
    ...(b.labels ? [el('h3', {}, 'Labels'), tags(labelTexts(b.labels))] : []),
    ...((b.ports || []).length ? [el('h3', {}, 'Declared ports'), tags(b.ports.map(portText))] : []),
    ...peers('Is reached by', i, j => [j, i]), ...peers('Reaches', i, j => [i, j]),
    ...self(i)];
}

function self(i) {
  const a = answer(i, i);
  return a.level === 'unjudged' ? [] : [el('h3', {}, 'Its own pods, among themselves'), links([[i, i]], () => 'each other')];
}

// peers lists what is allowed, then what is denied, of one direction.
function peers(title, i, pairOf) {
  const yes = [], no = [];
  for (let j = 0; j < N; j++) {
    const p = pairOf(j), a = answer(...p);
    if (j === i || a.level === 'unjudged') continue;
    (allowed(a) ? yes : no).push(p);
  }
  const other = p => D.boxes[p[0] === i ? p[1] : p[0]].name;
  const out = [];
  if (yes.length) out.push(el('h3', {}, `${title} (${yes.length})`), links(yes, other));
  if (no.length) out.push(el('h3', {}, `${title === 'Reaches' ? 'Does not reach' : 'Is not reached by'} (${no.length})`), links(no, other));
  return out;
}

function links(pairs, name, limit) {
  const most = limit || listed;
  const item = p => {
    const a = answer(...p), s = seen.get(p[0] * N + p[1]);
    const rules = rulesOf(a);
    const right = a.level === 'none' ? (rules[0] ? (rules[0].place || rules[0].text).split('/').pop() : '') : a.text;
    return el('li', {}, el('button', {type: 'button', onclick: () => selectPair(...p)}, el('span', {}, name(p), s ? ' ' : '', s ? tag(s.denied ? 'deny' : 'warn', seenText(s)) : ''), el('span', {}, right)));
  };
  const list = el('ul', {class: 'links'}, ...pairs.slice(0, most).map(item));
  if (pairs.length > most) list.append(el('li', {}, el('button', {type: 'button', onclick: () => list.replaceWith(links(pairs, name, pairs.length))}, el('span', {}, `Show all ${pairs.length}`), '')));
  return list;
}

function pairDetail(from, to) {
  const a = answer(from, to), s = seen.get(from * N + to), b = D.boxes[to];
  const word = {all: 'everything allowed', some: 'some ports allowed', none: 'nothing allowed', unjudged: 'not judged'}[a.level];
  const end = i => el('button', {type: 'button', class: 'quiet', onclick: () => select(i)}, D.boxes[i].name);
  return [backButton(() => { state.pair = null; refresh(); }),
    el('h2', {}, D.boxes[from].name, ' → ', b.name),
    el('p', {}, tag(a.level === 'none' ? 'deny' : a.level === 'unjudged' ? 'plain' : 'allow', word), ' ', a.level === 'some' ? a.text : ''),
    a.note ? el('p', {class: 'muted'}, a.note + '.') : '',
    s ? el('p', {}, tag(s.denied ? 'deny' : 'warn', 'seen'), ' ' + seenText(s) + (s.last ? ', last ' + s.last : '')) : '',
    s && s.ports ? tags(s.ports.map(p => `${p.port}: ${seenText(p)}`)) : '',
    ...((b.ports || []).length ? [el('h3', {}, 'Ports that it declares'), el('div', {class: 'tags'}, ...b.ports.map(p => tag(allowsPort(a, p) ? 'allow' : 'deny', (allowsPort(a, p) ? '✓ ' : '✕ ') + portText(p))))] : []),
    ...(a.parts || []).flatMap(part => [el('h3', {}, part.family && a.parts.length > 1 ? `Why, ${part.family}` : 'Why'), ...part.clauses.map(clause)]),
    el('h3', {}, 'Ends'), el('div', {class: 'tags'}, end(from), end(to))];
}

function clause(c) {
  const half = (h, which) => {
    if (!h) return el('div', {class: 'side muted'}, `${which}: policies are not asked`);
    const r = h.rule === undefined ? null : D.rules[h.rule];
    const what = r ? `${h.verdict === 'allow' ? 'allowed' : 'denied'} by ${r.text}` : 'open, no policy';
    return el('div', {class: 'side ' + (r ? h.verdict : '')}, el('div', {}, el('span', {class: 'muted'}, which + ' '), what), r && r.place ? el('code', {}, r.place) : '');
  };
  return el('div', {class: 'clause'}, el('div', {class: 'head'}, tag(c.verdict, c.verdict), el('strong', {}, c.text)), half(c.egress, 'out'), half(c.ingress, 'in'));
}

function betweenDetail(f, t) {
  const yes = [], no = [];
  for (const from of D.groups[f].boxes) for (const to of D.groups[t].boxes) {
    const a = answer(from, to);
    if (a.level !== 'unjudged' && from !== to) (allowed(a) ? yes : no).push([from, to]);
  }
  const name = p => shortName(D.boxes[p[0]]) + ' → ' + shortName(D.boxes[p[1]]);
  return [backButton(() => { state.between = null; refresh(); }), el('h2', {}, D.groups[f].name, ' → ', D.groups[t].name),
    el('p', {class: 'muted'}, `${yes.length} of ${plural(yes.length + no.length, 'pair')} allowed`),
    ...(yes.length ? [el('h3', {}, `Allowed (${yes.length})`), links(yes, name)] : []),
    ...(no.length ? [el('h3', {}, `Denied (${no.length})`), links(no, name)] : [])];
}
