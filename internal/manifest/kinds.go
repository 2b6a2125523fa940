package manifest

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha1"
	"sigs.k8s.io/network-policy-api/apis/v1alpha2"

	ringfence "github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/near"
)

// kindInfo says how objects of one kind are read.
type kindInfo struct {
	apiVersion string
	namespaced bool
	policy     bool // unknown fields are problems; one that cannot be read is replaced by a stand-in
	strict     bool // unknown fields are problems
	take       func(*Bundle, *object, *yaml.Node)
}

// The versions in which the policy kinds are read.
const (
	networkVersion = "networking.k8s.io/v1"
	clusterVersion = "policy.networking.k8s.io/v1alpha2"
)

// kinds are the kinds that can change a verdict, or what rollouts ask for verdicts on. All others are counted.
var kinds = map[string]kindInfo{
	"Namespace":                  {"v1", false, false, false, reading((*Bundle).takeNamespace)},
	"Node":                       {"v1", false, false, false, reading((*Bundle).takeNode)},
	"Pod":                        {"v1", true, false, false, reading((*Bundle).takePod)},
	"Service":                    {"v1", true, false, false, reading((*Bundle).takeService)},
	"EndpointSlice":              {"discovery.k8s.io/v1", true, false, false, (*Bundle).readEndpointSlice},
	"ReplicationController":      {"v1", true, false, false, reading((*Bundle).takeReplicationController)},
	"Deployment":                 {"apps/v1", true, false, false, reading((*Bundle).takeDeployment)},
	"ReplicaSet":                 {"apps/v1", true, false, false, reading((*Bundle).takeReplicaSet)},
	"StatefulSet":                {"apps/v1", true, false, false, reading((*Bundle).takeStatefulSet)},
	"DaemonSet":                  {"apps/v1", true, false, false, reading((*Bundle).takeDaemonSet)},
	"Job":                        {"batch/v1", true, false, false, reading((*Bundle).takeJob)},
	"CronJob":                    {"batch/v1", true, false, false, reading((*Bundle).takeCronJob)},
	"PolicyRollout":              {ringfence.APIVersion, false, false, true, (*Bundle).takePolicyRollout},
	"NetworkPolicy":              {networkVersion, true, true, true, reading((*Bundle).takeNetworkPolicy)},
	"ClusterNetworkPolicy":       {clusterVersion, false, true, true, reading((*Bundle).takeClusterNetworkPolicy)},
	"AdminNetworkPolicy":         {"policy.networking.k8s.io/v1alpha1", false, true, true, reading((*Bundle).takeAdminNetworkPolicy)},
	"BaselineAdminNetworkPolicy": {"policy.networking.k8s.io/v1alpha1", false, true, true, reading((*Bundle).takeBaselineAdminNetworkPolicy)},
}

// readable are the Go types of the kinds above.
type readable interface {
	corev1.Namespace | corev1.Node | corev1.Pod | corev1.Service | corev1.ReplicationController |
		appsv1.Deployment | appsv1.ReplicaSet | appsv1.StatefulSet | appsv1.DaemonSet | batchv1.Job | batchv1.CronJob | discoveryv1.EndpointSlice |
		networkingv1.NetworkPolicy | v1alpha2.ClusterNetworkPolicy | v1alpha1.AdminNetworkPolicy | v1alpha1.BaselineAdminNetworkPolicy
}

func reading[T readable](take func(*Bundle, *object, *T)) func(*Bundle, *object, *yaml.Node) {
	return func(b *Bundle, o *object, root *yaml.Node) {
		var value T
		o.Read(root, reflect.ValueOf(&value).Elem(), "")
		take(b, o, &value)
	}
}

// otherPolicies are API groups whose kinds are called like policies but are other systems' and not ours to enforce.
var otherPolicies = []string{"projectcalico.org", "antrea.io", "cilium.io", "openshift.io", "istio.io", "linkerd.io",
	"ovn.org", "kubeovn.io", "cni.cncf.io", "kyverno.io"}

// take hands a document to its kind. A kind that matters never gets past because of a wrong apiVersion or a typo.
func (b *Bundle) take(o *object, root *yaml.Node) {
	info, known := kinds[o.Kind]
	group, _, _ := strings.Cut(o.APIVersion, "/")
	foreign := slices.ContainsFunc(otherPolicies, func(g string) bool { return group == g || strings.HasSuffix(group, "."+g) })
	switch {
	case o.Kind == "":
		o.noKind(root)
		return
	case known && o.APIVersion == info.apiVersion:
	case foreign:
		if strings.HasSuffix(o.Kind, "NetworkPolicy") {
			o.Notice("", "is a policy of %s, which Ringfence does not enforce", group)
		}
		b.Ignore(o.Kind)
		return
	case known && (info.policy || o.APIVersion == "" || isNear(group, info.apiVersion)):
		o.wrongVersion(info.apiVersion)
	case known:
		b.Ignore(o.Kind)
		return
	default:
		near := o.nearKind()
		if info = kinds[near]; !info.policy {
			if near == "" {
				b.Ignore(o.Kind)
			}
			return
		}
		o.Kind = near
	}
	if info.namespaced && o.Key.Namespace == "" {
		o.Key.Namespace = "default"
	}
	if !info.namespaced {
		o.Key.Namespace = ""
	}
	o.Strict = info.strict
	info.take(b, o, root)
}

func (o *object) wrongVersion(want string) {
	message := fmt.Sprintf("unknown apiVersion %q for this kind", document.Shorten(o.APIVersion))
	if o.APIVersion == "" {
		message = "required field is missing"
	}
	o.Problem("apiVersion", "write "+want, "%s", message)
}

// isNear reports whether a group may be a mistyped or outdated form of the one in apiVersion. The groups in which
// Kubernetes itself has had these kinds count as near.
func isNear(group, apiVersion string) bool {
	want, _, _ := strings.Cut(apiVersion, "/")
	former := []string{"v1", "apps", "extensions", "batch", "networking.k8s.io", "policy.networking.k8s.io"}
	return slices.Contains(former, group) || near.Of(group, []string{want}) != ""
}

// nearKind returns the kind in the table that an unknown kind looks like a typo of, after noting it; else "".
func (o *object) nearKind() string {
	var names []string
	for name, info := range kinds {
		if o.APIVersion == info.apiVersion || info.policy && strings.Contains(strings.ToLower(o.Kind), "network") {
			names = append(names, name)
		}
	}
	closest := near.Of(o.Kind, names)
	if closest != "" {
		o.Problem("kind", fmt.Sprintf("did you mean %q?", closest), "unknown kind %q", document.Shorten(o.Kind))
	}
	return closest
}

func (o *object) noKind(root *yaml.Node) {
	for i := 0; i+1 < len(root.Content); i += 2 {
		key := root.Content[i]
		if len(key.Value) > 2 && key.Value != "kind" && near.Of(key.Value, []string{"kind"}) != "" {
			o.ProblemAt(key.Line, key.Value, `did you mean "kind"?`, document.UnknownField)
			return
		}
	}
	o.Problem("kind", `write for instance "kind: NetworkPolicy"`, "required field is missing")
}
