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
	if _, err := os.Stat(filepath.Join(i.Run, marker)); errors.Is(err, fs.ErrNotExist) {
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

// removeFolders removes the two folders, if they are the instance's.
func (i Instance) removeFolders() error {
	for _, dir := range []string{i.State, i.Run} {
		if _, err := os.Stat(filepath.Join(dir, marker)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("instance %s: %w", i.Name, err)
		}
	}
	return nil
}
