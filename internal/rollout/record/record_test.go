package record_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

const text = `apiVersion: ringfence.dev/v1alpha1
kind: PolicyRollout
metadata: {name: lockdown}
spec:
  policies:
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: web, namespace: shop}
    spec:
      podSelector: {matchLabels: {app: web}, matchExpressions: null}
      policyTypes: [Egress]
      egress: [{to: [{podSelector: {}}], ports: [{port: 5432}]}]
  remove:
  - {kind: NetworkPolicy, namespace: shop, name: old}
  steps:
  - audit: {for: 90s}
  - enforce: {percent: 10, for: 5m}
  - pause: {until: Promoted}
  - enforce: {percent: 100}
  analysis:
    newlyDenied: {max: 3, then: Pause}
`

var now = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)

func object(t *testing.T, manifest string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	u := new(unstructured.Unstructured)
	if err := u.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	u.SetUID("uid")
	u.SetResourceVersion("7")
	u.SetGeneration(3)
	u.SetManagedFields(nil)
	return u
}

func read(t *testing.T, u *unstructured.Unstructured) record.Record {
	t.Helper()
	r, err := record.Read(u)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// again writes the record, and reads what an API would give back.
func again(t *testing.T, r record.Record) record.Record {
	t.Helper()
	u, err := r.Object()
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	back := new(unstructured.Unstructured)
	if err := back.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return read(t, back)
}

// edit changes the spec that r was read from, with the status that r has.
func edit(t *testing.T, r record.Record, from, to string) record.Record {
	t.Helper()
	u, err := r.Object()
	if err != nil {
		t.Fatal(err)
	}
	data, err := yaml.Marshal(u.Object)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), from) {
		t.Fatalf("%q is not in\n%s", from, data)
	}
	return read(t, object(t, strings.Replace(string(data), from, to, 1)))
}

func TestTheAPIGivesTheSpecOfTheFile(t *testing.T) {
	b := manifest.NewBundle()
	b.Decode("r.yaml", []byte(text))
	want := b.Finish(manifest.Options{}).Rollouts[0]
	got := read(t, object(t, text))
	if got.Spec == nil || got.Spec.Digest != want.Digest || got.Digest != want.Digest {
		t.Fatalf("digest %s of the API, %s of the file (%s)", got.Digest, want.Digest, got.Why)
	}
	if !reflect.DeepEqual(got.Spec.Steps, want.Steps) || !reflect.DeepEqual(got.Spec.Analysis, want.Analysis) || !reflect.DeepEqual(got.Spec.Touches(), want.Touches()) {
		t.Errorf("the API gives %+v, the file %+v", got.Spec, want)
	}
	if place := got.Spec.Policies[0].RuleAt(flow.Egress, 0).Place(); place != "" {
		t.Errorf("a rule of the API has the place %q", place)
	}
	without := read(t, object(t, strings.Replace(text, ", matchExpressions: null", "", 1)))
	if without.Digest != want.Digest {
		t.Error("a field that is null makes another digest than one that is absent")
	}
	if other := read(t, object(t, strings.Replace(text, "max: 3", "max: 4", 1))); other.Digest == want.Digest {
		t.Error("another spec has the same digest")
	}
}

func TestStatusIsReadAsItWasWritten(t *testing.T) {
	r := read(t, object(t, text))
	s := rollout.Status{}.Follow(r.Spec, "", now)
	s.Evidence.Saw("shop/web")
	s.Evidence.Add(rollout.Finding{Kind: rollout.NewlyDenied, Enforced: true, Live: true, Source: "shop/web", Destination: "shop/db", Port: "5432/tcp",
		Before: "no policy", After: "shop/web egress", Example: "shop/web-1 -> shop/db-1", Count: 3, First: now, Last: now.Add(time.Second)})
	s.Evidence.More, s.Evidence.Uncertain = 2, 1
	s.Evidence.Cohort.Add(flow.Refused)
	s.Evidence.Cohort.Add(flow.Reset)
	s.Evidence.Rest.Add(flow.Well)
	s.Accepted, s.Watched, s.By, s.Reason = []string{"x"}, 1500*time.Millisecond, rollout.ByPerson, "by a person"
	r = r.With(s, now)
	r.Lost, r.Nodes, r.Selected, r.Cohort = []string{"DNS of shop/web"}, "2/3", 5, 1
	back := again(t, r)
	if a, b := asJSON(t, back.Status), asJSON(t, s); a != b {
		t.Errorf("read %s\nwritten %s", a, b)
	}
	if !reflect.DeepEqual(back.Lost, r.Lost) || back.Nodes != "2/3" || back.Selected != 5 || back.Cohort != 1 || back.ResourceVersion != "7" || back.Generation != 3 {
		t.Errorf("read %+v", back)
	}
}

// An agent or controller of an earlier version says nothing of resets.
func TestEvidenceOfBefore(t *testing.T) {
	var before v1alpha1.RolloutEvidence
	if err := json.Unmarshal([]byte(`{"connections":3,"cohort":{"ended":3,"failed":1},"rest":{"ended":2}}`), &before); err != nil {
		t.Fatal(err)
	}
	e := record.EvidenceOf(before)
	if e.Cohort != (rollout.Outcomes{Ended: 3, Failed: 1}) || e.Rest != (rollout.Outcomes{Ended: 2}) {
		t.Errorf("read %+v", e)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), `+00:00"`, `Z"`)
}

func members(r record.Record) (part rollout.Part, finals []rollout.Part) {
	s, err := cluster.NewState(cluster.Objects{})
	if err != nil {
		panic(err)
	}
	return r.Part(s), record.Finals([]record.Record{r})
}

// What was complete stays in force beneath whatever is written next, until that is complete; and is what an end goes back to.
func TestCompleteRevisionsStayBeneath(t *testing.T) {
	r := read(t, object(t, text))
	end := func(r record.Record, phase rollout.Phase) record.Record {
		s := r.Status
		s.Phase, s.Step = phase, len(r.Spec.Steps)
		return again(t, r.With(s, now))
	}
	follow := func(r record.Record) record.Record {
		now = now.Add(time.Second)
		return again(t, r.With(r.Status.Follow(r.Spec, "", now), now))
	}
	wantFinals := func(what string, r record.Record, digests ...string) {
		t.Helper()
		var got []string
		for _, f := range []*record.Finished{r.Former, r.Complete} {
			if f != nil {
				got = append(got, f.Digest)
			}
		}
		_, finals := members(r)
		if !reflect.DeepEqual(got, digests) || len(finals) != len(digests) {
			t.Fatalf("%s: in force are %v, want %v", what, got, digests)
		}
	}
	first := end(follow(r), rollout.Complete)
	wantFinals("complete", first, first.Digest)
	edited := edit(t, first, "max: 3", "max: 4")
	wantFinals("edited, and nobody has followed", edited, first.Digest)
	if p, _ := members(edited); p.Everyone || p.Final || len(p.Members) > 0 {
		t.Fatal("something of a spec is in force that no status is about")
	}
	second := follow(edited)
	wantFinals("a new revision under way", second, first.Digest)
	wantFinals("and aborted", end(second, rollout.Aborted), first.Digest)
	second = end(second, rollout.Complete)
	wantFinals("and complete", second, first.Digest, second.Digest)
	wantFinals("and undone", end(second, rollout.Undone), first.Digest)
	third := follow(edit(t, second, "max: 4", "max: 5"))
	wantFinals("edited once more", third, second.Digest)
	broken := edit(t, second, "percent: 10\n", "percent: 101\n")
	if broken.Spec != nil || !strings.Contains(broken.Why, "101 is not from 1 to 100") {
		t.Fatalf("want a spec that cannot be used: %+v", broken.Why)
	}
	wantFinals("edited badly", broken, first.Digest, second.Digest)
	wantFinals("and refused", again(t, broken.With(broken.Status.Refuse(broken.Digest, broken.Why, now), now)), second.Digest)
}

func TestSpecsOfOtherTypesAreProblems(t *testing.T) {
	u := object(t, text)
	u.Object["spec"].(map[string]any)["steps"] = "soon"
	if r := read(t, u); r.Spec != nil || r.Why == "" || r.Digest == "" {
		t.Errorf("read %+v", r)
	}
	u.Object["status"] = "none"
	if _, err := record.Read(u); err == nil {
		t.Error("a status that is none was read")
	}
}

func TestBlockerTouchesTheSamePolicies(t *testing.T) {
	one := read(t, object(t, text))
	one = one.With(one.Status.Follow(one.Spec, "", now), now)
	two := read(t, object(t, strings.Replace(text, "name: lockdown", "name: other", 1)))
	if b := two.WaitsFor([]record.Record{one, two}); b != rollout.UnderWay("lockdown") {
		t.Errorf("blocked by %q", b)
	}
	if b := one.WaitsFor([]record.Record{one, two}); b != "" {
		t.Errorf("blocked by %q, which is not under way", b)
	}
}
