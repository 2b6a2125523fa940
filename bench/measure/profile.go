package measure

import (
	"errors"
	"os"
	"runtime/pprof"
)

// Profiled runs f and writes a CPU profile of that to a file; without a file it only runs f.
func Profiled(file string, f func() error) error {
	if file == "" {
		return f()
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return errors.Join(err, out.Close())
	}
	err = f()
	pprof.StopCPUProfile()
	return errors.Join(err, out.Close())
}
