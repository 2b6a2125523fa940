// Selecting, the tabs, the keys: what ties the views together.
const views = {graph: drawGraph, matrix: drawMatrix, table: drawTable};

function select(i) {
  state.box = state.box === i && !state.pair && !state.between ? -1 : i;
  state.pair = state.between = null;
  if (i >= 0 && state.view === 'graph' && state.collapsed.has(groupOf[i])) toggleGroup(groupOf[i]);
  refresh();
}
function selectPair(from, to) { state.pair = [from, to]; refresh(); }
function selectGroups(from, to) { state.pair = null; state.between = [from, to]; refresh(); }

// refresh shows a changed selection without drawing a view anew.
function refresh() {
  drawDetail();
  if (state.view === 'graph') drawEdges();
}

function show(view, focus) {
  state.view = view;
  for (const v of Object.keys(views)) {
    const tab = byId('tab-' + v), on = v === view;
    byId('view-' + v).hidden = !on;
    tab.setAttribute('aria-selected', String(on));
    tab.setAttribute('tabindex', on ? '0' : '-1');
    if (on && focus) tab.focus();
  }
  byId('mode').parentNode.hidden = view === 'matrix'; // which shows everything
  views[view]();
}

function wireTabs() {
  const names = Object.keys(views);
  for (const v of names) {
    byId('tab-' + v).onclick = () => show(v);
    byId('tab-' + v).onkeydown = e => {
      const at = names.indexOf(v), to = {ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1}[e.key];
      if (to === undefined) return;
      e.preventDefault();
      show(names[(to + names.length) % names.length], true);
    };
  }
}

function wireKeys() {
  document.addEventListener('keydown', e => {
    const typing = e.target.matches('input, select');
    if (e.key === 'Escape') escape(e.target);
    if (typing || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === '/') { e.preventDefault(); byId('search').focus(); }
    const view = {1: 'graph', 2: 'matrix', 3: 'table'}[e.key];
    if (view) show(view, true);
  });
}

// escape takes back one thing: the pair, then the box, then the search.
function escape(target) {
  if (target === byId('search') && state.query || !state.pair && !state.between && state.box < 0) {
    byId('search').value = '';
    find('');
  } else if (state.pair || state.between) {
    state.pair = state.between = null;
    refresh();
  } else {
    select(-1);
  }
}

function find(query) {
  search(query);
  list.limit = stepSize;
  if (state.view === 'graph') { if (state.hits && state.hits.size) reveal(); drawEdges(); } else views[state.view]();
}

// reveal opens the groups of what was found, if that stays readable.
function reveal() {
  const closed = new Set([...state.hits].map(i => groupOf[i]).filter(g => state.collapsed.has(g)));
  const size = [...closed].reduce((sum, g) => sum + D.groups[g].boxes.length, 0);
  if (!closed.size || size > D.limit / 2) return;
  for (const g of closed) state.collapsed.delete(g);
  drawGraph();
}

function wireTheme() {
  const root = document.documentElement, dark = matchMedia('(prefers-color-scheme: dark)');
  const isDark = () => (root.dataset.theme || (dark.matches ? 'dark' : 'light')) === 'dark';
  const label = () => { byId('theme').textContent = isDark() ? '☀ Light' : '☾ Dark'; byId('theme').setAttribute('aria-label', isDark() ? 'Use light colours' : 'Use dark colours'); };
  byId('theme').onclick = () => { root.dataset.theme = isDark() ? 'light' : 'dark'; label(); };
  dark.addEventListener('change', label);
  label();
}

function start() {
  byId('source').textContent = D.title || '';
  const workloads = D.boxes.filter(b => b.kind === 'workload').length;
  byId('stats').textContent = `${plural(workloads, 'workload')} · ${plural(D.groups.filter(g => D.boxes[g.boxes[0]].kind === 'workload').length, 'namespace')}`;
  for (const [k, [text]] of Object.entries(modes)) byId('mode').append(el('option', {value: k}, text));
  byId('mode').onchange = e => { state.mode = e.target.value; list.limit = stepSize; views[state.view](); drawDetail(); };
  let soon;
  byId('search').oninput = e => { clearTimeout(soon); soon = setTimeout(() => find(e.target.value), 100); };
  if (N > fewBoxes) state.collapsed = new Set(D.groups.keys());
  wireTheme();
  wireTabs();
  wireKeys();
  wireGraph();
  wireMatrix();
  const [view, name] = decodeURIComponent(location.hash.slice(1)).split(':'); // "#matrix", "#graph:shop/cart"
  state.box = name ? D.boxes.findIndex(b => b.name === name) : -1;
  drawDetail();
  show(views[view] ? view : 'graph');
}
start();
