// Package podspec says what runs in a pod, beside what policies see of it: its command and the probes that tell whether
// it is ready and alive. These are plain values; manifest reads them and shim runs them.
package podspec

import "time"

// Spec is what runs in a pod. The zero value is the built-in listener, which answers on the pod's declared ports and
// is always ready.
type Spec struct {
	Command    string        `json:"command,omitempty"` // for sh -c; "" is the built-in listener
	Env        []Env         `json:"env,omitempty"`
	WorkingDir string        `json:"workingDir,omitempty"` // "" is a folder of the pod's own
	User       *uint32       `json:"user,omitempty"`       // nil is the user that ringfence runs as
	Group      *uint32       `json:"group,omitempty"`
	Grace      time.Duration `json:"grace,omitempty"` // between TERM and KILL; 0 is DefaultGrace
	Readiness  []Probe       `json:"readiness,omitempty"`
	Liveness   []Probe       `json:"liveness,omitempty"`
	// Startup probes have to come out well once before the others begin.
	Startup []Probe `json:"startup,omitempty"`
}

// DefaultGrace is how long a command has to end after TERM.
const DefaultGrace = 5 * time.Second

// Env is an environment variable. Its value is Value, or what Field names.
type Env struct {
	Name  string `json:"name"`
	Value string `json:"value,omitempty"`
	Field Field  `json:"field,omitempty"`
}

// Field is a part of the pod that an environment variable can be taken from.
type Field string

// The fields that are known. They are called as in fieldRef.fieldPath.
const (
	PodName      Field = "metadata.name"
	PodNamespace Field = "metadata.namespace"
	PodIP        Field = "status.podIP"
)

// Probe is a check that is repeated. One of Exec, TCP and HTTP says what is done.
type Probe struct {
	Exec []string `json:"exec,omitempty"` // exits with 0
	TCP  uint16   `json:"tcp,omitempty"`  // the port accepts a connection
	HTTP *HTTPGet `json:"http,omitempty"` // is answered with a status of 200 to 399

	Delay   time.Duration `json:"delay,omitempty"` // before the first
	Period  time.Duration `json:"period"`
	Timeout time.Duration `json:"timeout"`
	// Success and Failure are how many times in a row it has to come out so before that counts.
	Success int `json:"success"`
	Failure int `json:"failure"`
}

// HTTPGet is a request to the pod itself.
type HTTPGet struct {
	Scheme  string            `json:"scheme,omitempty"` // "http" if empty; certificates are not checked
	Host    string            `json:"host,omitempty"`   // "" is the pod's own address
	Port    uint16            `json:"port"`
	Path    string            `json:"path,omitempty"`
	Headers map[string]string `json:"headers,omitempty"`
}
