//go:build linux

package shim

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// A pod's log is a file and the older ones beside it, name.1 and name.2.
const (
	maxLogSize = 10 << 20
	logFiles   = 3
)

// logFile keeps what a pod's commands write. They write into a pipe, which outlives each of them.
type logFile struct {
	pipe *os.File // the end to write to
	path string

	mu   sync.Mutex
	file *os.File
	size int64

	copied chan struct{} // closed when nothing comes out of the pipe any more
}

func openLog(path string) (*logFile, error) {
	l := &logFile{path: path, copied: make(chan struct{})}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("log: %w", err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		l.file.Close()
		return nil, fmt.Errorf("log: %w", err)
	}
	l.pipe = w
	go func() {
		defer close(l.copied)
		defer r.Close()
		// Whoever writes must not be stopped by a full disk, so what cannot be kept is read all the same.
		_, _ = io.Copy(l, r)
	}()
	return l, nil
}

func (l *logFile) open() (err error) {
	l.file, err = os.OpenFile(l.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	info, err := l.file.Stat()
	if err == nil {
		l.size = info.Size()
	}
	return err
}

// Write adds to the log. It always succeeds.
func (l *logFile) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size+int64(len(p)) > maxLogSize && l.size > 0 {
		l.rotate()
	}
	n, _ := l.file.Write(p)
	l.size += int64(n)
	return len(p), nil
}

// rotate starts a new file. Where that fails, the old one goes on.
func (l *logFile) rotate() {
	for i := logFiles - 1; i > 0; i-- {
		older, newer := l.path+"."+strconv.Itoa(i), l.path
		if i > 1 {
			newer = l.path + "." + strconv.Itoa(i-1)
		}
		if err := os.Rename(newer, older); err != nil && !errors.Is(err, os.ErrNotExist) {
			return
		}
	}
	old := l.file
	if err := l.open(); err != nil {
		l.file = old
		return
	}
	old.Close()
}

// Close ends the log. All commands that write to it have ended.
func (l *logFile) Close() error {
	l.pipe.Close()
	<-l.copied
	return l.file.Close()
}
