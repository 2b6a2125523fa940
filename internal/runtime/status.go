//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/shim"
)

// Record is what whoever runs the instance writes down for Status, as shims know only of themselves.
type Record struct {
	Generation uint64        `json:"generation"`
	Since      time.Time     `json:"since"` // when the generation came in force
	Paths      []string      `json:"manifests"`
	Problems   []string      `json:"problems"` // each with its place
	Held       []string      `json:"held"`     // files whose last good version is in force
	Changed    time.Time     `json:"changed"`  // when the last change was in force
	Took       time.Duration `json:"took"`     // from its event to the kernel
	Error      string        `json:"error,omitempty"`
	Topology   string        `json:"topology"`
	Pods       []PodRecord   `json:"pods"` // that are desired
}

// PodRecord is a pod as it is desired.
type PodRecord struct {
	Key       cluster.Key  `json:"key"`
	Addresses []netip.Addr `json:"addresses"`
	Command   string       `json:"command,omitempty"`
}

// Write writes a record for Read.
func (i Instance) Write(r Record) error {
	if err := writeJSON(i.statusFile(), r); err != nil {
		return fmt.Errorf("instance %s: %w", i.Name, err)
	}
	return nil
}

// Read returns the last record; false if there is none.
func (i Instance) Read() (Record, bool, error) {
	var r Record
	err := readJSON(i.statusFile(), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return r, false, nil
	}
	if err != nil {
		return r, false, fmt.Errorf("instance %s: %w", i.Name, err)
	}
	return r, true, nil
}

// PodStatus is a pod as it runs.
type PodStatus struct {
	PodRecord
	shim.Status
	Running bool  // its shim answers
	Err     error // why not
}

// Pods asks the shims of all pods that run or should, sorted.
func (i Instance) Pods(ctx context.Context, r Record) ([]PodStatus, error) {
	dirs, err := i.shims()
	if err != nil {
		return nil, err
	}
	desired := map[cluster.Key]PodRecord{}
	for _, p := range r.Pods {
		desired[p.Key] = p
		if _, there := dirs[p.Key]; !there {
			dirs[p.Key] = i.podDir(p.Key)
		}
	}
	var all []PodStatus
	for k, d := range dirs {
		p := PodStatus{PodRecord: desired[k]}
		p.Key = k
		var c *shim.Client
		if c, p.Err = shim.Find(d); p.Err == nil {
			p.Status, p.Err = c.Do(ctx, shim.Request{Op: shim.OpStatus})
		}
		p.Running = p.Err == nil
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b PodStatus) int { return a.Key.Compare(b.Key) })
	return all, nil
}

// NodeShim is the node's shim; os.ErrProcessDone if it does not run.
func (i Instance) NodeShim() (*shim.Client, error) { return shim.Find(i.nodeDir()) }

// Shim is the shim of a pod; os.ErrProcessDone if it does not run.
func (i Instance) Shim(k cluster.Key) (*shim.Client, error) { return shim.Find(i.podDir(k)) }

// Records says what is desired, for Record.
func (n *Node) Records() []PodRecord {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state == nil {
		return nil
	}
	var all []PodRecord
	for _, e := range n.state.Endpoints() {
		all = append(all, PodRecord{Key: e.Key, Addresses: e.Addresses, Command: n.last.Workloads[e.Key].Command})
	}
	return all
}
