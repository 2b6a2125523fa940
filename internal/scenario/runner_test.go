package scenario

import (
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
)

const manifests = `
-- all.yaml --
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: a, labels: {app: web}}
spec: {containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: a, labels: {app: db}}
spec: {containers: [{name: c, image: i, ports: [{name: sql, containerPort: 5432}]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, namespace: a}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: 5432}]}]
`

func run(t *testing.T, text string, o Options) Result {
	t.Helper()
	r, err := Run("test.txtar", []byte(text), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Each of these is wrong, and says so once for each family and engine, or once for the file.
func TestWhatIsWrongFails(t *testing.T) {
	for _, test := range []struct {
		command, want string
		failures      int
	}{
		{"! allow a/web -> a/db:5432", "is allow by a/p ingress[0] (all.yaml:16), want deny", 6},
		{"allow a/web -> a/db:1", "is deny by a/p ingress (all.yaml:11), want allow", 6},
		{"allow a/web -> a/db:sql by a/q", "want it by a/q", 6},
		{"allow a/web -> a/db:sql by a/p ingress[1]", "want it by a/p ingress[1]", 6},
		{"allow a/db -> a/web:1 by a/p", "is allow by no policy, want it by a/p", 6},
		{"allow a/web -> a/db:sql by no policy", "want it by no policy", 6},
		{"! allow a/app -> a/db:5432", "", -1}, // no such pod: an error
		{"! allow a/* -> a/db:5432", "is allow", 6},
		{"explain a/web -> a/db:1 > wrong.txt", "differs in line 1; -update rewrites it\nwant: nothing like it\ngot:  DENY  a/web -> a/db:1/tcp", 1},
		{"matrix sql > wrong.txt", "differs in line 1", 1},
		{"load all.yaml broken.yaml\n! allow a/web -> a/db:sql", "broken.yaml:1: NetworkPolicy a/q", 1},
		{"load all.yaml broken.yaml\nproblems > wrong.txt", "differs in line 1", 1},
	} {
		text := test.command + "\n" + manifests + "-- wrong.txt --\nnothing like it\n-- broken.yaml --\n" +
			"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: q, namespace: a}, spec: {podSelektor: {}}}\n"
		if !strings.Contains(test.command, "load") {
			text = "load all.yaml\n" + text
		}
		r, err := Run("test.txtar", []byte(text), Options{})
		if test.failures < 0 {
			if err == nil {
				t.Errorf("%s: no error", test.command)
			}
			continue
		}
		if err != nil || len(r.Failures) != test.failures {
			t.Errorf("%s: error %v and %d failures, want %d: %v", test.command, err, len(r.Failures), test.failures, r.Failures)
			continue
		}
		if got := r.Failures[0].Text; !strings.Contains(got, test.want) {
			t.Errorf("%s: failed with %q, want %q in it", test.command, got, test.want)
		}
	}
}

func TestWhatMakesNoSenseIsAnError(t *testing.T) {
	for command, want := range map[string]string{
		"":                                 "the scenario expects nothing",
		"permit a/web -> a/db:1":           `test.txtar:1: permit a/web -> a/db:1: unknown command "permit"`,
		"! explain a/web -> a/db:1":        "! goes with allow only",
		"allow a/web a/db:1":               "want A -> B:PORT",
		"allow a/web -> a/db":              "want a port behind the destination",
		"allow a/web -> [2001:db8::1]":     "want a port behind the destination",
		"allow a/web -> 2001:db8::1:80":    "write an IPv6 address before a port as [2001:db8::1]",
		"allow a/web -> a/db:70000":        "port",
		"allow a/web -> a/db:http":         `declares no port named "http"; it declares sql`,
		"allow a/webb -> a/db:1":           "did you mean a/web?",
		"allow a/web -> a/db:1 by ":        "port", // the space behind is trimmed with the line
		"explain a/web -> a/db:1":          "want > FILE",
		"explain a/web -> a/db:1 > no.txt": "the archive has no file no.txt; -update makes it",
		"matrix > x.txt":                   "want matrix PORT",
		"problems all > x.txt":             "problems takes only > FILE",
		"load no.yaml":                     "no.yaml is neither in the archive nor beside the scenario",
		"load\noffline":                    "offline has to come before",
		"allow node/none -> a/db:1":        "none",
	} {
		_, err := Run("test.txtar", []byte(command+"\n"+manifests), Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q in it", command, err, want)
		}
	}
}

func TestVerdictsHoldOnEveryEngineAndFamily(t *testing.T) {
	r := run(t, "allow a/web -> a/db:sql by a/p ingress[0]\n! allow a/app=web -> a/app=db:1 by a/p ingress\nallow a/* -> 203.0.113.1:80 by no policy\n"+manifests, Options{})
	if len(r.Failures) > 0 {
		t.Error(r.Failures)
	}
	if r.Judged != 2+2+2 { // two families each, and two pods to one address of one family
		t.Errorf("judged %d connections, want 6", r.Judged)
	}
}

// liar is the reference but for one port.
type liar struct{ reference }

func (*liar) Name() string { return "liar" }

func (l *liar) Judge(c cluster.Connection) (flow.Decision, error) {
	d, err := l.reference.Judge(c)
	if c.Port == 666 {
		d.Rule.Index++
	}
	return d, err
}

func TestEnginesMustAgreeOnTheWholeDecision(t *testing.T) {
	o := Options{Engines: []Engine{&reference{}, &liar{}}}
	if r := run(t, "! allow a/web -> a/db:667\n"+manifests, o); len(r.Failures) > 0 {
		t.Errorf("they agree on port 667: %v", r.Failures)
	}
	r := run(t, "! allow a/web -> a/db:666\n"+manifests, o)
	if len(r.Failures) != 2 || !strings.Contains(r.Failures[0].Text, "engines differ on a/web -> a/db (10.244.0.3 -> 10.244.0.2:666/tcp)\nreference: deny by a/p ingress") {
		t.Errorf("they differ on port 666: %v", r.Failures)
	}
}

func TestUpdateWritesWhatIsExpected(t *testing.T) {
	text := "matrix sql > m.txt\nexplain a/db -> a/web:1 > e.txt\n" + manifests + "-- m.txt --\nold\n"
	updated := run(t, text, Options{Update: true}).Updated
	if r := run(t, string(updated), Options{Update: true}); len(r.Failures) > 0 || r.Updated != nil {
		t.Errorf("after an update there is more to update: %v\n%s", r.Failures, r.Updated)
	}
	want := "1 = a/db\n2 = a/web\n\n        1   2\na/db    -   -\na/web yes   -\n"
	if !strings.Contains(string(updated), "-- m.txt --\n"+want) || !strings.Contains(string(updated), "-- e.txt --\nALLOW  a/db -> a/web:1/tcp") {
		t.Errorf("updated to:\n%s", updated)
	}
}

func TestUpdateDoesNotTouchVerdicts(t *testing.T) {
	r := run(t, "! allow a/web -> a/db:sql\n"+manifests, Options{Update: true})
	if len(r.Failures) == 0 || r.Updated != nil {
		t.Error("a wrong verdict line was updated away")
	}
}

func TestOfflinePodsHaveNoAddresses(t *testing.T) {
	r := run(t, "offline\nallow a/web -> a/db:sql\n"+manifests, Options{})
	if len(r.Failures) > 0 || r.Judged != 1 {
		t.Errorf("judged %d connections, want 1: %v", r.Judged, r.Failures)
	}
}
