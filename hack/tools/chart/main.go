// Command chart renders the Helm chart, with the values that it comes with, to the manifest for those who do not use Helm.
package main

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/releaseutil"
	"helm.sh/helm/v3/pkg/strvals"
)

func main() {
	dir := flag.String("chart", "deploy/chart/ringfence", "folder of the chart")
	out := flag.String("o", "deploy/ringfence.yaml", "manifest to write")
	set := flag.String("set", "", "other values than the chart's, as Helm's --set takes them")
	flag.Parse()
	text, err := manifest(*dir, *set)
	if err == nil {
		err = os.WriteFile(*out, text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

// manifest is the chart as a plain manifest, with a namespace of its own.
func manifest(dir, set string) ([]byte, error) {
	values := map[string]any{"namespace": map[string]any{"create": true}}
	if err := strvals.ParseInto(set, values); err != nil {
		return nil, err
	}
	sum, err := digest(dir)
	if err != nil {
		return nil, err
	}
	objects, _, err := render(dir, values)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Generated from the chart in deploy/chart/ringfence by `make manifests`. Do not edit.\n# chart: %s\n", sum)
	for _, o := range objects {
		fmt.Fprintf(&b, "---\n%s\n", strings.TrimSpace(o))
	}
	return b.Bytes(), nil
}

// render returns the chart's objects in the order in which they have to be made, and its notes.
func render(dir string, values map[string]any) (objects []string, notes string, err error) {
	c, err := loader.LoadDir(dir)
	if err != nil {
		return nil, "", err
	}
	release := chartutil.ReleaseOptions{Name: "ringfence", Namespace: "ringfence-system", Revision: 1, IsInstall: true}
	all, err := chartutil.ToRenderValues(c, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return nil, "", err
	}
	files, err := (&engine.Engine{Strict: true}).Render(c, all)
	if err != nil {
		return nil, "", err
	}
	for name, text := range files {
		if strings.HasSuffix(name, "NOTES.txt") {
			notes = text
			delete(files, name)
		}
	}
	_, sorted, err := releaseutil.SortManifests(files, chartutil.DefaultVersionSet, releaseutil.InstallOrder)
	if err != nil {
		return nil, "", err
	}
	for _, crd := range c.CRDObjects() {
		objects = append(objects, string(crd.File.Data))
	}
	for _, m := range sorted {
		objects = append(objects, m.Content)
	}
	return objects, notes, nil
}

// digest is of all of the chart's files, names included. A test of the main module, which knows no Helm, compares it.
func digest(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		fmt.Fprintf(h, "%s %d\n%s", filepath.ToSlash(name), len(content), content)
		return err
	})
	return fmt.Sprintf("sha256:%x", h.Sum(nil)), err
}
