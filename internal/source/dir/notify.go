//go:build linux

package dir

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// event is something that happened to a file.
type event struct {
	path    string // "" if it was no manifest's, but a folder's
	at      time.Time
	written bool // somebody writes to it
	closed  bool // somebody who could write to it has closed it
	gone    bool // removed or renamed away
	lost    bool // the kernel lost events
}

// notifier tells what happens in folders. It is inotify itself and not a library over it, because these do not tell
// that a writer is done, and half a manifest may be a valid one.
type notifier struct {
	fd     int // of file; asking file for it would make it block
	file   *os.File
	events chan event
	failed chan error
	ended  chan struct{}

	mu     sync.Mutex
	places map[int32]string // by watch descriptor
}

const notifyMask = unix.IN_CREATE | unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	n := &notifier{fd: fd, file: os.NewFile(uintptr(fd), "inotify"), events: make(chan event), failed: make(chan error, 1),
		ended: make(chan struct{}), places: map[int32]string{}}
	go n.read()
	return n, nil
}

func (n *notifier) close() {
	close(n.ended)
	n.file.Close()
}

// watch listens to folders, and reports whether it did not to one of them before.
func (n *notifier) watch(places []string) (more bool, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := map[int32]string{}
	for _, p := range places {
		wd, err := unix.InotifyAddWatch(n.fd, p, notifyMask)
		if errors.Is(err, fs.ErrNotExist) {
			more = true
			continue
		}
		if errors.Is(err, unix.ENOSPC) {
			return false, errors.New("the kernel watches no more folders: raise fs.inotify.max_user_watches; changes are seen a few seconds late")
		}
		if err != nil {
			return false, fmt.Errorf("watch folder %s: %w", p, err)
		}
		more = more || n.places[int32(wd)] != p
		now[int32(wd)] = p
	}
	for wd := range n.places {
		if _, kept := now[wd]; !kept {
			_, _ = unix.InotifyRmWatch(n.fd, uint32(wd)) // it may be gone with its folder
		}
	}
	n.places = now
	return more, nil
}

// read hands events on until close.
func (n *notifier) read() {
	buf := make([]byte, 64<<10)
	for {
		size, err := n.file.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				n.failed <- err
			}
			return
		}
		at := time.Now()
		for data := buf[:size]; len(data) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(data))
			mask := binary.NativeEndian.Uint32(data[4:])
			length := int(binary.NativeEndian.Uint32(data[12:]))
			name := string(bytes.TrimRight(data[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+length], "\x00"))
			data = data[unix.SizeofInotifyEvent+length:]
			e, ok := n.event(wd, mask, name)
			if !ok {
				continue
			}
			e.at = at
			select {
			case n.events <- e:
			case <-n.ended:
				return
			}
		}
	}
}

// event says what happened, if it is of interest.
func (n *notifier) event(wd int32, mask uint32, name string) (event, bool) {
	if mask&unix.IN_Q_OVERFLOW != 0 {
		return event{lost: true}, true
	}
	if mask&unix.IN_IGNORED != 0 {
		return event{}, false
	}
	n.mu.Lock()
	folder, known := n.places[wd]
	n.mu.Unlock()
	if !known {
		return event{}, false
	}
	if mask&unix.IN_ISDIR != 0 || name == "" {
		return event{}, mask&unix.IN_ATTRIB == 0 || name != ""
	}
	if !isManifest(name) && !n.isLink(filepath.Join(folder, name)) {
		return event{}, false
	}
	return event{path: filepath.Join(folder, name), written: mask&unix.IN_MODIFY != 0, closed: mask&unix.IN_CLOSE_WRITE != 0,
		gone: mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0}, true
}

// isLink reports whether path is a symbolic link, which may lead to a folder.
func (n *notifier) isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}
