package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// The kinds of notes.
const (
	noteUp        = "up"        // the pod's process began
	noteReached   = "reached"   // a server answered for the first time; Peer says which
	noteGreeted   = "greeted"   // the first datagram of a client came
	noteSent      = "sent"      // so many packets were sent, all told, that policy denies
	noteViolation = "violation" // one of these arrived, or was answered
	noteBroken    = "broken"    // an allowed connection ended
	noteStalled   = "stalled"   // an allowed connection had no answer for Took, and went on
	noteKept      = "kept"      // allowed connections that are up, and how often they were answered
)

// note is what a pod writes down: a line of JSON in its own file, as the pod's logs go with it.
type note struct {
	Kind string        `json:"kind"`
	At   time.Time     `json:"at"`
	Peer string        `json:"peer,omitempty"`
	N    int64         `json:"n,omitempty"`
	Took time.Duration `json:"took,omitempty"`
}

// notes is where a pod writes.
type notes struct {
	mu   sync.Mutex
	file *os.File
	once map[string]bool
}

func openNotes(dir, pod string) (*notes, error) {
	f, err := os.OpenFile(filepath.Join(dir, pod+".jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &notes{file: f, once: map[string]bool{}}, nil
}

// write writes one line, which nobody sees half of.
func (n *notes) write(x note) {
	if x.At.IsZero() {
		x.At = time.Now()
	}
	line, err := json.Marshal(x)
	if err == nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		_, err = n.file.Write(append(line, '\n'))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error: cannot write down", x, err)
		os.Exit(3) // a pod that is silent would be taken for one that saw nothing wrong
	}
}

// first writes a note unless there is one of its kind and peer.
func (n *notes) first(x note) {
	n.mu.Lock()
	known := n.once[x.Kind+x.Peer]
	n.once[x.Kind+x.Peer] = true
	n.mu.Unlock()
	if !known {
		n.write(x)
	}
}

// count returns how many notes of a kind first wrote.
func (n *notes) count(kind string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := 0
	for k := range n.once {
		if strings.HasPrefix(k, kind) {
			all++
		}
	}
	return all
}

// readNotes returns what each pod wrote.
func readNotes(dir string) (map[string][]note, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.jsonl"))
	if err != nil {
		return nil, err
	}
	all := map[string][]note{}
	for _, path := range files {
		list, err := readFile(path)
		if err != nil {
			return nil, err
		}
		name := filepath.Base(path)
		all[name[:len(name)-len(".jsonl")]] = list
	}
	return all, nil
}

func readFile(path string) ([]note, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []note
	for s := bufio.NewScanner(f); s.Scan(); {
		var x note
		if err := json.Unmarshal(s.Bytes(), &x); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		list = append(list, x)
	}
	return list, nil
}
