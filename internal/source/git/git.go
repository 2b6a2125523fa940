// Package git is the source of manifests that are in a revision of a git repository.
//
// The repository is not trusted: it may be somebody's proposal. Only the git program's plumbing that reads objects is
// called. Hooks, filters, attributes, file monitors, external diffs, pagers, replaced objects and lazy fetches have no
// place in that, and are switched off besides. Nothing is checked out, and no file is written.
package git

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/source/dir"
)

// Bounds of what is read of a revision.
const (
	maxFiles = 20_000    // manifests
	maxBytes = 256 << 20 // of all of them together
	maxList  = 64 << 20  // bytes of the list of files
)

// Folder is a folder of a repository.
type Folder struct {
	root string // where git is run: an existing folder of the repository
	path string // of the folder in the repository, "" or with a slash at its end
	show string // of the folder as it was named, "" or with a slash at its end
}

// Open finds the repository that a folder is in. The folder need not be there now: an older revision may have it.
func Open(ctx context.Context, folder string) (*Folder, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, fmt.Errorf("revisions are read with git, which is not installed: %w", err)
	}
	f := &Folder{root: folder, show: slashed(filepath.ToSlash(filepath.Clean(folder)))}
	below := ""
	for {
		info, err := os.Stat(f.root)
		if err == nil && info.IsDir() {
			break
		}
		up := filepath.Dir(f.root)
		if up == f.root {
			return nil, fmt.Errorf("%s: there is no such folder", folder)
		}
		below = path.Join(filepath.Base(f.root), below)
		f.root = up
	}
	prefix, err := f.git(ctx, nil, maxList, "rev-parse", "--show-prefix")
	if err != nil {
		return nil, fmt.Errorf("%s: revisions need a git repository: %w", folder, err)
	}
	f.path = slashed(path.Join(strings.TrimSuffix(string(prefix), "\n"), below))
	return f, nil
}

// slashed ends a folder's path; that of the root is empty.
func slashed(p string) string {
	if p == "" || p == "." {
		return ""
	}
	return strings.TrimSuffix(p, "/") + "/"
}

// Resolve returns the commit that a revision names.
func (f *Folder) Resolve(ctx context.Context, revision string) (string, error) {
	out, err := f.git(ctx, nil, 1<<12, "rev-parse", "--verify", "--quiet", "--end-of-options", revision+"^{commit}")
	if err != nil {
		return "", fmt.Errorf("%s is no revision of the repository of %s", revision, cmp.Or(f.show, "this folder"))
	}
	return strings.TrimSpace(string(out)), nil
}

// MergeBase returns the newest commit that two commits both come from.
func (f *Folder) MergeBase(ctx context.Context, a, b string) (string, error) {
	out, err := f.git(ctx, nil, 1<<12, "merge-base", a, b)
	if err != nil {
		return "", fmt.Errorf("%s and %s have no commit in common: %w", a, b, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Load reads the manifests of a commit that dir.Load would take of the folder. Their names begin with prefix, and then are
// as if the commit were checked out. The number is how many files there are; 0 may mean that the commit has no such folder.
func (f *Folder) Load(ctx context.Context, commit, prefix string) (*manifest.Bundle, int, error) {
	bundle := manifest.NewBundle()
	list := []string{"ls-tree", "-r", "-z", "-l", "--full-tree", commit}
	if f.path != "" {
		list = append(list, "--", f.path)
	}
	out, err := f.git(ctx, nil, maxList, list...)
	if err != nil {
		return nil, 0, fmt.Errorf("list %s: %w", commit, err)
	}
	var files []entry
	total := int64(0)
	for line := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		e, ok := parseEntry(line)
		if !ok {
			continue
		}
		e.show = prefix + f.show + strings.TrimPrefix(e.path, f.path)
		if e = f.follow(ctx, commit, e, bundle); e.object == "" {
			continue
		}
		files = append(files, e)
		if total += e.size; len(files) > maxFiles || total > maxBytes {
			return nil, 0, fmt.Errorf("%s holds more than %d manifests, or more than %d MiB of them", commit, maxFiles, maxBytes>>20)
		}
	}
	slices.SortFunc(files, func(a, b entry) int { return slices.Compare(strings.Split(a.show, "/"), strings.Split(b.show, "/")) })
	return bundle, len(files), f.read(ctx, files, bundle)
}

// entry is a file of a commit.
type entry struct {
	mode, object string
	size         int64
	path, show   string
}

// parseEntry reads a line of ls-tree: mode, type, object and size, a tab, the path.
func parseEntry(line string) (entry, bool) {
	head, name, ok := strings.Cut(line, "\t")
	words := strings.Fields(head)
	if !ok || len(words) != 4 {
		return entry{}, false
	}
	size, err := strconv.ParseInt(words[3], 10, 64)
	if err != nil { // a submodule has none
		size = 0
	}
	return entry{mode: words[0], object: words[2], size: size, path: name}, true
}

// The modes of what is no plain file.
const (
	modeLink      = "120000"
	modeSubmodule = "160000"
)

// maxLink is how long the target of a link may be, in bytes.
const maxLink = 4096

// follow returns the file that is to be read for e, or none. A link leads to another file of the commit; what leads
// elsewhere is a problem, as leaving out a policy in silence would be wrong.
func (f *Folder) follow(ctx context.Context, commit string, e entry, bundle *manifest.Bundle) entry {
	below := strings.TrimPrefix(e.path, f.path)
	switch {
	case e.mode == modeSubmodule:
		bundle.Ignore("git submodule")
		return entry{}
	case e.mode != modeLink:
		if !dir.Takes(below) {
			return entry{}
		}
		return e
	case !dir.Takes(below) && path.Ext(e.path) != "":
		return entry{}
	}
	at := e
	for range 8 {
		if at.size > maxLink {
			break
		}
		target, err := f.git(ctx, nil, maxLink+1, "cat-file", "blob", at.object)
		if err != nil {
			break
		}
		name := path.Join(path.Dir(at.path), string(target))
		if path.IsAbs(string(target)) || name == ".." || strings.HasPrefix(name, "../") {
			break
		}
		line, err := f.git(ctx, nil, maxList, "ls-tree", "-z", "-l", "--full-tree", commit, "--", name)
		next, ok := parseEntry(strings.TrimSuffix(string(line), "\x00"))
		if err != nil || !ok || strings.HasPrefix(next.mode, "04") {
			break
		}
		if next.mode != modeLink {
			next.show = e.show
			return next
		}
		at = next
	}
	bundle.Report(manifest.Problem{File: e.show, Message: "is a link that leads to no file of the revision, and is not followed"})
	return entry{}
}

// read decodes files in order.
func (f *Folder) read(ctx context.Context, files []entry, bundle *manifest.Bundle) error {
	var ask bytes.Buffer
	wanted := files[:0:0]
	for _, e := range files {
		if e.size > manifest.MaxFile {
			bundle.Report(manifest.Problem{File: e.show, Message: fmt.Sprintf("larger than %d MiB", manifest.MaxFile>>20), Fix: "split it"})
			continue
		}
		wanted = append(wanted, e)
		fmt.Fprintln(&ask, e.object)
	}
	if len(wanted) == 0 {
		return nil
	}
	out, err := f.git(ctx, &ask, maxBytes+int64(len(wanted))*200, "cat-file", "--batch")
	if err != nil {
		return fmt.Errorf("read manifests: %w", err)
	}
	for _, e := range wanted {
		head, rest, _ := bytes.Cut(out, []byte("\n"))
		words := strings.Fields(string(head))
		if len(words) != 3 || words[0] != e.object || words[1] != "blob" || words[2] != strconv.FormatInt(e.size, 10) || int64(len(rest)) <= e.size {
			return fmt.Errorf("read %s: the repository does not have its content: %s", e.show, head)
		}
		bundle.Decode(e.show, rest[:e.size])
		out = rest[e.size+1:]
	}
	return nil
}

// safely are the options that every command is given.
var safely = []string{"--no-pager", "--no-replace-objects", "--no-optional-locks", "--literal-pathspecs",
	"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.attributesFile=/dev/null", "-c", "protocol.allow=never",
	"-c", "core.sshCommand=false", "-c", "credential.helper="}

// environment is the process's, without what makes git look at another repository or index than the folder's (which it
// sets where it runs hooks), and with what keeps it from asking anybody.
func environment() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_ALLOW_PROTOCOL", "GIT_LITERAL_PATHSPECS"}, name)
	})
	return append(env, "GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
}

// errTooLong is what git returns for more than it was allowed to say.
var errTooLong = errors.New("there is more of it than is read")

// git runs a command and returns up to most bytes of its output. The error is the last line that it said.
func (f *Folder) git(ctx context.Context, stdin io.Reader, most int64, args ...string) ([]byte, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, "git", slices.Concat(safely, []string{"-C", f.root}, args)...)
	cmd.Env, cmd.Stdin, cmd.WaitDelay = environment(), stdin, time.Second
	var stderr tail
	cmd.Stderr = &stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	out, readErr := io.ReadAll(io.LimitReader(pipe, most+1))
	if int64(len(out)) > most {
		cancel()
		readErr = errTooLong
	}
	err = cmd.Wait()
	switch {
	case readErr != nil:
		return nil, readErr
	case err != nil && stderr.text() != "":
		return nil, errors.New(stderr.text())
	case err != nil:
		return nil, err
	}
	return out, nil
}

// tail keeps the end of what is written.
type tail struct{ data []byte }

// Write keeps p's end.
func (t *tail) Write(p []byte) (int, error) {
	t.data = append(t.data, p...)
	t.data = t.data[max(0, len(t.data)-1024):]
	return len(p), nil
}

// text is the last line.
func (t *tail) text() string {
	lines := strings.Split(strings.TrimSpace(string(t.data)), "\n")
	return strings.TrimPrefix(strings.TrimSpace(lines[len(lines)-1]), "fatal: ")
}
