// The table: a line for each pair, sortable, in steps so that a hundred thousand lines do no harm.
const stepSize = 200;
const list = {sort: 'from', down: false, limit: stepSize, rows: []};
const columns = {
  from: ['From', r => D.boxes[r.from].name],
  to: ['To', r => D.boxes[r.to].name],
  level: ['Allowed', r => ({all: 'all', some: 'some', none: 'nothing', unjudged: 'not judged'})[answer(r.from, r.to).level]],
  ports: ['Ports', r => answer(r.from, r.to).level === 'none' ? '' : answer(r.from, r.to).text],
  declared: ['Declared ports', r => (D.boxes[r.to].ports || []).filter(p => allowsPort(answer(r.from, r.to), p)).map(portText).join(', ')],
  rule: ['Rule', r => rulesOf(answer(r.from, r.to)).map(x => x.text).join('; ') || 'no policy'],
  place: ['Place', r => rulesOf(answer(r.from, r.to)).map(x => x.place).filter(Boolean).join(', ')],
};
if (seen.size) columns.seen = ['Really seen', r => seenText(seen.get(r.from * N + r.to))];

function seenText(s) {
  if (!s) return '';
  return [s.allowed ? s.allowed.toLocaleString('en') + ' allowed' : '', s.denied ? s.denied.toLocaleString('en') + ' denied' : ''].filter(Boolean).join(', ');
}

// tableRows are the pairs that the mode shows and of which one end matches the search.
function tableRows() {
  const rows = [], test = modes[state.mode][1];
  for (let from = 0; from < N; from++) for (let to = 0; to < N; to++) {
    const a = answer(from, to);
    if ((a.level !== 'unjudged' || seen.has(from * N + to)) && (hit(from) || hit(to)) && test(a, from, to)) rows.push({from, to});
  }
  const key = columns[list.sort][1], compare = new Intl.Collator('en', {numeric: true}).compare;
  if (list.sort !== 'from' || list.down) {
    for (const r of rows) r.key = key(r);
    rows.sort((a, b) => (list.down ? -1 : 1) * compare(a.key, b.key) || a.from - b.from || a.to - b.to);
  }
  return rows;
}

function drawTable() {
  list.rows = tableRows();
  const sortBy = k => () => {
    list.down = list.sort === k && !list.down;
    list.sort = k;
    drawTable();
    byId('table').querySelector(`[data-sort=${k}]`).focus();
  };
  const head = el('tr', {}, ...Object.entries(columns).map(([k, [title]]) => el('th', {scope: 'col', 'aria-sort': k === list.sort ? (list.down ? 'descending' : 'ascending') : 'none'},
    el('button', {type: 'button', 'data-sort': k, onclick: sortBy(k)}, title))));
  const body = el('tbody', {}, ...list.rows.slice(0, list.limit).map(tableRow));
  body.addEventListener('keydown', tableKey);
  const more = list.rows.length - list.limit;
  byId('table').replaceChildren(
    el('table', {class: 'list', 'aria-label': 'Pairs'}, el('thead', {}, head), body),
    list.rows.length ? '' : el('p', {class: 'none'}, 'No pair matches.'),
    more > 0 ? el('p', {class: 'more'}, el('button', {type: 'button', class: 'quiet', onclick: () => { list.limit += 5 * stepSize; drawTable(); }}, `Show more (${more.toLocaleString('en')} left)`)) : '');
  const first = body.querySelector('tr');
  if (first) first.setAttribute('tabindex', '0');
  byId('live').textContent = plural(list.rows.length, 'pair');
}

function tableRow(r) {
  const open = e => {
    for (const x of e.currentTarget.parentNode.querySelectorAll('[aria-selected=true]')) x.setAttribute('aria-selected', 'false');
    e.currentTarget.setAttribute('aria-selected', 'true');
    rove(byId('table'), 'tr', e.currentTarget);
    selectPair(r.from, r.to);
  };
  const cellOf = k => {
    const text = columns[k][1](r);
    if (k === 'level') return el('td', {}, el('span', {class: 'tag ' + (text === 'nothing' ? 'deny' : text === 'not judged' ? 'plain' : 'allow')}, text));
    if (k === 'place') return el('td', {}, ...text.split(', ').map(p => el('div', {}, el('code', {}, p))));
    if (k === 'rule') return el('td', {class: 'rule'}, ...text.split('; ').map(r => el('div', {}, r)));
    return el('td', {class: k === 'from' || k === 'to' ? 'name' : null, title: text}, text);
  };
  return el('tr', {tabindex: '-1', 'aria-selected': 'false', onclick: open, onkeydown: e => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); open(e); } }},
    ...Object.keys(columns).map(cellOf));
}

function tableKey(e) {
  const tr = e.target.closest('tr');
  const next = {ArrowDown: tr.nextElementSibling, ArrowUp: tr.previousElementSibling}[e.key];
  if (!next) return;
  e.preventDefault();
  rove(byId('table'), 'tr', next);
  next.focus();
}
