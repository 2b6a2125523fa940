// Package conformance runs the conformance suite of the network-policy-api project against a cluster, see
// hack/kube/conformance. It is a test, with a build tag, because the suite wants to be one.
package conformance
