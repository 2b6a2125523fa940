//go:build linux

package runtime

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence-project/ringfence/internal/shim"
)

// Down ends everything of the instance and removes its folders: whoever runs it, the pods, and the node, whose rules go
// with its namespace. It is no error if there is nothing, or only a part.
func (i Instance) Down(ctx context.Context) (pods int, err error) {
	if _, err := os.Stat(i.Run); errors.Is(err, fs.ErrNotExist) {
		return 0, i.removeFolders()
	}
	if err := i.askToEnd(); err != nil {
		return 0, err
	}
	lock, err := i.lock()
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	dirs, err := i.shims()
	if err != nil {
		return 0, err
	}
	var group errgroup.Group
	for k, d := range dirs {
		group.Go(func() error { return i.remove(ctx, k, d, false) })
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	if err := i.endUnknown(ctx); err != nil {
		return 0, err
	}
	if err := endShim(ctx, i.nodeDir()); err != nil {
		return 0, fmt.Errorf("node: %w", err)
	}
	return len(dirs), i.removeFolders()
}

// endUnknown ends the shims of pods' folders that were not finished.
func (i Instance) endUnknown(ctx context.Context) error {
	entries, err := os.ReadDir(i.podsDir())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := endShim(ctx, shim.Dir(filepath.Join(i.podsDir(), e.Name()))); err != nil {
			return err
		}
	}
	return nil
}

func endShim(ctx context.Context, d shim.Dir) error {
	c, err := shim.Find(d)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.Stop(ctx, stopTimeout)
}

// removeFolders removes what is ours below the two folders, and these if nothing else is in them.
func (i Instance) removeFolders() error {
	ours := map[string][]string{
		i.State: {"pods", "good", "addresses.json", "addresses.json.new"},
		i.Run:   {"pods", "node", "net.json", "net.json.new", "status.json", "status.json.new", "lock"},
	}
	for dir, names := range ours {
		for _, name := range names {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return fmt.Errorf("instance %s: %w", i.Name, err)
			}
		}
		_ = os.Remove(dir) // not if somebody else put something there
	}
	return nil
}
