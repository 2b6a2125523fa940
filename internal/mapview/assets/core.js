// The data and what all views ask of it. Names come from manifests: they are only ever set as text, never as markup.
const D = JSON.parse(document.getElementById('data').textContent);
const N = D.boxes.length;
const cells = new Int32Array(N * N);
for (let i = 0, at = 0; i < D.cells.length; i += 2) cells.fill(D.cells[i], at, at += D.cells[i + 1]);
const seen = new Map((D.seen || []).map(s => [s.from * N + s.to, s]));
const groupOf = new Int32Array(N);
D.groups.forEach((g, i) => g.boxes.forEach(b => { groupOf[b] = i; }));

// tooMany: more workloads than a picture shows one by one.
const tooMany = () => D.boxes.filter(b => b.kind === 'workload').length > D.limit;

const byId = id => document.getElementById(id);
const answer = (from, to) => D.answers[cells[from * N + to]];
const allowed = a => a.level === 'some' || a.level === 'all';
const plural = (n, one, many) => n.toLocaleString('en') + ' ' + (n === 1 ? one : many || one + 's');
const portText = p => (p.name ? p.name + ' ' : '') + p.port + (p.protocol === 'tcp' ? '' : '/' + p.protocol);
const shortName = b => b.namespace && b.name.startsWith(b.namespace + '/') ? b.name.slice(b.namespace.length + 1) : b.name;

// set gives an element attributes, listeners (on...) and children; texts become text nodes.
function set(e, attrs, ...children) {
  for (const [k, v] of Object.entries(attrs || {})) {
    if (v === undefined || v === null || v === false) continue;
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else e.setAttribute(k, v === true ? '' : v);
  }
  e.append(...children.filter(c => c !== null && c !== undefined && c !== ''));
  return e;
}
const el = (tag, attrs, ...children) => set(document.createElement(tag), attrs, ...children);
const svg = (tag, attrs, ...children) => set(document.createElementNS('http://www.w3.org/2000/svg', tag), attrs, ...children);

// What is shown of all pairs, chosen by the reader. The first leaves out pairs of open ends, which say nothing.
const modes = {
  telling: ['what policies allow', (a, f, t) => allowed(a) && (a.ruled || D.boxes[t].fencedIngress || D.boxes[f].fencedEgress)],
  allowed: ['everything allowed', a => allowed(a)],
  denied: ['what is denied', a => a.level === 'none'],
};
if (seen.size) {
  modes.seen = ['what was really seen', (a, f, t) => seen.has(f * N + t)];
  modes.violations = ['seen and denied', (a, f, t) => (seen.get(f * N + t) || {}).denied > 0];
}

const state = {view: 'graph', mode: 'telling', query: '', hits: null, box: -1, pair: null, between: null, busy: new Map(), collapsed: new Set(), folded: new Set()};
const shown = (from, to) => from !== to && modes[state.mode][1](answer(from, to), from, to);

// busy are boxes that reach, or are reached by, so many others that lines would hide all else: name servers, monitoring.
// Their lines are drawn when they are looked at.
function findBusy() {
  const out = new Int32Array(N), into = new Int32Array(N), most = Math.max(6, N * .4);
  for (let f = 0; f < N; f++) for (let t = 0; t < N; t++) if (shown(f, t)) { out[f]++; into[t]++; }
  state.busy = new Map();
  for (let i = 0; i < N; i++) if (out[i] >= most || into[i] >= most) state.busy.set(i, {out: out[i], into: into[i]});
}
const drawn = (from, to) => !state.busy.has(from) && !state.busy.has(to) && shown(from, to);

// Searching: every word has to be part of a box's name, kind, namespace, label or port.
const haystacks = D.boxes.map((b, i) => [b.name, b.kind, b.owner, ...labelTexts(b.labels), ...labelTexts(D.groups[groupOf[i]].labels),
  ...(b.ports || []).flatMap(p => [p.name, String(p.port), p.port + '/' + p.protocol]), ...(b.prefixes || []), ...(b.pods || [])]
  .filter(Boolean).join('\n').toLowerCase());
function labelTexts(labels) { return Object.entries(labels || {}).map(([k, v]) => k + '=' + v); }
function search(query) {
  state.query = query.trim().toLowerCase();
  const words = state.query.split(/\s+/).filter(Boolean);
  state.hits = words.length ? new Set(haystacks.flatMap((h, i) => words.every(w => h.includes(w)) ? [i] : [])) : null;
}
const hit = i => !state.hits || state.hits.has(i);

// fenceText says what of a box policies fence.
function fenceText(b) {
  if (b.kind !== 'workload' || b.hostNetwork) return '';
  if (b.fencedIngress && b.fencedEgress) return 'fenced both ways';
  if (b.fencedIngress) return 'fenced for incoming, open for outgoing';
  return b.fencedEgress ? 'open for incoming, fenced for outgoing' : 'open: no policy denies it anything';
}

// allowsPort reports whether an answer allows a declared port, in any family.
function allowsPort(a, p) {
  return (a.parts || []).some(part => part.clauses.some(c => c.verdict === 'allow' &&
    c.ranges.some(r => r.protocol === p.protocol && (r.first || 0) <= p.port && p.port <= (r.last || 0))));
}

// rulesOf are the rules behind what is shown of an answer: those that allow, or for nothing allowed those that deny.
function rulesOf(a) {
  const found = new Set();
  for (const part of a.parts || []) {
    for (const c of part.clauses) {
      if ((c.verdict === 'allow') !== allowed(a)) continue;
      for (const half of [c.egress, c.ingress]) {
        if (half && half.rule !== undefined && half.verdict === c.verdict) found.add(half.rule);
      }
    }
  }
  return [...found].map(i => D.rules[i]);
}

// fit cuts text to a width in pixels.
const measure = document.createElement('canvas').getContext('2d');
function fit(text, font, width) {
  measure.font = font;
  if (measure.measureText(text).width <= width) return text;
  let low = 0, high = text.length;
  while (low < high) {
    const mid = (low + high + 1) >> 1;
    if (measure.measureText(text.slice(0, mid) + '…').width <= width) low = mid; else high = mid - 1;
  }
  return text.slice(0, low) + '…';
}
const sans = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

// rove makes one of several elements the one that Tab reaches.
function rove(root, selector, chosen) {
  for (const e of root.querySelectorAll(selector + '[tabindex="0"]')) e.setAttribute('tabindex', '-1');
  if (chosen) chosen.setAttribute('tabindex', '0');
}
