package dir

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ringfence-project/ringfence/internal/wholefile"
)

// Store keeps the last good version of each manifest on disk: a file for each, called by the hash of the manifest's
// path, that holds this path, a line's end, and what the manifest said.
type Store struct{ folder string }

// OpenStore opens the store in a folder, and makes the folder.
func OpenStore(folder string) (*Store, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("last good versions: %w", err)
	}
	return &Store{folder}, nil
}

func (s *Store) file(path string) (name, header string, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256([]byte(path))
	return filepath.Join(s.folder, hex.EncodeToString(sum[:16])), path + "\n", nil
}

// Good returns the last good version of the manifest at path; false if there is none.
func (s *Store) Good(path string) ([]byte, bool, error) {
	name, header, err := s.file(path)
	if err != nil {
		return nil, false, err
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("last good versions: %w", err)
	}
	data, ours := bytes.CutPrefix(data, []byte(header))
	return data, ours, nil
}

// Keep makes data the last good version of the manifest at path.
func (s *Store) Keep(path string, data []byte) error {
	if was, ok, err := s.Good(path); err == nil && ok && bytes.Equal(was, data) {
		return nil
	}
	name, header, err := s.file(path)
	if err != nil {
		return err
	}
	if err := wholefile.Write(name, append([]byte(header), data...)); err != nil {
		return fmt.Errorf("last good versions: %w", err)
	}
	return nil
}

// Retain forgets all manifests but those at paths: one that is removed has no good version.
func (s *Store) Retain(paths []string) error {
	keep := map[string]bool{}
	for _, p := range paths {
		name, _, err := s.file(p)
		if err != nil {
			return err
		}
		keep[name] = true
	}
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return fmt.Errorf("last good versions: %w", err)
	}
	for _, e := range entries {
		name := filepath.Join(s.folder, e.Name())
		if keep[name] {
			continue
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("last good versions: %w", err)
		}
	}
	return nil
}
