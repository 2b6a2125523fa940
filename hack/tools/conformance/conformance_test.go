//go:build conformance

package conformance

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	api "sigs.k8s.io/network-policy-api/apis/v1alpha2"
	report "sigs.k8s.io/network-policy-api/conformance/apis/v1alpha1"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
	"sigs.k8s.io/yaml"
)

var (
	channel = flag.String("channel", "experimental", "release channel of the CRD that is installed")
	out     = flag.String("out", "", "where to write the report")
	version = flag.String("implementation", "", "version of Ringfence that is tested")
	noSCTP  = flag.Bool("no-sctp", false, "the machine's kernel has no SCTP: report its tests as skipped")
)

// TestConformance is what the suite's own main does, but for the tests that the machine cannot run: the suite counts
// what go test leaves out as passed, so they are named to it.
func TestConformance(t *testing.T) {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := api.Install(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	if err := apiextensions.AddToScheme(c.Scheme()); err != nil {
		t.Fatal(err)
	}
	clients, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	o := suite.ConformanceProfileOptions{
		Options: suite.Options{Client: c, ClientSet: clients, KubeConfig: *config, CleanupBaseResources: true,
			SupportedFeatures: features(), SkipTests: skipped()},
		Implementation: report.Implementation{
			Organization: "ringfence-project", Project: "ringfence", URL: "https://github.com/ringfence-project/ringfence",
			Version: *version, Contact: []string{"https://github.com/ringfence-project/ringfence/issues/new"},
			AdditionalInformation: "https://github.com/ringfence-project/ringfence/tree/main/docs/conformance",
		},
		ConformanceProfiles: sets.New(suite.CNPConformanceProfileName),
	}
	s, err := suite.NewConformanceProfileTestSuite(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Setup(t)
	if err := s.Run(t, tests.ConformanceTests); err != nil {
		t.Fatal(err)
	}
	result, err := s.Report()
	if err != nil {
		t.Fatal(err)
	}
	result.NetworkPolicyV2APIVersion = bundle(t, c) // the suite names an older one, whatever is installed
	for i := range result.ProfileReports {
		sortReport(&result.ProfileReports[i])
	}
	writeReport(t, result)
}

func features() sets.Set[suite.SupportedFeature] {
	all := sets.New(suite.SupportClusterNetworkPolicy)
	if *channel == "experimental" {
		all.Insert(suite.SupportClusterNetworkPolicyNamedPorts, suite.SupportClusterNetworkPolicyEgressNodePeers)
	}
	return all
}

// skipped are the tests that make SCTP connections, among others.
func skipped() []string {
	var names []string
	for _, test := range tests.ConformanceTests {
		for _, sctp := range []string{"SCTP", "Gress", "InlineCIDRPeers", "NodePeers"} {
			if *noSCTP && strings.Contains(test.ShortName, sctp) {
				names = append(names, test.ShortName)
			}
		}
	}
	return names
}

// bundle is the release of the network-policy-api that the installed CRD is of.
func bundle(t *testing.T, c client.Client) string {
	var crd apiextensions.CustomResourceDefinition
	if err := c.Get(context.Background(), client.ObjectKey{Name: "clusternetworkpolicies.policy.networking.k8s.io"}, &crd); err != nil {
		t.Fatal(err)
	}
	if got := crd.Annotations["policy.networking.k8s.io/channel"]; got != *channel {
		t.Fatalf("the CRD that is installed is of the %s channel", got)
	}
	return crd.Annotations["policy.networking.k8s.io/bundle-version"]
}

func sortReport(p *report.ProfileReport) {
	slices.Sort(p.Standard.SkippedTests)
	slices.Sort(p.Standard.FailedTests)
	if e := p.Experimental; e != nil {
		slices.Sort(e.SkippedTests)
		slices.Sort(e.FailedTests)
		slices.Sort(e.SupportedFeatures)
		slices.Sort(e.UnsupportedFeatures)
	}
}

func writeReport(t *testing.T, r *report.ConformanceReport) {
	text, err := yaml.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("report:\n%s", text)
	if *out == "" {
		return
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(*out, text, 0o644); err != nil {
		t.Fatal(err)
	}
}
