package mapview_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/mapview"
)

// browser starts headless Chromium; the test is skipped where there is none.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skip("no chromium on PATH: the page is not tested in a browser")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("hide-scrollbars", true))
	ctx, stop := chromedp.NewExecAllocator(t.Context(), opts...)
	t.Cleanup(stop)
	return ctx
}

// page is one tab with the page in it.
type page struct {
	*testing.T
	ctx      context.Context
	mu       sync.Mutex
	messages []string
}

// open writes a view to disk and opens it; theme is "light" or "dark", fragment what stands behind the # of the address.
func open(t *testing.T, alloc context.Context, v mapview.View, theme, fragment string) *page {
	t.Helper()
	file := filepath.Join(t.TempDir(), "map.html")
	if err := os.WriteFile(file, []byte(render(t, v, "html")), 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, stop := chromedp.NewContext(alloc)
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	t.Cleanup(cancel)
	p := &page{T: t, ctx: ctx}
	if err := chromedp.Listen(ctx, p.note); err != nil {
		t.Fatal(err)
	}
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: theme}}})
	if err != nil {
		t.Fatal(err)
	}
	p.do(chromedp.EmulateViewport(1440, 900), chromedp.Navigate((&url.URL{Scheme: "file", Path: file, Fragment: fragment}).String()), chromedp.WaitReady(chromedp.CSS("#detail h2")))
	return p
}

// note keeps what the page or the browser complains about: errors, refused loads, exceptions.
func (p *page) note(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		p.messages = append(p.messages, fmt.Sprint(e.ExceptionDetails.Text, " ", e.ExceptionDetails.Exception.Description))
	case *runtime.EventConsoleAPICalled:
		p.messages = append(p.messages, "console: "+string(e.Type))
	case *log.EventEntryAdded:
		p.messages = append(p.messages, e.Entry.Text)
	}
}

func (p *page) do(steps ...chromedp.Action[chromedp.Void]) {
	p.Helper()
	if err := chromedp.Do(p.ctx, steps...); err != nil {
		p.Fatal(err)
	}
}

// js evaluates an expression.
func js[T any](p *page, expression string) T {
	p.Helper()
	v, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		p.Fatalf("%s: %v", expression, err)
	}
	return v
}

func (p *page) want(what, expression string, want string) {
	p.Helper()
	if got := js[string](p, "String("+expression+")"); !strings.Contains(got, want) {
		p.Errorf("%s: %q, want %q in it", what, got, want)
	}
}

// eventually waits for what a timer or an animation frame of the page does.
func (p *page) eventually(expression string) {
	p.Helper()
	if _, err := chromedp.Run(p.ctx, chromedp.Poll[bool](expression, chromedp.WithPollingTimeout(30*time.Second))); err != nil {
		p.Fatalf("%s never became true: %v", expression, err)
	}
}

func (p *page) keys(keys ...string) {
	p.Helper()
	for _, k := range keys {
		p.do(chromedp.KeyEvent(k))
	}
}

// shot keeps a picture if RINGFENCE_SHOTS names a folder for them, for people to look at.
func (p *page) shot(name string) {
	folder := os.Getenv("RINGFENCE_SHOTS")
	if folder == "" {
		return
	}
	data, err := chromedp.Run(p.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(folder, name+".png"), data, 0o644)
	}
	if err != nil {
		p.Fatal(err)
	}
}

// quiet fails if the page or the browser complained, or if something was loaded.
func (p *page) quiet() {
	p.Helper()
	if n := js[int](p, "performance.getEntriesByType('resource').length"); n != 0 {
		p.Errorf("the page loaded %d things", n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.messages {
		p.Errorf("the browser says: %s", m)
	}
}

// overlaps lists what lies over another thing in the graph: boxes over boxes, groups over groups, boxes that leave theirs.
const overlaps = `(() => {
  const rects = s => [...document.querySelectorAll(s)].map(e => e.getBoundingClientRect()), bad = [];
  const cross = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  for (const s of ['#svg .node rect.card', '.group > rect']) { const r = rects(s); r.forEach((a, i) => r.slice(i + 1).forEach(b => { if (cross(a, b)) bad.push(s); })); }
  const groups = rects('.group > rect');
  for (const n of rects('#svg .node rect.card')) if (!groups.some(g => g.left <= n.left && n.right <= g.right && g.top <= n.top && n.bottom <= g.bottom)) bad.push('outside its group');
  for (const n of document.querySelectorAll('#svg .node')) { const c = n.querySelector('.card').getBoundingClientRect(); for (const t of n.querySelectorAll('text')) if (t.getBoundingClientRect().right > c.right) bad.push('text: ' + t.textContent); }
  if (document.documentElement.scrollWidth > innerWidth) bad.push('the page is wider than the window');
  return bad.join('; ');
})()`

// faint lists texts whose contrast with what is behind them is below the 4.5 of WCAG 2.1 AA (1.4.3).
const faint = `(() => {
  const rgb = c => (c.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const lum = c => { const [r, g, b] = c.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const bad = new Set();
  for (const e of document.querySelectorAll('body *')) {
    if (!e.checkVisibility() || ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || e.closest('option, title, noscript, script, style')) continue;
    const s = getComputedStyle(e), text = rgb(e instanceof SVGElement ? s.fill : s.color);
    let back, at = e;
    if (e instanceof SVGElement) { const card = e.parentNode.querySelector('.card') || e.closest('.group').querySelector('rect'); back = rgb(getComputedStyle(card).fill); }
    else { for (; at; at = at.parentElement) { const b = rgb(getComputedStyle(at).backgroundColor); if (b.length < 4 || b[3] > 0) { back = b; break; } } }
    const [x, y] = [lum(text.slice(0, 3)), lum((back || [255, 255, 255]).slice(0, 3))].sort((a, b) => b - a);
    if ((x + .05) / (y + .05) < 4.5) bad.add(e.tagName + '.' + (e.getAttribute('class') || '') + ' ' + e.textContent.slice(0, 20) + ' ' + ((x + .05) / (y + .05)).toFixed(2));
  }
  return [...bad].join('; ');
})()`

// nameless lists what can be operated and has no name for those who do not see it.
const nameless = `[...document.querySelectorAll('button, input, select, [role=button], [role=tab], [role=gridcell]')].filter(e => e.checkVisibility() &&
  !(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels.length))).map(e => e.outerHTML.slice(0, 80)).join('; ')`

func (p *page) inspect() {
	p.Helper()
	for what, expression := range map[string]string{"overlaps": overlaps, "too faint": faint, "without a name": nameless} {
		if bad := js[string](p, expression); bad != "" {
			p.Errorf("%s: %s", what, bad)
		}
	}
}

func TestPageInBothThemesAndSizes(t *testing.T) {
	alloc := browser(t)
	for _, n := range []int{10, 300} {
		for _, theme := range []string{"light", "dark"} {
			t.Run(fmt.Sprint(n, " ", theme), func(t *testing.T) {
				v := view(t, teams(t, n), fmt.Sprint(n, " workloads"))
				p := open(t, alloc, v, theme, "")
				for _, view := range []string{"graph", "matrix", "table"} {
					p.do(chromedp.Click(chromedp.ID("tab-" + view)))
					p.shot(fmt.Sprintf("%d-%s-%s", n, theme, view))
					p.inspect()
				}
				p.do(chromedp.Click(chromedp.ID("tab-graph")))
				if n > 150 { // then it begins with namespaces
					p.do(chromedp.Click(chromedp.ID("expand")))
					p.shot(fmt.Sprintf("%d-%s-expanded", n, theme))
					p.inspect()
				}
				if nodes := js[int](p, "document.querySelectorAll('#svg .node').length"); nodes != n+1 {
					t.Errorf("%d boxes are drawn, want %d and the world", nodes, n)
				}
				p.want("theme", "getComputedStyle(document.documentElement).colorScheme", theme)
				p.do(chromedp.Click(chromedp.ID("theme")))
				if theme == js[string](p, "getComputedStyle(document.documentElement).colorScheme") {
					t.Error("the button does not change the theme")
				}
				p.quiet()
			})
		}
	}
}

func TestPageByKeyboard(t *testing.T) {
	p := open(t, browser(t), example(t, "ldap"), "light", "")
	p.do(chromedp.Focus(chromedp.ID("tab-graph")))
	p.keys(kb.ArrowRight)
	p.want("tab after an arrow", "document.activeElement.id + document.getElementById('tab-matrix').ariaSelected", "tab-matrixtrue")
	p.do(chromedp.Focus(chromedp.CSS("#matrix td[tabindex='0']")))
	p.keys(kb.ArrowDown)
	p.want("cell", "document.activeElement.getAttribute('aria-label')", "orders/credit-check to customers/ldap: 389, 636")
	p.keys(kb.Enter)
	p.want("why", "document.getElementById('detail').textContent", "examples/ldap/policies.yaml:15")
	p.want("declared ports", "document.getElementById('detail').textContent", "✕ admin 8080")
	p.keys(kb.Escape)
	p.want("after Escape", "document.getElementById('detail').textContent", "Overview")
	p.keys("1")
	p.do(chromedp.Focus(chromedp.CSS("#svg [tabindex='0']")))
	first := js[string](p, "document.activeElement.getAttribute('aria-label')")
	p.keys(kb.ArrowDown)
	if second := js[string](p, "document.activeElement.getAttribute('aria-label')"); second == first || second == "" {
		t.Errorf("an arrow goes from %q to %q", first, second)
	}
	p.do(chromedp.Focus(chromedp.CSS(".node[aria-label^='orders/credit-check,']")))
	p.eventually("document.querySelectorAll('#edges .edge.out').length === 1 && document.querySelector('#svg .node.near .sub').textContent === '389, 636'")
	p.want("focus ring", "getComputedStyle(document.activeElement.querySelector('.card')).strokeWidth", "3")
	p.keys(kb.Enter)
	p.want("selected", "document.getElementById('detail').textContent", "role=ldap-client")
	p.shot("keyboard-selected")
	p.keys("/")
	p.want("search", "document.activeElement.id", "search")
	js[string](p, "document.activeElement.value = ''") // DevTools types the slash though the page refused the key
	p.keys("636")
	p.eventually("document.querySelectorAll('.node.hit').length === 1 && document.querySelector('.node.hit').getAttribute('aria-label').startsWith('customers/ldap')")
	p.keys(kb.Escape)
	p.eventually("document.getElementById('search').value === ''")
	p.do(chromedp.Focus(chromedp.ID("tab-graph")))
	p.keys("3")
	p.do(chromedp.Focus(chromedp.CSS("#table button[data-sort=to]")))
	p.keys(kb.Enter)
	p.want("sorted", "document.querySelector('th[aria-sort=ascending]').textContent", "To")
	p.do(chromedp.Focus(chromedp.CSS("#table tbody tr")))
	p.keys(kb.Enter)
	p.want("row", "document.getElementById('detail').textContent", "Why")
	p.quiet()
}

func TestPageByMouse(t *testing.T) {
	p := open(t, browser(t), example(t, "shop"), "dark", "graph:shop/checkout")
	p.want("selected by the address", "document.querySelector('.node.on').getAttribute('aria-label')", "shop/checkout")
	p.shot("shop-checkout-dark")
	p.inspect()
	p.do(chromedp.Click(chromedp.CSS(".head[data-group='0']")))
	p.want("folded", "document.querySelector(\".head[data-group='0']\").getAttribute('aria-expanded')", "false")
	if nodes := js[int](p, "document.querySelectorAll('#svg .node').length"); nodes != 13 {
		t.Errorf("%d boxes are left, want 13", nodes)
	}
	p.inspect()
	p.do(chromedp.Click(chromedp.ID("tab-matrix")), chromedp.Click(chromedp.CSS("#matrix td[aria-label^='shop/cart to shop/cart-cache']")))
	p.want("cell", "document.getElementById('detail').textContent", "examples/shop/teams.yaml:85")
	p.shot("shop-matrix-dark")
	p.do(chromedp.Click(chromedp.ID("tab-table")), chromedp.SendKeys(chromedp.ID("search"), "payments"))
	p.eventually("[...document.querySelectorAll('#table tbody tr')].every(r => r.textContent.includes('payments/'))")
	p.do(chromedp.SetValue(chromedp.ID("mode"), "denied"))
	js[bool](p, "document.getElementById('mode').dispatchEvent(new Event('change'))")
	p.want("denied", "document.querySelector('#table tbody tr').textContent", "nothing")
	p.shot("shop-table-denied-dark")
	p.inspect()
	p.do(chromedp.Click(chromedp.ID("tab-graph")))
	if _, err := chromedp.Call(p.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Media: "print"}); err != nil {
		t.Fatal(err)
	}
	p.want("on paper", "document.getElementById('tab-graph').checkVisibility() + ' ' + getComputedStyle(document.body).backgroundColor", "false rgb(255, 255, 255)")
	p.shot("shop-print")
	p.quiet()
}

func TestPageShowsWhatWasSeen(t *testing.T) {
	p := open(t, browser(t), seenIn(example(t, "ldap")), "light", "")
	js[bool](p, "(() => { const m = document.getElementById('mode'); m.value = 'violations'; return m.dispatchEvent(new Event('change')); })()")
	p.want("violations", "document.querySelectorAll('#edges .edge.deny').length", "1")
	p.do(chromedp.Click(chromedp.ID("tab-matrix")))
	p.want("dots", "document.querySelectorAll('td .dot').length + ' ' + document.querySelectorAll('td .dot.deny').length", "2 1")
	p.do(chromedp.Click(chromedp.CSS("td:has(.dot.deny)")))
	p.want("counts", "document.getElementById('detail').textContent", "8 denied")
	p.shot("seen")
	p.quiet()
}

func TestPageTakesNamesAsText(t *testing.T) {
	s, err := cluster.NewState(cluster.Objects{Endpoints: []*cluster.Endpoint{{Key: cluster.Key{Namespace: hostile, Name: hostile}}, {Key: cluster.Key{Namespace: "b", Name: "b"}}}})
	if err != nil {
		t.Fatal(err)
	}
	p := open(t, browser(t), view(t, s, hostile), "light", "")
	for _, v := range []string{"graph", "matrix", "table"} {
		p.do(chromedp.Click(chromedp.ID("tab-" + v)))
	}
	p.want("nothing ran", "window.broken", "undefined")
	p.want("no element", "document.querySelectorAll('img').length", "0")
	p.want("the name", "document.getElementById('source').textContent", hostile)
	p.quiet()
}

func TestPageOfThousandBoxes(t *testing.T) {
	p := open(t, browser(t), view(t, teams(t, 1000), "1000 workloads"), "light", "")
	if n := js[int](p, "document.querySelectorAll('#svg .node').length"); n != 0 {
		t.Errorf("%d single boxes are drawn", n)
	}
	p.shot("1000")
	p.do(chromedp.Click(chromedp.CSS(".head[data-group='3']")))
	p.want("unfolded", "document.querySelectorAll('#svg .node').length", "20")
	for _, v := range []string{"matrix", "table"} {
		p.do(chromedp.Click(chromedp.ID("tab-" + v)))
	}
	p.inspect()
	p.quiet()
}
