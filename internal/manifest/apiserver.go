package manifest

import (
	"cmp"
	"net/netip"
	"slices"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/service"
)

// nobodys is the account of pods that do not name one.
const nobodys = "default"

// usesAPI reports whether a pod is plainly meant to ask for the cluster's API: it has a token for that, of an account of
// its own. Nearly every pod is given a token of the account "default", which may do nothing unless somebody granted it
// something, and hardly any uses it.
//
// An API server adds the token when it admits the pod, unless the pod or its account does not want it. What was not
// admitted yet is taken to want it if it does not say otherwise.
func usesAPI(spec *corev1.PodSpec, admitted bool) bool {
	if account := cmp.Or(spec.ServiceAccountName, spec.DeprecatedServiceAccount, nobodys); account == nobodys {
		return false
	}
	wants := spec.AutomountServiceAccountToken == nil || *spec.AutomountServiceAccountToken
	return slices.ContainsFunc(spec.Volumes, IsAPIToken) || wants && !admitted
}

// IsAPIToken reports whether a volume of a pod has a token for the cluster's API, and not for somebody else.
func IsAPIToken(v corev1.Volume) bool {
	return v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool {
		return s.ServiceAccountToken != nil && s.ServiceAccountToken.Audience == ""
	})
}

// readEndpointSlice reads the slices of the API's Service. All others are counted: what is behind a Service is found by its
// selector.
func (b *Bundle) readEndpointSlice(o *object, root *yaml.Node) {
	labels := document.Get(document.Get(root, "metadata"), "labels")
	if !ofAPIServer(o, document.TextOf(document.Get(labels, discoveryv1.LabelServiceName))) {
		b.Ignore(o.Kind)
		return
	}
	reading((*Bundle).takeEndpointSlice)(b, o, root)
}

// ofAPIServer reports whether the slice o is of the Service by which pods ask for the cluster's API.
func ofAPIServer(o *object, name string) bool {
	return cluster.Key{Namespace: o.Key.Namespace, Name: name} == service.APIServer
}

func (b *Bundle) takeEndpointSlice(o *object, s *discoveryv1.EndpointSlice) {
	o.checkName()
	var all []netip.AddrPort
	for i, p := range s.Ports {
		if p.Port == nil { // every port
			continue
		}
		path := document.At("ports", i)
		protocol := corev1.ProtocolTCP
		if p.Protocol != nil {
			protocol = *p.Protocol
		}
		port := o.portNumber(path+".port", *p.Port)
		if o.protocol(path+".protocol", protocol) != flow.TCP {
			continue
		}
		for k, e := range s.Endpoints {
			for n, text := range e.Addresses {
				if a, ok := o.address(document.At(document.At("endpoints", k)+".addresses", n), text); ok {
					all = append(all, netip.AddrPortFrom(a, port))
				}
			}
		}
	}
	if len(o.Problems) == 0 && b.once(o) {
		b.apiServers = append(b.apiServers, all...)
	}
}
