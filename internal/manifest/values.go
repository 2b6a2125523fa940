package manifest

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/label"
	"github.com/ringfence-project/ringfence/internal/manifest/document"
	"github.com/ringfence-project/ringfence/internal/near"
)

var operators = map[string]label.Op{"In": label.In, "NotIn": label.NotIn, "Exists": label.Exists, "DoesNotExist": label.DoesNotExist}

// selector is s as a label.Selector. One with a problem selects nothing; its policy is replaced as a whole anyway.
func (o *object) selector(path string, s *metav1.LabelSelector) label.Selector {
	var reqs []label.Requirement
	good := true
	add := func(where string, r label.Requirement) {
		if _, err := label.NewSelector(r); err != nil {
			o.Problem(where, "", "%s", err)
			good = false
		}
		reqs = append(reqs, r)
	}
	for _, key := range slices.Sorted(maps.Keys(s.MatchLabels)) {
		add(document.Join(path+".matchLabels", key), label.Requirement{Key: key, Op: label.In, Values: []string{s.MatchLabels[key]}})
	}
	for i, e := range s.MatchExpressions {
		where := document.At(path+".matchExpressions", i)
		op, ok := operators[string(e.Operator)]
		if !ok {
			o.unknownWord(where+".operator", string(e.Operator), slices.Sorted(maps.Keys(operators)))
			good = false
			continue
		}
		add(where, label.Requirement{Key: e.Key, Op: op, Values: e.Values})
	}
	if !good {
		return label.Selector{}
	}
	sel, err := label.NewSelector(reqs...)
	if err != nil { // each requirement was good alone
		o.Problem(path, "", "%s", err)
	}
	return sel
}

// inNamespace selects the one namespace of that name.
func (o *object) inNamespace(name string) label.Selector {
	sel, err := label.MatchLabels(map[string]string{cluster.NameLabel: name})
	if err != nil {
		o.Problem("metadata.namespace", "", "no name of a namespace: %s", err)
	}
	return sel
}

// labels is m as a label.Set. One with a problem is empty.
func (o *object) labels(path string, m map[string]string) label.Set {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if _, err := label.NewSet(map[string]string{key: m[key]}); err != nil {
			o.Problem(document.Join(path, key), "", "%s", err)
		}
	}
	if o.Broken(path) || o.BrokenAbove(path) {
		return label.Set{}
	}
	set, err := label.NewSet(m)
	if err != nil { // each label was good alone
		o.Problem(path, "", "%s", err)
	}
	return set
}

// unknownWord is the problem of a value that is none of a few words.
func (o *object) unknownWord(path, word string, words []string) {
	fix := "write one of " + strings.Join(words, ", ")
	if closest := near.Of(word, words); closest != "" {
		fix = "did you mean " + strconv.Quote(closest) + "?"
	}
	if o.Missing(path) || word == "" {
		o.Problem(path, "write one of "+strings.Join(words, ", "), "required field is missing")
		return
	}
	o.Problem(path, fix, "unknown value %q", word)
}

// prefix reads a CIDR. Host bits are masked, as the API server's validation lets them pass.
func (o *object) prefix(path, text string) (netip.Prefix, bool) {
	p, err := netip.ParsePrefix(text)
	switch {
	case err != nil && strings.Contains(text, "/"):
		o.Problem(path, "", "%q is no CIDR such as 10.0.0.0/8 or fd00::/8", text)
	case err != nil:
		fix := ""
		if a, err := netip.ParseAddr(text); err == nil && a.Zone() == "" {
			fix = "for this one address write " + netip.PrefixFrom(a, a.BitLen()).String()
		}
		o.Problem(path, fix, "%q is no CIDR: it has no /length", text)
	case p.Addr().Is4In6():
		o.Problem(path, "write it as an IPv4 CIDR", "%q is an IPv4 address in IPv6 form", text)
	default:
		return p.Masked(), true
	}
	return netip.Prefix{}, false
}

// address reads an IP address.
func (o *object) address(path, text string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		o.Problem(path, "", "%q is no IP address", text)
		return netip.Addr{}, false
	}
	return a.Unmap(), true
}

var protocols = map[string]flow.Protocol{"TCP": flow.TCP, "UDP": flow.UDP, "SCTP": flow.SCTP}

// protocol reads the API's name of a protocol; none is TCP, the API server's default.
func (o *object) protocol(path string, p corev1.Protocol) flow.Protocol {
	if p == "" {
		return flow.TCP
	}
	number, ok := protocols[string(p)]
	if !ok {
		o.unknownWord(path, string(p), []string{"SCTP", "TCP", "UDP"})
	}
	return number
}

// portNumber checks that a port is from 1 to 65535.
func (o *object) portNumber(path string, n int32) uint16 {
	if n < 1 || n > 65535 {
		o.Problem(path, "", "port %d is not from 1 to 65535", n)
		return 0
	}
	return uint16(n)
}

// portName checks a port's name: at most 15 of a-z, 0-9 and '-', a letter among them, no '-' at an end or twice in a row.
func (o *object) portName(path, name string) {
	letter, good := false, len(name) > 0 && len(name) <= 15 && !strings.HasPrefix(name, "-") && !strings.HasSuffix(name, "-") && !strings.Contains(name, "--")
	for _, c := range name {
		letter = letter || 'a' <= c && c <= 'z'
		good = good && ('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-')
	}
	switch {
	case good && letter:
	case good:
		o.Problem(path, "write the number without quotes: "+name, "%q is text without a letter, which is no port name", name)
	default:
		o.Problem(path, "", "%q is no port name: at most 15 of a-z, 0-9 and single '-' inside, with a letter", name)
	}
}
