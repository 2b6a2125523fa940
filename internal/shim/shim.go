//go:build linux

// Package shim holds what has to outlive `ringfence up`: one small process for each pod and one for the node.
//
// A shim holds its network namespace by being in it, so nothing in the file system names the namespace and the kernel
// takes it away with its last process. A pod's shim has its own PID, mount and UTS namespaces as well and is the first
// process in them: it runs the pod's command, keeps its logs, probes it, and whatever the command has started ends
// with it, however it ends.
//
// A shim lives in a folder, its Dir:
//
//	shim.json   which process it is (Process), written before anything else
//	sock        where it answers, for the owner of the folder only
//	log         what the shim itself has to say
//	resolv.conf, of a pod: what /etc/resolv.conf is in it
//
// A connection to the socket carries one Request, a line of JSON, and is answered by a Reply, or by one for each change
// if the request is to watch. The protocol is the interface between versions of ringfence: fields are only ever added.
package shim

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/podspec"
)

// Dir is the folder of a shim.
type Dir string

func (d Dir) file(name string) string { return filepath.Join(string(d), name) }

// Resolv is the file that is a pod's /etc/resolv.conf.
func (d Dir) Resolv() string { return d.file("resolv.conf") }

// Process reads which process the shim of d is. It may have ended.
func (d Dir) Process() (Process, error) {
	var p Process
	data, err := os.ReadFile(d.file("shim.json"))
	if err == nil {
		err = json.Unmarshal(data, &p)
	}
	return p, err
}

// Op is what a Request asks for.
type Op string

// The operations.
const (
	OpStatus Op = "status"
	OpWatch  Op = "watch"  // a Reply now and at each change, until the connection ends
	OpUpdate Op = "update" // run what Pod or Node says; what runs already is left alone
	OpGuard  Op = "guard"  // end Process and what it started when the connection ends, unless "released" was said on it
	OpStop   Op = "stop"   // end, and everything in the pod with it
)

// Request is what is asked of a shim.
type Request struct {
	Op   Op              `json:"op"`
	Pod  *Pod            `json:"pod,omitempty"`
	Node json.RawMessage `json:"node,omitempty"` // for the Servant of the node's shim
	// Process is the number of a process in the pod's PID namespace.
	Process int `json:"process,omitempty"`
}

// Reply is the answer.
type Reply struct {
	Error  string `json:"error,omitempty"`
	Status Status `json:"status"`
	Pod    *Pod   `json:"pod,omitempty"` // what runs, with the answer to OpStatus
}

// Pod is what a pod's shim is told to run.
type Pod struct {
	Key       cluster.Key    `json:"key"`
	Addresses []netip.Addr   `json:"addresses"`
	Ports     []cluster.Port `json:"ports"` // where the built-in listener listens
	Workload  podspec.Spec   `json:"workload"`
	WorkDir   string         `json:"workDir"` // the pod's own folder
	Log       string         `json:"log"`     // file for what the command writes
}

// State is what a shim is doing.
type State string

// The states.
const (
	Waiting State = "waiting" // it was not told yet what to run
	Running State = "running"
	Backoff State = "backoff" // the command ended or could not be started, and is started again in a while
)

// Status is what a shim says of itself.
type Status struct {
	State    State     `json:"state"`
	Ready    bool      `json:"ready"`
	Why      string    `json:"why,omitempty"` // why it is not ready, or how the command last ended
	Restarts int       `json:"restarts"`
	Since    time.Time `json:"since"` // of State
}
