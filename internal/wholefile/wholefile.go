// Package wholefile replaces files so that whoever reads one, also after a crash, finds the old content or the new.
package wholefile

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Write makes data the content of the file at path, for its owner only. When it returns nil the content is on the disk
// under that name. One caller at a time may write a path.
func Write(path string, data []byte) error { return Copy(path, bytes.NewReader(data), 0o600) }

// Copy is Write of what a reader gives, to a file with the given permissions. Who runs the old content as a program, or
// reads it, goes on with the old content.
func Copy(path string, content io.Reader, mode fs.FileMode) error {
	if err := copySynced(path+".new", content, mode); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

func copySynced(path string, content io.Reader, mode fs.FileMode) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(f, content); err == nil {
		err = errors.Join(f.Chmod(mode), f.Sync()) // whatever the umask is
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
