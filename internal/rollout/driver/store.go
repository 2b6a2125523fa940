package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/wholefile"
)

// disk is how long files may take, which is as long as it takes.
var disk = context.Background()

// policies keeps the policies of changes that were complete: a later revision of the rollout is judged beside them, when
// no manifest has them any more.
type policies struct {
	file  string
	store *generation.Store
}

func openPolicies(folder string) (policies, error) {
	store, err := generation.Open(filepath.Join(folder, "candidates"), generation.Limits{})
	return policies{filepath.Join(folder, "rollouts.json"), store}, err
}

// stored is what is on disk.
type stored struct {
	Rollouts []storedRollout  `json:"rollouts"`
	Past     []rollout.Status `json:"past,omitempty"`
}

type storedRollout struct {
	Status rollout.Status  `json:"status"`
	Living bool            `json:"living,omitempty"`
	Former *storedFinished `json:"former,omitempty"`
	Own    *storedFinished `json:"own,omitempty"`
}

type storedFinished struct {
	Policies generation.ID `json:"policies"`
	Remove   []rollout.Ref `json:"remove,omitempty"`
	Digest   string        `json:"digest"`
	At       time.Time     `json:"at"`
}

// save writes everything. What could not be written is said once, and the next time tried again.
func (d *Driver) save(now time.Time) error {
	err := d.write()
	if err != nil {
		d.tell(err.Error())
		return err
	}
	d.tell("")
	d.saved, d.unsaved = now, false
	return nil
}

func (d *Driver) write() error {
	out := stored{Rollouts: []storedRollout{}, Past: d.past}
	for _, r := range d.sorted() {
		s := storedRollout{Status: r.status, Living: r.living}
		var err error
		if s.Former, err = d.keep(r.status.Rollout+" former", r.former); err != nil {
			return err
		}
		if s.Own, err = d.keep(r.status.Rollout, r.own); err != nil {
			return err
		}
		out.Rollouts = append(out.Rollouts, s)
	}
	data, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		return err
	}
	return wholefile.Write(d.file, append(data, '\n'))
}

// keep keeps the policies of a finished change.
func (p policies) keep(pin string, f *finished) (*storedFinished, error) {
	if f == nil {
		return nil, nil
	}
	id := generation.Of(f.Policies)
	if _, err := p.store.Get(disk, id); err != nil {
		if _, err := p.store.Put(disk, f.Policies, f.At, "rollout "+pin); err != nil {
			return nil, err
		}
	}
	if err := p.store.Pin(disk, pin, id); err != nil {
		return nil, err
	}
	return &storedFinished{Policies: id, Remove: f.Remove, Digest: f.Digest, At: f.At}, nil
}

func (p policies) take(s *storedFinished) (*finished, error) {
	if s == nil {
		return nil, nil
	}
	g, err := p.store.Get(disk, s.Policies)
	if err != nil {
		return nil, err
	}
	return &finished{Change: rollout.Change{Policies: g.Policies, Remove: s.Remove}, Digest: s.Digest, At: s.At}, nil
}

func (d *Driver) load() error {
	in, err := read(d.file)
	if err != nil {
		return err
	}
	d.past = in.Past
	for _, s := range in.Rollouts {
		r := &driven{status: s.Status, living: s.Living}
		if r.former, err = d.take(s.Former); err != nil {
			return fmt.Errorf("%s: %w", s.Status.Rollout, err)
		}
		if r.own, err = d.take(s.Own); err != nil {
			return fmt.Errorf("%s: %w", s.Status.Rollout, err)
		}
		d.all[s.Status.Rollout] = r
	}
	return nil
}

func read(file string) (stored, error) {
	var in stored
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return in, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &in)
	}
	if err != nil {
		return in, fmt.Errorf("%w; without %s all rollouts begin anew", err, file)
	}
	return in, nil
}

// Read returns what was last kept in a folder, for who wants to know and finds no Driver.
func Read(folder string) (now, past []View, err error) {
	in, err := read(filepath.Join(folder, "rollouts.json"))
	for _, s := range in.Rollouts {
		now = append(now, View{Status: s.Status})
	}
	for i := len(in.Past) - 1; i >= 0; i-- {
		past = append(past, View{Status: in.Past[i]})
	}
	return now, past, err
}
