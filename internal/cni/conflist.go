package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// A span is a part of a text: from its first byte to the one after its last.
type span struct{ from, to int }

// chained returns the text of a configuration list with the entry as its last plugin, once. All else in it stays as it
// is, byte for byte. If it is so already, the text is returned as it is.
func chained(list []byte, entry map[string]any) ([]byte, error) {
	ours, err := json.Marshal(entry)
	if err != nil {
		return nil, err
	}
	plugins, err := findPlugins(list)
	if err != nil {
		return nil, err
	}
	if n := len(plugins) - 1; n > 0 && count(list, plugins) == 1 && sameJSON(list[plugins[n].from:plugins[n].to], ours) {
		return list, nil
	}
	list, err = unchained(list)
	if err != nil {
		return nil, err
	}
	if plugins, err = findPlugins(list); err != nil {
		return nil, err
	}
	if len(plugins) == 0 {
		return nil, errors.New("holds no plugin that ringfence could come after")
	}
	last := plugins[len(plugins)-1]
	var b bytes.Buffer
	b.Write(list[:last.to])
	b.WriteString(",")
	b.Write(spaceBefore(list, last.from))
	b.Write(ours)
	b.Write(list[last.to:])
	return b.Bytes(), nil
}

// unchained returns the text of a configuration list without our plugin.
func unchained(list []byte) ([]byte, error) {
	for {
		plugins, err := findPlugins(list)
		if err != nil {
			return nil, err
		}
		i := 0
		for i < len(plugins) && !isOurs(list[plugins[i].from:plugins[i].to]) {
			i++
		}
		if i == len(plugins) {
			return list, nil
		}
		cut := plugins[i]
		switch { // with the comma that divides it from its neighbour
		case i > 0:
			cut.from = plugins[i-1].to
		case len(plugins) > 1:
			cut.to = plugins[1].from
		}
		list = append(bytes.Clone(list[:cut.from]), list[cut.to:]...)
	}
}

// findPlugins says where in the text of a configuration list its plugins are.
func findPlugins(list []byte) ([]span, error) {
	d := json.NewDecoder(bytes.NewReader(list))
	if err := expect(d, '{'); err != nil {
		return nil, err
	}
	var plugins []span
	found := false
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, err
		}
		if key != "plugins" {
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return nil, err
			}
			continue
		}
		found = true
		if plugins, err = elements(d); err != nil {
			return nil, err
		}
	}
	if err := expect(d, '}'); err != nil {
		return nil, err
	}
	if !found {
		return nil, errors.New(`is not a configuration list: it has no "plugins"`)
	}
	return plugins, nil
}

func elements(d *json.Decoder) ([]span, error) {
	if err := expect(d, '['); err != nil {
		return nil, err
	}
	var all []span
	for d.More() {
		var element json.RawMessage
		if err := d.Decode(&element); err != nil {
			return nil, err
		}
		end := int(d.InputOffset())
		all = append(all, span{end - len(element), end})
	}
	return all, expect(d, ']')
}

func expect(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err == nil && t != want {
		err = fmt.Errorf("%v where %q is expected", t, want)
	}
	return err
}

func count(list []byte, plugins []span) int {
	n := 0
	for _, p := range plugins {
		if isOurs(list[p.from:p.to]) {
			n++
		}
	}
	return n
}

func isOurs(plugin []byte) bool {
	var p struct {
		Type string `json:"type"`
	}
	return json.Unmarshal(plugin, &p) == nil && p.Type == PluginType
}

func sameJSON(a, b []byte) bool {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	a, _ = json.Marshal(x)
	b, _ = json.Marshal(y)
	return bytes.Equal(a, b)
}

// spaceBefore is the white space that ends at a place.
func spaceBefore(text []byte, at int) []byte {
	return text[len(bytes.TrimRight(text[:at], " \t\r\n")):at]
}
