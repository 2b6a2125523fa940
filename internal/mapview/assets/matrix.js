// The matrix: rows are sources, columns destinations. A namespace can be folded into one row and column.
const many = 60, manyCells = 22500;

// units are the rows and columns: boxes, and groups that are folded.
function units(rows) {
  const out = [];
  D.groups.forEach((g, i) => {
    const boxes = rows ? g.boxes.filter(hit) : g.boxes;
    if (!boxes.length) return;
    if (state.folded.has(i)) out.push({group: i, boxes, first: true});
    else boxes.forEach((b, k) => out.push({group: i, box: b, boxes: [b], first: k === 0}));
  });
  return out;
}

function drawMatrix() {
  const rows = units(true), columns = units(false), root = byId('matrix');
  if (!rows.length) {
    root.replaceChildren(el('p', {class: 'none'}, 'Nothing matches the search.'));
    return;
  }
  const head = el('tr', {role: 'row'}, el('th', {class: 'corner-cell', role: 'columnheader', scope: 'col'}, 'from ↓   to →'),
    ...columns.map(u => el('th', {role: 'columnheader', scope: 'col', class: u.box === undefined ? 'grp' : null, title: nameOf(u)}, el('span', {}, nameOf(u)))));
  const body = rows.map((r, y) => el('tr', {role: 'row', class: r.first ? 'edge-row' : null}, rowHead(r), ...columns.map((c, x) => cell(r, c, x, y))));
  const table = el('table', {class: 'matrix', role: 'grid', 'aria-label': 'Who reaches whom: rows are sources, columns are destinations', 'aria-rowcount': rows.length + 1, 'aria-colcount': columns.length + 1},
    el('thead', {}, head), el('tbody', {}, ...body));
  table.addEventListener('keydown', matrixKey);
  table.addEventListener('focusin', e => hot(e.target));
  table.addEventListener('pointerover', e => hot(e.target));
  root.replaceChildren(table);
  const first = table.querySelector('td');
  if (first) first.setAttribute('tabindex', '0');
  byId('live').textContent = state.hits ? `${plural(rows.length, 'row matches', 'rows match')}` : `${rows.length} × ${columns.length}`;
}

const nameOf = u => u.box === undefined ? D.groups[u.group].name + ' (' + u.boxes.length + ')' : D.boxes[u.box].name;

function rowHead(u) {
  const fold = () => {
    if (!state.folded.delete(u.group)) state.folded.add(u.group);
    for (let i = 0; units(false).length ** 2 > manyCells && i < D.groups.length; i++) if (i !== u.group) state.folded.add(i);
    drawMatrix();
    const again = byId('matrix').querySelector(`button[data-group="${u.group}"]`);
    if (again) again.focus();
  };
  const button = u.first && D.groups[u.group].boxes.length > 1 ? el('button', {type: 'button', 'data-group': u.group, onclick: fold, 'aria-expanded': String(u.box !== undefined),
    'aria-label': (u.box === undefined ? 'Unfold ' : 'Fold ') + D.groups[u.group].name}, u.box === undefined ? '▸ ' : '▾ ') : el('span', {class: 'muted'}, '\u2003');
  return el('th', {role: 'rowheader', scope: 'row', class: 'grp', title: nameOf(u)}, button, u.box === undefined ? nameOf(u) : el('span', {class: 'muted'}, nameOf(u)));
}

function cell(r, c, x, y) {
  const attrs = {role: 'gridcell', tabindex: '-1', 'data-x': x, 'data-y': y};
  if (r.box === undefined || c.box === undefined) return groupCell(r, c, attrs);
  const a = answer(r.box, c.box), s = seen.get(r.box * N + c.box);
  if (a.level === 'unjudged' && !s) return el('td', {...attrs, class: 'void', 'aria-label': 'not judged'}, r.box === c.box ? '–' : '');
  const text = a.level === 'none' ? '·' : a.text;
  attrs.class = 'lv-' + a.level + (a.ruled ? '' : ' plain');
  attrs['aria-label'] = `${D.boxes[r.box].name} to ${D.boxes[c.box].name}: ${a.text}`;
  attrs.title = attrs['aria-label'];
  attrs['aria-selected'] = String(Boolean(state.pair) && state.pair[0] === r.box && state.pair[1] === c.box);
  attrs['data-pair'] = r.box + ' ' + c.box;
  return el('td', attrs, text, s ? el('span', {class: 'dot' + (s.denied ? ' deny' : ''), title: seenText(s)}) : null);
}

function groupCell(r, c, attrs) {
  let yes = 0, all = 0, ruled = false;
  for (const f of r.boxes) for (const t of c.boxes) {
    const a = answer(f, t);
    if (a.level === 'unjudged') continue;
    all++;
    if (allowed(a)) { yes++; ruled ||= a.ruled; }
  }
  if (!all) return el('td', {...attrs, class: 'void', 'aria-label': 'not judged'});
  attrs.class = 'lv-' + (yes ? 'some' : 'none') + (ruled ? '' : ' plain');
  attrs['aria-label'] = `${nameOf(r)} to ${nameOf(c)}: ${yes} of ${all} pairs allowed`;
  attrs.title = attrs['aria-label'];
  attrs['data-groups'] = r.group + ' ' + c.group;
  return el('td', attrs, yes ? yes + '/' + all : '·');
}

function openCell(td) {
  if (td.dataset.pair) {
    for (const e of td.closest('table').querySelectorAll('td[aria-selected=true]')) e.setAttribute('aria-selected', 'false');
    td.setAttribute('aria-selected', 'true');
    selectPair(...td.dataset.pair.split(' ').map(Number));
  } else if (td.dataset.groups) {
    selectGroups(...td.dataset.groups.split(' ').map(Number));
  }
}

function matrixKey(e) {
  const td = e.target.closest('td');
  if (!td) return;
  if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); openCell(td); return; }
  const move = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Home: [-1e6, 0], End: [1e6, 0]}[e.key];
  if (!move) return;
  e.preventDefault();
  const rows = td.closest('tbody').rows, y = Math.min(rows.length - 1, Math.max(0, Number(td.dataset.y) + move[1]));
  const x = Math.min(rows[y].cells.length - 2, Math.max(0, Number(td.dataset.x) + move[0]));
  const next = rows[y].cells[x + 1];
  rove(td.closest('table'), 'td', next);
  next.focus();
}

// hot marks the heads of a cell's row and column.
function hot(target) {
  const table = target.closest('table'), td = target.closest('td');
  for (const e of table.querySelectorAll('th.hot')) e.classList.remove('hot');
  if (!td) return;
  td.parentNode.cells[0].classList.add('hot');
  table.tHead.rows[0].cells[td.cellIndex].classList.add('hot');
}

function wireMatrix() {
  if (N > many) D.groups.forEach((g, i) => { if (g.boxes.length > 1) state.folded.add(i); });
  byId('matrix').addEventListener('click', e => {
    const td = e.target.closest('td');
    if (!td) return;
    rove(td.closest('table'), 'td', td);
    openCell(td);
  });
}
