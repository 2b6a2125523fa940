package git_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/manifest"
	"github.com/ringfence-project/ringfence/internal/source/git"
)

// repository makes a repository and returns a function that runs git in it.
func repository(t *testing.T) (root string, run func(args ...string) string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	root = t.TempDir()
	run = func(args ...string) string {
		t.Helper()
		cmd := exec.Command("git", append([]string{"-C", root, "-c", "user.name=n", "-c", "user.email=n@example.com", "-c", "commit.gpgsign=false"}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run("init", "-q", "-b", "main")
	return root, run
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func policyNamed(name string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {namespace: shop, name: " + name + "}\nspec: {podSelector: {}}\n"
}

// load returns "namespace/name place" of all policies, and the problems.
func load(t *testing.T, folder, revision string) (policies, problems []string) {
	t.Helper()
	ctx := context.Background()
	f, err := git.Open(ctx, folder)
	if err != nil {
		t.Fatal(err)
	}
	commit, err := f.Resolve(ctx, revision)
	if err != nil {
		t.Fatal(err)
	}
	bundle, _, err := f.Load(ctx, commit, revision+":")
	if err != nil {
		t.Fatal(err)
	}
	r := bundle.Finish(manifest.Options{})
	for _, p := range r.Objects.Policies {
		policies = append(policies, p.Name+" "+strings.Replace(p.File, folder, "F", 1))
	}
	for _, p := range r.Problems {
		problems = append(problems, strings.Replace(p.Error(), folder, "F", 1))
	}
	slices.Sort(policies)
	return policies, problems
}

func TestRevisionsAreReadAsFolders(t *testing.T) {
	root, run := repository(t)
	k8s := filepath.Join(root, "k8s")
	write(t, filepath.Join(k8s, "a.yaml"), policyNamed("a"))
	write(t, filepath.Join(k8s, "sub dir", "b \"x\".yaml"), policyNamed("b"))
	for _, no := range []string{"k8s/.hidden/c.yaml", "k8s/.c.yaml", "k8s/c_test.yaml", "k8s/kustomization.yaml", "k8s/notes.txt", "other/c.yaml"} {
		write(t, filepath.Join(root, no), policyNamed("no"))
	}
	run("add", "-A")
	run("commit", "-q", "-m", "one")
	write(t, filepath.Join(k8s, "a.yaml"), policyNamed("changed"))
	run("rm", "-q", "-r", "k8s/sub dir")
	run("commit", "-q", "-a", "-m", "two")
	write(t, filepath.Join(k8s, "a.yaml"), policyNamed("uncommitted"))

	if got, _ := load(t, k8s, "HEAD"); !slices.Equal(got, []string{"changed HEAD:F/a.yaml"}) {
		t.Errorf("HEAD: %q", got)
	}
	if got, _ := load(t, k8s, "HEAD~1"); !slices.Equal(got, []string{"a HEAD~1:F/a.yaml", `b HEAD~1:F/sub dir/b "x".yaml`}) {
		t.Errorf("HEAD~1: %q", got)
	}
	if got, _ := load(t, filepath.Join(k8s, "sub dir"), "HEAD~1"); len(got) != 1 {
		t.Errorf("a folder that is gone now: %q", got)
	}
	if got, _ := load(t, root, "HEAD~1"); !slices.Equal(got, []string{"a HEAD~1:F/k8s/a.yaml", `b HEAD~1:F/k8s/sub dir/b "x".yaml`, "no HEAD~1:F/other/c.yaml"}) {
		t.Errorf("the whole repository: %q", got)
	}
}

func TestLinks(t *testing.T) {
	root, run := repository(t)
	write(t, filepath.Join(root, "base/p.yaml"), policyNamed("base"))
	write(t, filepath.Join(root, "k8s/own.yaml"), policyNamed("own"))
	for name, target := range map[string]string{"k8s/in.yaml": "../base/p.yaml", "k8s/out.yaml": "/etc/passwd", "k8s/up.yaml": "../../secret.yaml",
		"k8s/loop.yaml": "loop.yaml", "k8s/folder": "../base", "k8s/readme.txt": "/etc/passwd"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	run("add", "-A")
	run("commit", "-q", "-m", "links")
	policies, problems := load(t, filepath.Join(root, "k8s"), "HEAD")
	if !slices.Equal(policies, []string{"base HEAD:F/in.yaml", "own HEAD:F/own.yaml"}) {
		t.Errorf("policies %q", policies)
	}
	if len(problems) != 4 {
		t.Errorf("problems %q", problems)
	}
}

// TestNothingIsRun: a repository that would run a program on every occasion that git gives runs none.
func TestNothingIsRun(t *testing.T) {
	root, run := repository(t)
	write(t, filepath.Join(root, "a.yaml"), policyNamed("a"))
	write(t, filepath.Join(root, ".gitattributes"), "*.yaml filter=evil diff=evil ident export-subst\n")
	run("add", "-A")
	run("commit", "-q", "-m", "one")
	trap := filepath.Join(t.TempDir(), "trap.sh")
	sprung := trap + ".sprung"
	write(t, trap, "#!/bin/sh\ntouch "+sprung+"\ncat\n")
	if err := os.Chmod(trap, 0o755); err != nil {
		t.Fatal(err)
	}
	blob := run("rev-parse", "HEAD:a.yaml")
	for _, name := range []string{"core.fsmonitor", "core.pager", "pager.ls-tree", "core.sshCommand", "filter.evil.smudge", "filter.evil.clean", "filter.evil.process",
		"diff.evil.textconv", "diff.external", "core.editor", "core.gitProxy", "core.askPass", "core.alternateRefsCommand", "gpg.program", "credential.helper", "uploadpack.packObjectsHook"} {
		run("config", name, trap)
	}
	run("config", "alias.ls-tree", "!"+trap)
	run("config", "core.hooksPath", filepath.Dir(trap))
	run("config", "extensions.partialClone", "origin")
	run("config", "remote.origin.promisor", "true")
	run("config", "remote.origin.url", "ext::"+trap)
	run("config", "protocol.ext.allow", "always")

	if got, _ := load(t, root, "HEAD"); len(got) != 1 {
		t.Errorf("policies %q", got)
	}
	// An object that is not there must be an error, and not be fetched.
	if err := os.Remove(filepath.Join(root, ".git/objects", blob[:2], blob[2:])); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	f, err := git.Open(ctx, root)
	if err != nil {
		t.Fatal(err)
	}
	commit, err := f.Resolve(ctx, "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Load(ctx, commit, ""); err == nil {
		t.Error("an object that is missing was read")
	}
	if _, err := os.Stat(sprung); err == nil {
		t.Error("the repository ran its program")
	}
}

func TestErrors(t *testing.T) {
	ctx := context.Background()
	if _, err := git.Open(ctx, t.TempDir()); err == nil || !strings.Contains(err.Error(), "git repository") {
		t.Errorf("outside of a repository: %v", err)
	}
	root, run := repository(t)
	run("commit", "-q", "--allow-empty", "-m", "one")
	f, err := git.Open(ctx, root)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"nothing", "--upload-pack=x", "", "HEAD:", "a b"} {
		if commit, err := f.Resolve(ctx, bad); err == nil {
			t.Errorf("%q is %s", bad, commit)
		}
	}
	commit, err := f.Resolve(ctx, "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	if _, files, err := f.Load(ctx, commit, ""); err != nil || files != 0 {
		t.Errorf("an empty commit has %d files, %v", files, err)
	}
	run("checkout", "-q", "--orphan", "other")
	run("commit", "-q", "--allow-empty", "-m", "other")
	if base, err := f.MergeBase(ctx, "main", "other"); err == nil {
		t.Errorf("the base is %s", base)
	}
}
