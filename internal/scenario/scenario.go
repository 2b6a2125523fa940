package scenario

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/query"
	"github.com/ringfence-project/ringfence/internal/service"
)

// Options are choices for Run. The zero value is good.
type Options struct {
	// Engines judge every connection; nil is Engines(). The first is the one that the others are compared with, and
	// the only one that is asked about ends without addresses.
	Engines []Engine
	// Update makes expected outputs of what comes out. Verdict lines stay as they are.
	Update bool
}

// Result is what came of a scenario.
type Result struct {
	Judged   int // how many connections were judged, by each engine that could
	Failures []Failure
	// Updated is the scenario with its expected outputs rewritten; nil without Options.Update or if nothing changed.
	Updated []byte
}

// Failure is an expectation that was not met.
type Failure struct {
	File    string
	Line    int
	Command string
	Text    string // what came instead; may have several lines
}

// String is "file:line: command" with the text indented below.
func (f Failure) String() string {
	return fmt.Sprintf("%s:%d: %s\n    %s", f.File, f.Line, f.Command, strings.ReplaceAll(f.Text, "\n", "\n    "))
}

// RunFile runs the scenario in a file, and writes it back if it was updated.
func RunFile(file string, o Options) (Result, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return Result{}, fmt.Errorf("scenario: %w", err)
	}
	r, err := Run(file, data, o)
	if err != nil || r.Updated == nil {
		return r, err
	}
	if err := os.WriteFile(file, r.Updated, 0o644); err != nil {
		return r, fmt.Errorf("scenario: %w", err)
	}
	return r, nil
}

// Run runs a scenario; file is its name in messages. An expectation that is not met is a Failure, and the scenario
// goes on; a command that makes no sense is an error, and ends it.
func Run(file string, data []byte, o Options) (Result, error) {
	r := runner{file: file, archive: txtar.Parse(data), update: o.Update, engines: o.Engines}
	if r.engines == nil {
		r.engines = Engines()
	}
	lines := commandLines(string(r.archive.Comment))
	for _, l := range lines {
		r.line = l
		if err := r.command(l.text); err != nil {
			return r.result, fmt.Errorf("%s:%d: %s: %w", file, l.number, l.text, err)
		}
	}
	r.finishLoad()
	if r.checks == 0 && len(r.result.Failures) == 0 {
		return r.result, fmt.Errorf("%s: the scenario expects nothing", file)
	}
	if r.changed {
		r.result.Updated = txtar.Format(r.archive)
	}
	return r.result, nil
}

// runner is a scenario on its way.
type runner struct {
	file    string
	archive *txtar.Archive
	engines []Engine
	update  bool
	changed bool // an expected output was rewritten
	line    line
	result  Result
	checks  int // expectations looked at

	offline  bool
	state    *cluster.State // nil until something is loaded
	services []service.Service
	loadedAt line
	problems []string // of the loaded manifests, and notes, until a command asks for them
	bad      bool     // there are problems among them, not only notes
}

func (r *runner) command(text string) error {
	word, rest, _ := strings.Cut(text, " ")
	rest = strings.TrimSpace(rest)
	if word == "!" {
		if word, rest, _ = strings.Cut(rest, " "); word != "allow" {
			return fmt.Errorf("! goes with allow only")
		}
		word = "! allow"
	}
	if word == "load" {
		return r.load(strings.Fields(rest))
	}
	if word == "offline" {
		if r.state != nil {
			return fmt.Errorf("offline has to come before load and before anything that is expected")
		}
		r.offline = true
		return nil
	}
	do, known := map[string]func(string) error{
		"allow":    func(s string) error { return r.expect(s, true) },
		"! allow":  func(s string) error { return r.expect(s, false) },
		"explain":  r.explain,
		"matrix":   r.matrix,
		"problems": r.expectProblems,
	}[word]
	if !known {
		return fmt.Errorf("unknown command %q; there are:\n%s", word, Commands)
	}
	if r.state == nil {
		if err := r.load(nil); err != nil {
			return err
		}
	}
	r.checks++
	return do(rest)
}

// load makes a cluster of files, of all manifests in the archive if none are named, and gives it to the engines. What
// the archive does not have is read from beside the scenario.
func (r *runner) load(files []string) error {
	r.finishLoad()
	b := manifest.NewBundle()
	for _, name := range r.manifests(files) {
		data, err := r.readFile(name)
		if err != nil {
			return err
		}
		b.Decode(name, data)
	}
	loaded := b.Finish(manifest.Options{})
	r.services = loaded.Services
	r.loadedAt, r.problems, r.bad = r.line, nil, len(loaded.Problems) > 0
	for _, p := range loaded.Problems {
		r.problems = append(r.problems, p.Text())
	}
	for _, n := range loaded.Notices {
		r.problems = append(r.problems, "note: "+n.String())
	}
	return r.use(loaded.Objects)
}

// manifests are the files named, or all manifests of the archive.
func (r *runner) manifests(named []string) []string {
	if len(named) > 0 {
		return named
	}
	for _, f := range r.archive.Files {
		if slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(f.Name)) {
			named = append(named, f.Name)
		}
	}
	return named
}

func (r *runner) readFile(name string) ([]byte, error) {
	if f := r.archiveFile(name); f != nil {
		return f.Data, nil
	}
	data, err := os.ReadFile(filepath.Join(filepath.Dir(r.file), filepath.FromSlash(name)))
	if err != nil {
		return nil, fmt.Errorf("%s is neither in the archive nor beside the scenario: %w", name, err)
	}
	return data, nil
}

// rangesOf are where pods get addresses from: the first pod range of each family that the nodes have, or our own.
func rangesOf(o cluster.Objects) (v4, v6 netip.Prefix) {
	v4, v6 = netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/64")
	for _, p := range slices.Backward(o.PodRanges) {
		if p.Addr().Is4() {
			v4 = p
		} else {
			v6 = p
		}
	}
	return v4, v6
}

func (r *runner) use(o cluster.Objects) error {
	if !r.offline {
		v4, v6 := rangesOf(o)
		if err := cluster.AssignAddresses(&o, v4, v6); err != nil {
			return fmt.Errorf("give pods addresses: %w", err)
		}
	}
	s, err := cluster.NewState(o)
	if err != nil {
		return err
	}
	r.state = s
	for _, e := range r.engines {
		if err := e.Load(s); err != nil {
			return fmt.Errorf("engine %s: %w", e.Name(), err)
		}
	}
	return nil
}

// finishLoad fails the scenario for problems that no command asked for.
func (r *runner) finishLoad() {
	if r.bad && len(r.problems) > 0 {
		r.fail(r.loadedAt, "the manifests have problems (expect them with: problems > FILE)\n"+strings.Join(r.problems, "\n"))
	}
	r.problems = nil
}

func (r *runner) fail(l line, text string) {
	r.result.Failures = append(r.result.Failures, Failure{r.file, l.number, l.text, strings.TrimRight(text, "\n")})
}

func (r *runner) archiveFile(name string) *txtar.File {
	for i := range r.archive.Files {
		if r.archive.Files[i].Name == name {
			return &r.archive.Files[i]
		}
	}
	return nil
}

// compare compares an output with a file of the archive, or makes it that file.
func (r *runner) compare(file, got string) error {
	f := r.archiveFile(file)
	switch {
	case f != nil && string(f.Data) == got:
	case r.update && f != nil:
		f.Data, r.changed = []byte(got), true
	case r.update:
		r.archive.Files = append(r.archive.Files, txtar.File{Name: file, Data: []byte(got)})
		r.changed = true
	case f == nil:
		return fmt.Errorf("the archive has no file %s; -update makes it", file)
	default:
		r.fail(r.line, difference(string(f.Data), got))
	}
	return nil
}

// difference shows the first lines in which two texts differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	show := func(lines []string) string {
		if i >= len(lines) {
			return "(end)"
		}
		return lines[i]
	}
	return fmt.Sprintf("differs in line %d; -update rewrites it\nwant: %s\ngot:  %s", i+1, show(w), show(g))
}

func (r *runner) expectProblems(text string) error {
	args, file, err := cutGolden(text)
	if err != nil {
		return err
	}
	if args != "" {
		return fmt.Errorf("problems takes only > FILE")
	}
	got := ""
	for _, p := range r.problems {
		got += p + "\n"
	}
	r.problems = nil
	return r.compare(file, got)
}

func (r *runner) resolve(ref string) ([]cluster.Party, error) {
	return query.Scope{State: r.state}.Resolve(ref)
}

// connections are all that t stands for. A pod's connection to itself is left out where there are others.
func (r *runner) connections(t target) ([]cluster.Connection, error) {
	from, err := r.resolve(t.from)
	if err != nil {
		return nil, err
	}
	to, err := query.Scope{State: r.state, Services: r.services}.Targets(t.to, t.port)
	if err != nil {
		return nil, err
	}
	var all []cluster.Connection
	for _, a := range from {
		for _, b := range to {
			if len(from)*len(to) > 1 && a.Endpoint != nil && a.Endpoint == b.To.Endpoint && !b.Translated {
				continue
			}
			found, err := b.Connect(a)
			if err != nil {
				return nil, err
			}
			all = append(all, found...)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("that is no connection but a pod's to itself")
	}
	return all, nil
}

// sortedParties sorts parties by name and drops repeats.
func sortedParties(all []cluster.Party) []cluster.Party {
	slices.SortFunc(all, func(a, b cluster.Party) int { return cmp.Compare(a.String(), b.String()) })
	return slices.CompactFunc(all, func(a, b cluster.Party) bool { return a.String() == b.String() })
}
