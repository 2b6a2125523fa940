package manifest

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

// The reader fills Kubernetes' own Go types from nodes. It exists beside sigs.k8s.io/yaml because that one loses the
// lines, stops at the first error, and cannot say which known field an unknown one is near to.

// fieldTables remembers the JSON fields of struct types: name → where it is.
type fieldTables map[reflect.Type]map[string][]int

func (f fieldTables) of(t reflect.Type) map[string][]int {
	if table, ok := f[t]; ok {
		return table
	}
	table := map[string][]int{}
	for _, field := range reflect.VisibleFields(t) {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if field.IsExported() && name != "" && name != "-" && !strings.Contains(options, "inline") {
			table[name] = field.Index
		}
	}
	f[t] = table
	return table
}

// read sets v, which is settable, from n. What does not fit is a problem, and the rest is read on.
func (o *object) read(n *yaml.Node, v reflect.Value, path string) {
	n = target(n)
	if n.Kind == yaml.ScalarNode && scalar(n) == nil {
		return // as in JSON: null is the same as absent
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		o.readOwn(n, u, path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		o.read(n, v.Elem(), path)
	case reflect.Struct:
		o.readStruct(n, v, path)
	case reflect.Slice:
		o.readList(n, v, path)
	case reflect.Map:
		o.readMap(n, v, path)
	default:
		o.readScalar(n, v, path)
	}
}

func (o *object) readStruct(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		o.wrongType(n, path, "an object")
		return
	}
	fields := o.types.of(v.Type())
	for _, p := range o.pairs(n, path) {
		where := join(path, p.name)
		index, known := fields[p.name]
		switch {
		case path == "" && p.name == "status" && o.strict:
			// A policy's status is what others say about it, in forms that differ.
		case !known:
			o.unknownField(p.key, v.Type(), fields, where)
		default:
			o.lines[where] = p.key.Line
			o.read(p.value, fieldAt(v, index), where)
		}
	}
}

func fieldAt(v reflect.Value, index []int) reflect.Value {
	for _, i := range index {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v
}

func (o *object) readList(n *yaml.Node, v reflect.Value, path string) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		return // bytes: nothing that policy needs is kept in them
	}
	if n.Kind != yaml.SequenceNode {
		o.wrongType(n, path, "a list")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		where := at(path, i)
		o.lines[where] = item.Line
		if item.Kind == yaml.ScalarNode && scalar(item) == nil {
			// The API server reads an empty item as an item without conditions, which in a policy is "anyone".
			o.problemAt(item.Line, where, "remove it, or write {} if that is meant", "empty list item")
			continue
		}
		o.read(item, list.Index(i), where)
	}
	v.Set(list)
}

func (o *object) readMap(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		o.wrongType(n, path, "an object")
		return
	}
	m := reflect.MakeMap(v.Type())
	for _, p := range o.pairs(n, path) {
		where := join(path, p.name)
		o.lines[where] = p.key.Line
		value := reflect.New(v.Type().Elem()).Elem()
		o.read(p.value, value, where)
		m.SetMapIndex(reflect.ValueOf(p.name).Convert(v.Type().Key()), value)
	}
	v.Set(m)
}

func (o *object) readScalar(n *yaml.Node, v reflect.Value, path string) {
	var value any
	if n.Kind == yaml.ScalarNode {
		value = scalar(n)
	}
	switch v.Kind() {
	case reflect.String:
		if s, ok := value.(string); ok {
			v.SetString(s)
			return
		}
		o.wrongType(n, path, "text")
	case reflect.Bool:
		if b, ok := value.(bool); ok {
			v.SetBool(b)
			return
		}
		o.wrongType(n, path, "true or false")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, ok := integer(value)
		if ok && !v.OverflowInt(i) {
			v.SetInt(i)
			return
		}
		o.wrongType(n, path, fmt.Sprintf("a whole number of at most %d bits", v.Type().Bits()))
	case reflect.Float32, reflect.Float64:
		if f, ok := value.(float64); ok {
			v.SetFloat(f)
		} else if i, ok := value.(int64); ok {
			v.SetFloat(float64(i))
		}
	}
}

// integer takes floats without a fraction too, as they are the same number in JSON.
func integer(value any) (int64, bool) {
	switch x := value.(type) {
	case int64:
		return x, true
	case float64:
		return int64(x), x == math.Trunc(x) && math.Abs(x) < 1<<53
	}
	return 0, false
}

// readOwn reads types that have their own JSON form: times, quantities, int-or-string.
func (o *object) readOwn(n *yaml.Node, u json.Unmarshaler, path string) {
	text, err := json.Marshal(plainValue(n))
	if err == nil {
		err = u.UnmarshalJSON(text)
	}
	if err != nil {
		o.problemAt(n.Line, path, "", "%s cannot be read as %s", describe(n), ownForm(u))
	}
}

func ownForm(u json.Unmarshaler) string {
	switch name := reflect.TypeOf(u).Elem().Name(); name {
	case "IntOrString":
		return "a whole number or a name"
	case "Time", "MicroTime":
		return "a time such as 2026-01-31T12:00:00Z"
	default:
		return "a " + strings.ToLower(name)
	}
}

// plainValue is the node as JSON values. The bounds of the document were checked before.
func plainValue(n *yaml.Node) any {
	switch n.Kind {
	case yaml.AliasNode:
		return plainValue(n.Alias)
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = plainValue(n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			list = append(list, plainValue(c))
		}
		return list
	}
	return scalar(n)
}

func (o *object) wrongType(n *yaml.Node, path, want string) {
	fix := ""
	if n.Kind == yaml.ScalarNode && want == "text" {
		fix = fmt.Sprintf("quote it: %q", n.Value)
	}
	o.problemAt(n.Line, path, fix, "want %s, found %s", want, describe(n))
}
