// Command crd writes the definitions of our kinds, as part of the Helm chart, with the generator
// that this module pins.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// definitions are the files of the chart, by what their definition is called.
var definitions = map[string]string{
	"namespaceenforcements.ringfence.dev": "deploy/chart/ringfence/templates/crd-namespaceenforcements.yaml",
	"nodeenforcements.ringfence.dev":      "deploy/chart/ringfence/templates/crd-nodeenforcements.yaml",
	"policyrollouts.ringfence.dev":        "deploy/chart/ringfence/templates/crd-policyrollouts.yaml",
}

func main() {
	root := flag.String("root", "../..", "folder of the main module")
	flag.Parse()
	files, err := generate(*root)
	for path, text := range files {
		err = errors.Join(err, os.WriteFile(filepath.Join(*root, path), text, 0o644))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "crd:", err)
		os.Exit(1)
	}
}

// generate returns the content of each file.
func generate(root string) (map[string][]byte, error) {
	sum, err := digest(filepath.Join(root, "api/v1alpha1"))
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", "tool", "-modfile=hack/tools/go.mod", "controller-gen", "crd:allowDangerousTypes=true", "paths=./api/v1alpha1", "output:crd:stdout")
	cmd.Dir, cmd.Stderr = root, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("controller-gen: %w", err)
	}
	files := map[string][]byte{}
	for _, text := range bytes.Split(out, []byte("---\n")) {
		for name, path := range definitions {
			if bytes.Contains(text, []byte("\n  name: "+name+"\n")) {
				header := fmt.Sprintf("# Generated from api/v1alpha1 by `make manifests`. Do not edit.\n# api: %s\n", sum)
				files[path] = append([]byte(header), keep(name, text)...)
			}
		}
	}
	if len(files) != len(definitions) {
		return nil, fmt.Errorf("controller-gen wrote %d of %d definitions", len(files), len(definitions))
	}
	return files, nil
}

// keep has Helm leave the definition of what people write, and with it all that they wrote, when the release goes.
func keep(name string, definition []byte) []byte {
	if name != "policyrollouts.ringfence.dev" {
		return definition
	}
	return bytes.Replace(definition, []byte("  annotations:\n"), []byte("  annotations:\n    helm.sh/resource-policy: keep\n"), 1)
}

// digest is of the kinds as they are written. A test of the main module, which knows no generator, compares it.
func digest(dir string) (string, error) {
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", err
	}
	h := sha256.New()
	for _, path := range sources { // sorted
		content, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", filepath.Base(path), len(content), content)
	}
	return fmt.Sprintf("sha256:%x", h.Sum(nil)), nil
}
