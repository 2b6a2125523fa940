// Package wholefile replaces files so that whoever reads one, also after a crash, finds the old content or the new.
package wholefile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write makes data the content of the file at path, for its owner only. When it returns nil the content is on the disk
// under that name. One caller at a time may write a path.
func Write(path string, data []byte) error {
	if err := writeSynced(path+".new", data); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncFolder makes a rename in a folder last.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
