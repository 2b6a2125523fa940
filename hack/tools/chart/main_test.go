package main

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"
)

const dir = "../../../deploy/chart/ringfence"

func TestManifestIsFresh(t *testing.T) {
	want, err := manifest(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.ReadFile("../../../deploy/ringfence.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(have, want) {
		t.Error("deploy/ringfence.yaml is not what the chart renders to: run make manifests")
	}
}

type values = map[string]any

// object renders the chart and decodes the one object of a kind, strictly.
func object[T any](t *testing.T, kind string, v values) *T {
	t.Helper()
	objects, _, err := render(dir, v)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range objects {
		if !strings.Contains(text, "\nkind: "+kind+"\n") {
			continue
		}
		o := new(T)
		if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		return o
	}
	t.Fatalf("no %s in %s", kind, objects)
	return nil
}

var variants = map[string]values{
	"as it comes":  {},
	"without cni":  {"cni": values{"enabled": false}},
	"unknown open": {"agent": values{"unknownPods": "allow"}},
	"without keep": {"cni": values{"keep": false, "confFile": "10-pods.conflist"}},
	"uninstall":    {"uninstall": true},
	"all set":      {"agent": values{"podCIDRs": []any{"10.0.0.0/8", "fd00::/8"}, "extraArgs": []any{"--x=y"}}, "image": values{"pullSecrets": []any{values{"name": "s"}}}, "podLabels": values{"a": "b"}, "podAnnotations": values{"c": "d"}},
	"with alerts":  {"prometheusRule": values{"enabled": true, "labels": values{"a": "b"}}},
}

// Nothing may have more rights than it is said to have.
func TestRights(t *testing.T) {
	may := map[string][]corev1.Capability{"agent": {"NET_ADMIN", "NET_RAW"}, "uninstall": {"NET_ADMIN"}}
	mounts := map[string][]string{"agent": {"run", "token"}, "install-cni": {"cni-bin", "cni-conf"}, "keep-cni": {"cni-bin", "cni-conf"},
		"uninstall": {"cni-bin", "cni-conf"}}
	for name, v := range variants {
		pod := object[appsv1.DaemonSet](t, "DaemonSet", v).Spec.Template.Spec
		if pod.HostPID || pod.HostIPC || !pod.HostNetwork || pod.PriorityClassName != "system-node-critical" {
			t.Errorf("%s: the pod shares more or less with the node than its network", name)
		}
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			s := c.SecurityContext
			if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || s.SeccompProfile.Type != "RuntimeDefault" ||
				!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || !slices.Equal(s.Capabilities.Add, may[c.Name]) {
				t.Errorf("%s: %s has the rights %+v", name, c.Name, s)
			}
			if c.Resources.Requests.Cpu().IsZero() && c.Name != "uninstall" || c.Resources.Limits.Memory().IsZero() && c.Name != "uninstall" {
				t.Errorf("%s: %s asks for no resources", name, c.Name)
			}
			var has []string
			for _, m := range c.VolumeMounts {
				has = append(has, m.Name)
			}
			if !slices.Equal(has, mounts[c.Name]) {
				t.Errorf("%s: %s mounts %v", name, c.Name, has)
			}
		}
	}
}

// The controller needs the API and nothing else.
func TestRightsOfTheController(t *testing.T) {
	d := object[appsv1.Deployment](t, "Deployment", nil)
	pod := d.Spec.Template.Spec
	s := pod.Containers[0].SecurityContext
	if *s.Privileged || *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !*s.RunAsNonRoot || *s.RunAsUser == 0 || s.SeccompProfile.Type != "RuntimeDefault" ||
		!slices.Equal(s.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(s.Capabilities.Add) > 0 || len(pod.Volumes) > 0 || pod.HostPID || pod.HostIPC {
		t.Errorf("it has the rights %+v", s)
	}
	if !pod.HostNetwork {
		t.Error("a policy can come between it and the API")
	}
	if *d.Spec.Replicas != 2 || pod.Containers[0].Resources.Limits.Memory().IsZero() || d.Spec.Selector.MatchLabels["app.kubernetes.io/name"] == "ringfence" {
		t.Errorf("it is %+v", d.Spec)
	}
	for what, v := range map[string]values{"uninstall": variants["uninstall"], "none wanted": {"controller": values{"replicas": 0}}} {
		objects, _, err := render(dir, v)
		if err != nil || slices.ContainsFunc(objects, func(o string) bool { return strings.Contains(o, "\nkind: Deployment\n") }) {
			t.Errorf("%s: there is a controller, or %v", what, err)
		}
	}
}

// A cluster may do without ClusterNetworkPolicies, and nobody is woken for it.
func TestNobodyIsAlertedOfWhatIsNotInstalled(t *testing.T) {
	type rules struct {
		Spec struct {
			Groups []struct {
				Rules []struct{ Alert, Expr string }
			}
		}
	}
	objects, _, err := render(dir, variants["with alerts"])
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(objects, func(o string) bool { return strings.Contains(o, "\nkind: PrometheusRule\n") })
	if i < 0 {
		t.Fatal("there are no alerts")
	}
	var r rules
	if err := yaml.Unmarshal([]byte(objects[i]), &r); err != nil {
		t.Fatal(err)
	}
	for _, rule := range r.Spec.Groups[0].Rules {
		if strings.Contains(rule.Expr, "ringfence_conditions") && !strings.Contains(rule.Expr, `type!="NotInstalled"`) {
			t.Errorf("%s is %s", rule.Alert, rule.Expr)
		}
	}
}

// The controller expects something of the nodes that agents run on, and of no others.
func TestTheControllerExpectsTheSameNodes(t *testing.T) {
	for want, selector := range map[string]values{
		"--nodes=kubernetes.io/os=linux":                                        {},
		"--nodes=kubernetes.io/os=linux,node-role.kubernetes.io/fenced=,pool=a": {"pool": "a", "node-role.kubernetes.io/fenced": ""},
	} {
		v := values{"nodeSelector": selector}
		agents := object[appsv1.DaemonSet](t, "DaemonSet", v).Spec.Template.Spec.NodeSelector
		args := object[appsv1.Deployment](t, "Deployment", v).Spec.Template.Spec.Containers[0].Args
		if !slices.Contains(args, want) || len(agents) != strings.Count(want, ",")+1 {
			t.Errorf("agents run on %v, and the controller's arguments are %q, want %s", agents, args, want)
		}
	}
	v := values{"nodeSelector": values{"kubernetes.io/os": nil}}
	if args := object[appsv1.Deployment](t, "Deployment", v).Spec.Template.Spec.Containers[0].Args; slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--nodes") }) {
		t.Errorf("agents run everywhere, and the controller's arguments are %q", args)
	}
}

func TestRolesOnlyReadAndReport(t *testing.T) {
	for _, rule := range object[rbacv1.ClusterRole](t, "ClusterRole", nil).Rules {
		writes := slices.ContainsFunc(rule.Verbs, func(v string) bool { return v != "list" && v != "watch" && v != "get" })
		reports := !slices.ContainsFunc(rule.Resources, func(r string) bool {
			return r != "events" && r != "nodeenforcements" && !strings.HasSuffix(r, "/status")
		})
		if writes && !reports {
			t.Errorf("%v of %v", rule.Verbs, rule.Resources)
		}
		if slices.Contains(slices.Concat(rule.Verbs, rule.Resources, rule.APIGroups), "*") {
			t.Errorf("everything is too much: %+v", rule)
		}
	}
}

func TestContainers(t *testing.T) {
	for name, want := range map[string]string{
		"as it comes": "install-cni agent keep-cni", "without cni": "agent", "unknown open": "agent", "without keep": "install-cni agent", "uninstall": "uninstall",
	} {
		pod := object[appsv1.DaemonSet](t, "DaemonSet", variants[name]).Spec.Template.Spec
		var names []string
		for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
			names = append(names, c.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
}

func TestSettingsArrive(t *testing.T) {
	pod := object[appsv1.DaemonSet](t, "DaemonSet", variants["all set"]).Spec.Template.Spec
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		if !slices.Contains(c.Args, "--pod-cidrs=10.0.0.0/8,fd00::/8") {
			t.Errorf("%s is started with %v", c.Name, c.Args)
		}
	}
	if args := pod.Containers[0].Args; args[len(args)-1] != "--x=y" {
		t.Errorf("the agent is started with %v", args)
	}
}

func TestAlerts(t *testing.T) {
	objects, _, err := render(dir, variants["with alerts"])
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(objects, "\n")
	for _, want := range []string{"kind: PrometheusRule", "ringfence_denied_total[10m]", "ringfence_ready == 0", "{{ $labels.instance }}"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q among the objects", want)
		}
	}
}

func TestNotesFit(t *testing.T) {
	for name, want := range map[string]string{
		"as it comes": "--set uninstall=true", "without cni": "StartGap", "uninstall": "being taken off",
	} {
		if _, notes, err := render(dir, variants[name]); err != nil || !strings.Contains(notes, want) {
			t.Errorf("%s: the notes are\n%s\n%v", name, notes, err)
		}
	}
}

func TestRefusesWhatIsMisspelt(t *testing.T) {
	for _, v := range []values{{"agnet": values{}}, {"agent": values{"unknownPods": "maybe"}}, {"runDir": "run"}} {
		if _, _, err := render(dir, v); err == nil {
			t.Errorf("%v is taken", v)
		}
	}
}

func TestSet(t *testing.T) {
	text, err := manifest(dir, "uninstall=true,cni.binDir=/usr/lib/cni")
	if err != nil || !strings.Contains(string(text), "- --tables\n") || !strings.Contains(string(text), "path: /usr/lib/cni,") {
		t.Errorf("%v in\n%s", err, text)
	}
	if _, err := manifest(dir, "no value"); err == nil {
		t.Error("what is no setting is taken")
	}
}
