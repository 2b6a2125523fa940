package generation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/ringfence-project/ringfence/internal/wholefile"
)

const (
	historyFile = "history"
	olderFile   = "history.old"
	suffix      = ".policies"
)

// folder is a Place of files: one for each generation, named by its ID, and two for the history. One process at a time writes.
type folder string

// Open opens the store in a folder of its own, which is made if it is not there. One process at a time may write there; any
// number may read beside it, with a Store of their own.
func Open(path string, limits Limits) (*Store, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("generations: %w", err)
	}
	return New(folder(path), limits), nil
}

func (f folder) Where(id ID) string {
	if id == "" {
		return filepath.Join(string(f), historyFile)
	}
	return filepath.Join(string(f), string(id)+suffix)
}

func (f folder) older() string { return filepath.Join(string(f), olderFile) }

func (f folder) Ledger(context.Context) (Ledger, error) {
	newest, err := readIfThere(f.Where(""))
	if err != nil {
		return Ledger{}, err
	}
	older, err := readIfThere(f.older())
	return Ledger{Newest: newest, Older: older}, err
}

func readIfThere(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && data == nil {
		data = []byte{}
	}
	return data, err
}

func (f folder) WriteLedger(_ context.Context, l Ledger) error {
	there, err := readIfThere(f.Where(""))
	if err != nil {
		return err
	}
	if l.Older != nil && bytes.Equal(there, l.Older) { // else the older one is there already
		if err := os.Rename(f.Where(""), f.older()); err != nil {
			return err
		}
	}
	return wholefile.Write(f.Where(""), l.Newest)
}

func (f folder) Read(_ context.Context, id ID) ([]byte, error) {
	data, err := os.ReadFile(f.Where(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrUnknown
	}
	return data, err
}

func (f folder) Write(_ context.Context, id ID, text []byte) error {
	return wholefile.Write(f.Where(id), text)
}

func (f folder) Remove(_ context.Context, id ID) error {
	if err := os.Remove(f.Where(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (f folder) Kept(context.Context) (map[ID]Kept, error) {
	entries, err := os.ReadDir(string(f))
	if err != nil {
		return nil, err
	}
	kept := map[ID]Kept{}
	for _, e := range entries {
		name, ours := strings.CutSuffix(e.Name(), suffix)
		if info, err := e.Info(); ours && err == nil {
			kept[ID(name)] = Kept{info.Size(), info.ModTime()}
		}
	}
	return kept, nil
}
