package cni

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/ringfence-project/ringfence/internal/wholefile"
)

// ErrNoNetwork is wrapped by the error of Install where the node has no pod network to chain to yet.
var ErrNoNetwork = errors.New("no configuration list there yet")

// Place is where a node's container runtime looks for networks.
type Place struct {
	Binaries string // folder of the plugins' binaries, usually /opt/cni/bin
	Configs  string // folder of the configurations, usually /etc/cni/net.d
	// Config is the name of the configuration list to be the last plugin of. Empty is what runtimes take: the first, by
	// name, of all configurations.
	Config string
}

// Changes says what Install or Uninstall did.
type Changes struct {
	Binary bool   // the binary was written or removed
	Config string // the configuration list that was written, empty if none
}

// Install makes the plugin part of the node's pod network: first its binary, a copy of program, then its entry at the end
// of the configuration list. Both are replaced in one step each, and not touched if they are as they should be.
func Install(p Place, program string, e Entry) (Changes, error) {
	var done Changes
	list, err := p.list()
	if err != nil {
		return done, err
	}
	if done.Binary, err = copyProgram(program, filepath.Join(p.Binaries, PluginType)); err != nil {
		return done, fmt.Errorf("put the plugin's binary in place: %w", err)
	}
	changed, err := edit(list, func(text []byte) ([]byte, error) { return chained(text, e.json()) })
	if changed {
		done.Config = list
	}
	return done, err
}

// Uninstall takes the plugin out of all configuration lists and removes its binary, in this order, so that no pod's start
// finds an entry without a binary.
func Uninstall(p Place) (Changes, error) {
	var done Changes
	files, err := p.configs()
	if err != nil {
		return done, err
	}
	for _, f := range files {
		if filepath.Ext(f) != ".conflist" {
			continue
		}
		changed, err := edit(f, unchained)
		if err != nil {
			return done, err
		}
		if changed {
			done.Config = f
		}
	}
	err = os.Remove(filepath.Join(p.Binaries, PluginType))
	done.Binary = err == nil
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return done, err
}

// json is the entry as it stands in a configuration list.
func (e Entry) json() map[string]any {
	entry := map[string]any{"type": PluginType}
	if e.Records != "" && e.Records != DefaultRecords {
		entry["records"] = e.Records
	}
	if len(e.PodCIDRs) > 0 {
		entry["podCIDRs"] = e.PodCIDRs
	}
	return entry
}

// configs are the files that a container runtime takes for network configurations, in its order.
func (p Place) configs() ([]string, error) {
	entries, err := os.ReadDir(p.Configs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(e.Name())) && !e.IsDir() {
			files = append(files, filepath.Join(p.Configs, e.Name()))
		}
	}
	slices.Sort(files)
	return files, nil
}

// list finds the configuration list that is in use.
func (p Place) list() (string, error) {
	if p.Config != "" {
		f := filepath.Join(p.Configs, p.Config)
		if _, err := os.Stat(f); errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%s: %w", f, ErrNoNetwork)
		}
		return f, nil
	}
	files, err := p.configs()
	if err != nil {
		return "", err
	}
	if len(files) == 0 {
		return "", fmt.Errorf("%s: %w", p.Configs, ErrNoNetwork)
	}
	if filepath.Ext(files[0]) != ".conflist" {
		return "", fmt.Errorf("%s is a single configuration, which plugins cannot be chained to; write it as a list (.conflist)", files[0])
	}
	return files[0], nil
}

// edit replaces a file by what f makes of it, if that is something else.
func edit(path string, f func([]byte) ([]byte, error)) (bool, error) {
	info, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	before, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	after, err := f(before)
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(before, after) {
		return false, nil
	}
	if !json.Valid(after) {
		return false, fmt.Errorf("%s: would be no JSON any more; it stays as it is", path)
	}
	return true, wholefile.Copy(path, bytes.NewReader(after), info.Mode().Perm())
}

// copyProgram puts a copy of a program in place. Replacing it under a running process is fine: that one keeps the old file.
func copyProgram(from, to string) (bool, error) {
	want, err := fingerprint(from)
	if err != nil {
		return false, err
	}
	if have, err := fingerprint(to); err == nil && have == want {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return false, err
	}
	f, err := os.Open(from)
	if err != nil {
		return false, err
	}
	defer f.Close()
	return true, wholefile.Copy(to, f, 0o755)
}

func fingerprint(path string) ([sha256.Size]byte, error) {
	var sum [sha256.Size]byte
	f, err := os.Open(path)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}
