//go:build linux

package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
)

// logPoll is how often a log that is followed is looked at.
const logPoll = 100 * time.Millisecond

// CopyLog writes a pod's log to w: its last lines (all if tail is negative), and what is added to it later until ctx
// ends if follow is set.
func (i Instance) CopyLog(ctx context.Context, w io.Writer, k cluster.Key, tail int, follow bool) error {
	path := i.Log(k)
	var old []byte
	for _, older := range []string{path + ".2", path + ".1"} {
		data, err := os.ReadFile(older)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("log of pod %s: %w", k, err)
		}
		old = append(old, data...)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pod %s has no log yet", k)
	}
	if err != nil {
		return fmt.Errorf("log of pod %s: %w", k, err)
	}
	defer func() { f.Close() }()
	now, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("log of pod %s: %w", k, err)
	}
	if _, err := w.Write(lastLines(append(old, now...), tail)); err != nil || !follow {
		return err
	}
	for ctx.Err() == nil {
		if _, err := io.Copy(w, f); err != nil {
			return err
		}
		if next, err := os.Open(path); err == nil {
			if sameFile(f, next) {
				next.Close()
			} else { // the log went on in a new file, after the old one was written to its end
				_, err = io.Copy(w, f)
				f.Close()
				f = next
				if err != nil {
					return err
				}
				continue
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(logPoll):
		}
	}
	return nil
}

func sameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// lastLines returns the last n lines of data, or all if n is negative.
func lastLines(data []byte, n int) []byte {
	if n < 0 {
		return data
	}
	at := len(data)
	if at > 0 && data[at-1] == '\n' {
		at--
	}
	for ; n > 0; n-- {
		at = bytes.LastIndexByte(data[:at], '\n')
		if at < 0 {
			return data
		}
	}
	if at == len(data) {
		return nil
	}
	return data[at+1:]
}
