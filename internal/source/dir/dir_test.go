package dir

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ringfence-project/ringfence/internal/manifest"
)

func namespace(name string) string {
	return "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + "}\n"
}

// tree writes files below a new folder and returns it.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func load(t *testing.T, stdin io.Reader, paths ...string) manifest.Result {
	t.Helper()
	b, err := Load(paths, stdin)
	if err != nil {
		t.Fatal(err)
	}
	return b.Finish(manifest.Options{})
}

func wantNamespaces(t *testing.T, r manifest.Result, want ...string) {
	t.Helper()
	var got []string
	for _, n := range r.Objects.Namespaces {
		got = append(got, n.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("namespaces %q, want %q", got, want)
	}
}

func TestFolderIsReadInOrder(t *testing.T) {
	root := tree(t, map[string]string{
		"b.yaml":                namespace("b"),
		"a/z.yml":               namespace("a-z"),
		"a/deep/er/c.JSON":      `{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "deep"}}`,
		"c.txt":                 namespace("text"),
		".hidden.yaml":          namespace("hidden"),
		".git/config.yaml":      namespace("git"),
		"b_test.yaml":           "kind: PolicyTest\n",
		"kustomization.yaml":    "resources: [b.yaml]\n",
		"chart/Chart.yaml":      "name: x\n",
		"chart/values.yaml":     "metadata: x\n",
		"tests/policytest.yaml": "kind: PolicyTest\npolicies: [x]\n",
	})
	r := load(t, nil, root)
	wantNamespaces(t, r, "deep", "a-z", "b")
	if len(r.Problems) != 0 {
		t.Errorf("problems %v", r.Problems)
	}
	for _, what := range []string{"b_test.yaml", "kustomization.yaml", "Chart.yaml", "values.yaml", "PolicyTest"} {
		if r.Ignored[what] != 1 {
			t.Errorf("%s was ignored %d times, want once: %v", what, r.Ignored[what], r.Ignored)
		}
	}
}

func TestNamedFilesAreReadWhateverTheyAreCalled(t *testing.T) {
	root := tree(t, map[string]string{"x.txt": namespace("x"), "y_test.yaml": namespace("first")})
	r := load(t, strings.NewReader(namespace("in")), filepath.Join(root, "y_test.yaml"), Stdin, filepath.Join(root, "x.txt"))
	wantNamespaces(t, r, "first", "in", "x")
}

func TestFileThatIsNamedTwiceIsReadOnce(t *testing.T) {
	root := tree(t, map[string]string{"a.yaml": namespace("a")})
	r := load(t, nil, root, filepath.Join(root, "a.yaml"), root)
	wantNamespaces(t, r, "a")
	if len(r.Problems) != 0 {
		t.Errorf("problems %v", r.Problems)
	}
}

func TestLinksAreFollowedOnce(t *testing.T) {
	outside := tree(t, map[string]string{"o.yaml": namespace("outside")})
	root := tree(t, map[string]string{"a.yaml": namespace("a")})
	for link, to := range map[string]string{"loop": root, "self": "self", "out": outside, "b.yaml": filepath.Join(root, "a.yaml"), "gone.yaml": "nowhere"} {
		if err := os.Symlink(to, filepath.Join(root, link)); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
	}
	r := load(t, nil, root)
	wantNamespaces(t, r, "a", "outside")
	if len(r.Problems) != 1 || !strings.HasSuffix(r.Problems[0].File, "/gone.yaml") || !strings.Contains(r.Problems[0].Message, "cannot be read") {
		t.Errorf("problems %v, want one of gone.yaml", r.Problems)
	}
}

func TestMissingPathIsAnError(t *testing.T) {
	if _, err := Load([]string{filepath.Join(t.TempDir(), "none")}, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("no more") }

func TestInputThatCannotBeReadIsAProblem(t *testing.T) {
	r := load(t, brokenReader{}, Stdin)
	if len(r.Problems) != 1 || r.Problems[0].Error() != "stdin: cannot be read: no more" {
		t.Errorf("problems %v", r.Problems)
	}
	r = load(t, strings.NewReader(strings.Repeat("#", manifest.MaxFile+2)), Stdin)
	if len(r.Problems) != 1 || !strings.Contains(r.Problems[0].Message, "larger than") {
		t.Errorf("problems %v", r.Problems)
	}
}
