//go:build linux

package runtime

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/shim"
)

// Instance is one running Ringfence on a machine: its two folders, which are its own as a whole. What is in Run is about
// processes and is worth nothing after a reboot; what is in State outlives it.
type Instance struct {
	Name  string
	Run   string // Run/lock, Run/status.json, Run/node and Run/pods/*, the shims
	State string // State/addresses.json, State/good and State/pods/NAMESPACE/NAME, logs and folders of commands
}

// marker is a file in both folders that says whose they are, so that Down never removes what is somebody else's.
const marker = "ringfence-instance"

// claim makes a folder the instance's.
func (i Instance) claim(dir string, mode fs.FileMode) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	path := filepath.Join(dir, marker)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if len(entries) > 0 {
		return fmt.Errorf("folder %s is not empty, and not of an instance: choose another with --run, --state or --name", dir)
	}
	if err := os.MkdirAll(dir, mode); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(i.Name+"\n"), 0o600)
}

var instanceName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// NewInstance is the instance of that name below the two folders.
func NewInstance(name, run, state string) (Instance, error) {
	if !instanceName.MatchString(name) {
		return Instance{}, fmt.Errorf("%q is no name of an instance: want at most 32 of a-z, 0-9 and '-'", name)
	}
	run, err := filepath.Abs(run)
	if err != nil {
		return Instance{}, err
	}
	state, err = filepath.Abs(state)
	return Instance{Name: name, Run: filepath.Join(run, name), State: filepath.Join(state, name)}, err
}

func (i Instance) nodeDir() shim.Dir  { return shim.Dir(filepath.Join(i.Run, "node")) }
func (i Instance) podsDir() string    { return filepath.Join(i.Run, "pods") }
func (i Instance) statusFile() string { return filepath.Join(i.Run, "status.json") }

// podDir is the folder of a pod's shim. Sockets have short paths, and pods long names.
func (i Instance) podDir(k cluster.Key) shim.Dir {
	sum := sha256.Sum256([]byte(k.String()))
	return shim.Dir(filepath.Join(i.podsDir(), hex.EncodeToString(sum[:6])))
}

// podState is where a pod's log and its command's folder are.
func (i Instance) podState(k cluster.Key) string {
	return filepath.Join(i.State, "pods", k.Namespace, k.Name)
}

// Log is the file that a pod's log goes to; older ones stand beside it with .1 and .2.
func (i Instance) Log(k cluster.Key) string { return filepath.Join(i.podState(k), "log") }

// WorkDir is the folder that a pod's command starts in.
func (i Instance) WorkDir(k cluster.Key) string { return filepath.Join(i.podState(k), "work") }

// Good is where the last good versions of manifests are kept.
func (i Instance) Good() string { return filepath.Join(i.State, "good") }

// ErrRunning is wrapped by the error of Lock if somebody else runs the instance.
var ErrRunning = errors.New("is running already")

// lockPatience is for one who was killed and is not quite dead yet.
const lockPatience = time.Second

// lock makes the caller the only one who changes the instance, until it closes the file or ends.
func (i Instance) lock() (*os.File, error) {
	// pods' users get to their pods' own folders in State, and list nothing on the way; nobody else gets into Run
	err := errors.Join(i.claim(i.Run, 0o700), i.claim(i.State, 0o711))
	if err != nil {
		return nil, fmt.Errorf("instance %s: %w", i.Name, err)
	}
	if err := os.MkdirAll(i.podsDir(), 0o700); err != nil {
		return nil, fmt.Errorf("instance %s: %w", i.Name, err)
	}
	f, err := os.OpenFile(filepath.Join(i.Run, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("instance %s: %w", i.Name, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	for start := time.Now(); errors.Is(err, unix.EWOULDBLOCK) && time.Since(start) < lockPatience; {
		time.Sleep(lockPatience / 20)
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		err = i.sign(f)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrRunning
		}
		return nil, fmt.Errorf("instance %s: %w", i.Name, err)
	}
	return f, nil
}

// sign writes into the lock file whose it is.
func (i Instance) sign(f *os.File) error {
	p, err := shim.Self()
	if err != nil {
		return err
	}
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	return err
}

// Keeper is the process that runs the instance; false if none does.
func (i Instance) Keeper() (shim.Process, bool) {
	f, err := os.Open(filepath.Join(i.Run, "lock"))
	if err != nil {
		return shim.Process{}, false
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) == nil { // nobody holds it
		return shim.Process{}, false
	}
	var p shim.Process
	err = json.NewDecoder(f).Decode(&p)
	return p, err == nil && p.Alive()
}

// shims lists the folders of all pods' shims, dead or alive, with the pods that they are for.
func (i Instance) shims() (map[cluster.Key]shim.Dir, error) {
	entries, err := os.ReadDir(i.podsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("instance %s: %w", i.Name, err)
	}
	found := map[cluster.Key]shim.Dir{}
	for _, e := range entries {
		d := shim.Dir(filepath.Join(i.podsDir(), e.Name()))
		var k cluster.Key
		if readJSON(filepath.Join(string(d), "pod.json"), &k) != nil || i.podDir(k) != d {
			continue // never finished
		}
		found[k] = d
	}
	return found, nil
}

func readJSON(path string, into any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, into)
}

// writeJSON replaces a file as a whole.
func writeJSON(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// askToEnd asks the process that runs the instance, if there is one, to end, and waits for it.
func (i Instance) askToEnd() error {
	p, running := i.Keeper()
	if !running {
		return nil
	}
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end process %d, which runs instance %s: %w", p.PID, i.Name, err)
	}
	if !p.Await(endTimeout) {
		return fmt.Errorf("process %d, which runs instance %s, does not end", p.PID, i.Name)
	}
	return nil
}
