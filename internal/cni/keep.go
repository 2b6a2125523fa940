package cni

import (
	"context"
	"fmt"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Keep looks at least so often; events are what it goes by, but a folder that is replaced gives none.
const keepLook = time.Minute

// settle is how long a folder has to be quiet, so that an owner that writes its list in several steps is waited for.
const settle = 200 * time.Millisecond

// Keep calls Install whenever something changes in the place's folders, until done, which is told each result, returns
// true or ctx ends, which is its error then.
func Keep(ctx context.Context, p Place, program string, e Entry, done func(Changes, error) bool) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the node's network configuration: %w", err)
	}
	defer watcher.Close()
	for {
		// Before looking, so that nothing that changes meanwhile is missed. A folder that is not there is found by looking.
		for _, dir := range []string{p.Configs, p.Binaries} {
			_ = watcher.Add(dir)
		}
		if done(Install(p, program, e)) {
			return nil
		}
		if err := wait(ctx, watcher); err != nil {
			return err
		}
	}
}

// wait returns after something changed and nothing more did for a while.
func wait(ctx context.Context, watcher *fsnotify.Watcher) error {
	timer := time.NewTimer(keepLook)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-watcher.Errors:
		case <-watcher.Events:
		case <-timer.C:
			return nil
		}
		timer.Reset(settle)
	}
}
