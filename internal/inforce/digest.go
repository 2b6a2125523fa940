package inforce

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// Policy is one version of a policy.
type Policy struct {
	Kind            string
	Namespace, Name string
	UID             string
	Generation      int64 // of the object's spec
}

// String is "NetworkPolicy shop/web" or "ClusterNetworkPolicy guard".
func (p Policy) String() string {
	if p.Namespace == "" {
		return p.Kind + " " + p.Name
	}
	return p.Kind + " " + p.Namespace + "/" + p.Name
}

// Digest stands for a set of policy versions. The zero value is the empty set. It does not depend on the order in which
// policies came and went, and a change of one costs the same however many there are.
type Digest uint64

// Toggle puts p into the set, or takes it out if it is in it.
func (d *Digest) Toggle(p Policy) {
	h := sha256.Sum256(fmt.Appendf(nil, "%q %q %q %q %d", p.Kind, p.Namespace, p.Name, p.UID, p.Generation))
	*d ^= Digest(binary.BigEndian.Uint64(h[:]))
}

// String is 16 hexadecimal digits.
func (d Digest) String() string { return fmt.Sprintf("%016x", uint64(d)) }
