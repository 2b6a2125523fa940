//go:build linux

package conntrack

import "golang.org/x/sys/unix"

// Shrink makes the receive buffer as small as the kernel allows.
func (w *Watcher) Shrink() error {
	var err error
	if outer := w.raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 1)
	}); outer != nil {
		return outer
	}
	return err
}
