package lab

import "time"

// Timings say how long the parts of a run took.
type Timings struct {
	Boot    time.Duration `json:"boot"`    // all until everybody listens
	Compile time.Duration `json:"compile"` // of the policies
	Apply   time.Duration `json:"apply"`   // putting them in force
	Wire    time.Duration `json:"wire"`    // namespaces, interfaces and routes
	Probe   time.Duration `json:"probe"`
}
