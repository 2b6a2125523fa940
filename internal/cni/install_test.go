package cni

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func node(t *testing.T, files map[string]string) (Place, string) {
	t.Helper()
	dir := t.TempDir()
	p := Place{Binaries: filepath.Join(dir, "bin"), Configs: filepath.Join(dir, "net.d")}
	if err := os.Mkdir(p.Configs, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		write(t, filepath.Join(p.Configs, name), text)
	}
	program := filepath.Join(dir, "program")
	write(t, program, "version 1")
	return p, program
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestInstall(t *testing.T) {
	other := `{"cniVersion": "1.0.0", "name": "other", "plugins": [{"type": "x"}]}`
	p, program := node(t, map[string]string{"10-pods.conflist": list, "20-other.conflist": other, "05-notes.txt": "no configuration"})
	config, binary := filepath.Join(p.Configs, "10-pods.conflist"), filepath.Join(p.Binaries, PluginType)
	entry := Entry{Records: "/run/x", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}

	done, err := Install(p, program, entry)
	if err != nil || !done.Binary || done.Config != config {
		t.Fatalf("%+v, %v", done, err)
	}
	if text := read(t, config); !strings.Contains(text, `,
    {"podCIDRs":["10.0.0.0/8"],"records":"/run/x","type":"ringfence"}`) {
		t.Errorf("the list is now\n%s", text)
	}
	if info, err := os.Stat(binary); err != nil || info.Mode() != 0o755 || read(t, binary) != "version 1" {
		t.Errorf("the binary is %v, %v", info, err)
	}
	if read(t, filepath.Join(p.Configs, "20-other.conflist")) != other {
		t.Error("a list that is not in use was edited")
	}

	if done, err := Install(p, program, entry); err != nil || done != (Changes{}) {
		t.Errorf("a second time: %+v, %v", done, err)
	}
	write(t, program, "version 2")
	if done, err := Install(p, program, entry); err != nil || done != (Changes{Binary: true}) || read(t, binary) != "version 2" {
		t.Errorf("a new version: %+v, %v", done, err)
	}
	write(t, config, list) // as its owner does when it starts again
	if done, err := Install(p, program, entry); err != nil || done != (Changes{Config: config}) {
		t.Errorf("after the list was put back: %+v, %v", done, err)
	}

	if done, err := Uninstall(p); err != nil || done != (Changes{Binary: true, Config: config}) || read(t, config) != list {
		t.Errorf("uninstall: %+v, %v", done, err)
	}
	if done, err := Uninstall(p); err != nil || done != (Changes{}) {
		t.Errorf("uninstall a second time: %+v, %v", done, err)
	}
	for _, dir := range []string{p.Configs, p.Binaries} {
		if left, _ := filepath.Glob(filepath.Join(dir, "*.new")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

func TestInstallRefuses(t *testing.T) {
	for _, c := range []struct {
		files map[string]string
		name  string
		want  string
	}{
		{nil, "", ErrNoNetwork.Error()},
		{map[string]string{"10-pods.conflist": list}, "missing.conflist", ErrNoNetwork.Error()},
		{map[string]string{"10-pods.conf": `{"type": "bridge"}`, "20-pods.conflist": list}, "", "write it as a list"},
		{map[string]string{"10-pods.conflist": `{"plugins": [`}, "", "10-pods.conflist: "},
	} {
		p, program := node(t, c.files)
		p.Config = c.name
		_, err := Install(p, program, Entry{})
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, not %q", c.files, err, c.want)
		}
		if noNetwork := c.want == ErrNoNetwork.Error(); noNetwork != errors.Is(err, ErrNoNetwork) {
			t.Errorf("%v: waiting for a network is %v", c.files, !noNetwork)
		}
		for name, text := range c.files {
			if read(t, filepath.Join(p.Configs, name)) != text {
				t.Errorf("%s was edited", name)
			}
		}
	}
}
