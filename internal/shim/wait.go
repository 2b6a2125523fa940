//go:build linux

package shim

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// awaitExit returns when a child has ended, and does not wait for it otherwise: its number stays its own.
func awaitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// endedChild returns a child that has ended and that nobody has waited for, without doing so; 0 if there is none.
func endedChild() (int, error) {
	var info unix.Siginfo
	for {
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		// unix.Siginfo has no fields for SIGCHLD: after three numbers, of four bytes each, and alignment of pointers, it
		// says the process.
		const at = 3*4 + (unsafe.Sizeof(uintptr(0)) - 4)
		return int(*(*int32)(unsafe.Add(unsafe.Pointer(&info), at))), nil
	}
}
