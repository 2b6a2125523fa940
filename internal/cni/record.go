package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/ringfence-project/ringfence/internal/wholefile"
)

// DefaultRecords is the folder that records are kept in. It is gone after a reboot, as the pods are.
const DefaultRecords = "/run/ringfence/cni"

// Record is what the plugin knows of one interface of a pod, from before its first process starts.
type Record struct {
	Network     string `json:"network"`     // name of the network configuration that plugged it in
	ContainerID string `json:"containerID"` // of the pod's sandbox
	IfName      string `json:"ifName"`      // the pod's own end, such as eth0

	// Namespace, Pod and UID are the pod's; empty if the runtime does not say them.
	Namespace string `json:"namespace,omitempty"`
	Pod       string `json:"pod,omitempty"`
	UID       string `json:"uid,omitempty"`

	// Interface is the node's end of the pod's veth. On a bridge it is the bridge's port.
	Interface string       `json:"interface"`
	Addresses []netip.Addr `json:"addresses"`
}

// suffix ends the names of records; other files in the folder are no records.
const suffix = ".json"

// fileName is unique: names of containers and of interfaces hold no slash, and interface names cannot hold ":".
func fileName(containerID, ifName string) string { return containerID + ":" + ifName + suffix }

// ReadRecords returns the records in a folder, in the order of their file names. A folder that is not there has none.
// A record that cannot be read is left out and is part of the error; the others are returned all the same.
func ReadRecords(dir string) ([]Record, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var records []Record
	var errs []error
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		r, err := readRecord(filepath.Join(dir, e.Name()))
		switch {
		case errors.Is(err, fs.ErrNotExist): // its pod ended meanwhile
		case err != nil:
			errs = append(errs, err)
		default:
			records = append(records, r)
		}
	}
	return records, errors.Join(errs...)
}

func readRecord(path string) (Record, error) {
	var r Record
	b, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", path, err)
	}
	return r, nil
}

// write puts the record in its folder, whole or not at all.
func (r Record) write(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return wholefile.Write(filepath.Join(dir, fileName(r.ContainerID, r.IfName)), b)
}

// remove deletes a record; that it is not there is no error.
func remove(dir, containerID, ifName string) error {
	err := os.Remove(filepath.Join(dir, fileName(containerID, ifName)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
