package cni

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Keep waits for a network, and chains again whatever its owner does.
func TestKeep(t *testing.T) {
	p, program := node(t, nil)
	config := filepath.Join(p.Configs, "10-pods.conflist")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	step := 0
	err := Keep(ctx, p, program, Entry{}, func(c Changes, err error) bool {
		switch {
		case step == 0 && errors.Is(err, ErrNoNetwork):
			write(t, config, list)
		case step == 1 && err == nil && c.Config == config:
			write(t, config, strings.Replace(list, `"pods"`, `"other"`, 1)) // its owner starts anew, and writes it another way
		case step > 1 && err == nil && c == (Changes{}): // the event of our own writing: nothing to do
			return false
		case step == 2 && err == nil && c.Config == config:
			if err := os.Remove(filepath.Join(p.Binaries, PluginType)); err != nil {
				t.Error(err)
			}
		case step == 3 && err == nil && c.Binary:
			return true
		default:
			t.Errorf("step %d: %+v, %v", step, c, err)
			return true
		}
		step++
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	if text := read(t, config); !strings.Contains(text, `"other"`) || !strings.Contains(text, `"type":"ringfence"`) {
		t.Errorf("the list is now %s", text)
	}
}

func TestKeepEnds(t *testing.T) {
	p, program := node(t, map[string]string{"10-pods.conflist": list})
	ctx, cancel := context.WithCancel(t.Context())
	err := Keep(ctx, p, program, Entry{}, func(Changes, error) bool { cancel(); return false })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("it ends with %v", err)
	}
}
