package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ringfence-project/ringfence/internal/agent"
	"github.com/ringfence-project/ringfence/internal/controller"
)

var (
	describes = regexp.MustCompile(`^Desc\{fqName: "(\w+)", .* variableLabels: \{([^}]*)\}\}$`)
	metric    = regexp.MustCompile(`ringfence_\w+(\{[^}]*\})?`)
	histogram = regexp.MustCompile(`_(bucket|sum|count)$`)
	matcher   = regexp.MustCompile(`(\w+) *(?:=~|!~|!=|=)`)
	grouping  = regexp.MustCompile(`\bby *\(([^)]*)\)`)
	template  = regexp.MustCompile(`\$labels\.(\w+)`)
)

// labelsOf are the labels of each metric.
func labelsOf(t *testing.T, descs ...*prometheus.Desc) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, d := range descs {
		m := describes.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("%s is not understood", d)
		}
		all[m[1]] = fields(m[2])
	}
	return all
}

func fields(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}

// TestMetricsAreDocumented: the lists of metrics are those that there are, each with its labels.
func TestMetricsAreDocumented(t *testing.T) {
	for path, descs := range map[string][]*prometheus.Desc{"../../docs/kubernetes.md": agent.Metrics(), "../../docs/rollouts.md": controller.Metrics()} {
		text := readText(t, path)
		for name, labels := range labelsOf(t, descs...) {
			want := "`" + name + "`"
			if len(labels) > 0 {
				want = "`" + name + "{" + strings.Join(labels, ",") + "}`"
			}
			if !strings.Contains(text, want) {
				t.Errorf("%s says nothing of %s", path, want)
			}
		}
		there := labelsOf(t, slices.Concat(agent.Metrics(), controller.Metrics())...)
		for _, m := range metric.FindAllString(text, -1) {
			if name, _, _ := strings.Cut(m, "{"); there[name] == nil {
				t.Errorf("%s speaks of %s, which there is not", path, name)
			}
		}
	}
}

// TestAlertsAreAboutMetricsThatThereAre: a rule about a metric or a label that nobody has never fires, and nothing says so.
func TestAlertsAreAboutMetricsThatThereAre(t *testing.T) {
	const path = "../../deploy/chart/ringfence/templates/prometheusrule.yaml"
	rules := strings.Split(readText(t, path), "- alert: ")[1:]
	if len(rules) == 0 {
		t.Fatal("there are no rules")
	}
	for _, rule := range rules {
		for _, problem := range problemsOfRule(rule, labelsOf(t, slices.Concat(agent.Metrics(), controller.Metrics())...)) {
			t.Errorf("%s: %s: %s", path, strings.Fields(rule)[0], problem)
		}
	}
	// And of one that is wrong it is seen.
	wrong := "X\nexpr: sum by (kind, who) (rate(ringfence_denied_total{polcy=\"a\"}[1m])) > ringfence_deniedtotal\nsummary: '{{ $labels.policy }}'\n"
	if got := problemsOfRule(wrong, labelsOf(t, agent.Metrics()...)); len(got) != 4 {
		t.Errorf("of a rule with four mistakes it is said: %q", got)
	}
}

// problemsOfRule are the names in a rule of ours that nobody has. What others' metrics have is not known here.
func problemsOfRule(rule string, there map[string][]string) []string {
	var all []string
	has := []string{"instance", "job"} // by whoever scrapes
	names := metric.FindAllString(rule, -1)
	for _, m := range names {
		name, matchers, _ := strings.Cut(m, "{")
		labels, ok := there[name]
		if !ok {
			labels, ok = there[histogram.ReplaceAllString(name, "")]
		}
		if !ok {
			all = append(all, "nobody has the metric "+name)
			continue
		}
		has = append(has, labels...)
		for _, l := range matcher.FindAllStringSubmatch(matchers, -1) {
			if !slices.Contains(labels, l[1]) {
				all = append(all, name+" has no label "+l[1])
			}
		}
	}
	if len(names) == 0 {
		return all
	}
	groups := grouping.FindAllStringSubmatch(rule, -1)
	shown := has
	if len(groups) > 0 {
		shown = nil
	}
	for _, g := range groups {
		for _, l := range fields(g[1]) {
			shown = append(shown, l)
			if !slices.Contains(has, l) {
				all = append(all, "nothing is to be grouped by "+l)
			}
		}
	}
	for _, l := range template.FindAllStringSubmatch(rule, -1) {
		if !slices.Contains(shown, l[1]) {
			all = append(all, "the alert has no label "+l[1])
		}
	}
	return all
}

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
