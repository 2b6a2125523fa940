package document

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

// of are the JSON fields of a struct type: name → where it is.
func (f Types) of(t reflect.Type) map[string][]int {
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

// Read sets v, which is settable, from n. What does not fit is a problem, and the rest is read on.
func (o *Object) Read(n *yaml.Node, v reflect.Value, path string) {
	n = Target(n)
	if n.Kind == yaml.ScalarNode && Scalar(n) == nil {
		return // as in JSON: null is the same as absent
	}
	if u, ok := v.Addr().Interface().(json.Unmarshaler); ok {
		o.readOwn(n, u, path)
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		o.Read(n, v.Elem(), path)
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

func (o *Object) readStruct(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		o.WrongType(n, path, "an object")
		return
	}
	fields := o.Types.of(v.Type())
	for _, p := range o.Pairs(n, path) {
		where := Join(path, p.Name)
		index, known := fields[p.Name]
		switch {
		case path == "" && p.Name == "status" && o.Strict:
			// A policy's status is what others say about it, in forms that differ.
		case !known:
			o.UnknownField(p.Key, v.Type(), fields, where)
		default:
			o.Lines[where] = p.Key.Line
			o.Read(p.Value, fieldAt(v, index), where)
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

func (o *Object) readList(n *yaml.Node, v reflect.Value, path string) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		return // bytes: nothing that policy needs is kept in them
	}
	if n.Kind != yaml.SequenceNode {
		o.WrongType(n, path, "a list")
		return
	}
	list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		where := At(path, i)
		o.Lines[where] = item.Line
		if item.Kind == yaml.ScalarNode && Scalar(item) == nil {
			// The API server reads an empty item as an item without conditions, which in a policy is "anyone".
			o.ProblemAt(item.Line, where, "remove it, or write {} if that is meant", "empty list item")
			continue
		}
		o.Read(item, list.Index(i), where)
	}
	v.Set(list)
}

func (o *Object) readMap(n *yaml.Node, v reflect.Value, path string) {
	if n.Kind != yaml.MappingNode {
		o.WrongType(n, path, "an object")
		return
	}
	m := reflect.MakeMap(v.Type())
	for _, p := range o.Pairs(n, path) {
		where := Join(path, p.Name)
		o.Lines[where] = p.Key.Line
		value := reflect.New(v.Type().Elem()).Elem()
		o.Read(p.Value, value, where)
		m.SetMapIndex(reflect.ValueOf(p.Name).Convert(v.Type().Key()), value)
	}
	v.Set(m)
}

func (o *Object) readScalar(n *yaml.Node, v reflect.Value, path string) {
	var value any
	if n.Kind == yaml.ScalarNode {
		value = Scalar(n)
	}
	switch v.Kind() {
	case reflect.String:
		if s, ok := value.(string); ok {
			v.SetString(s)
			return
		}
		o.WrongType(n, path, "text")
	case reflect.Bool:
		if b, ok := value.(bool); ok {
			v.SetBool(b)
			return
		}
		o.WrongType(n, path, "true or false")
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, ok := integer(value)
		if ok && !v.OverflowInt(i) {
			v.SetInt(i)
			return
		}
		o.WrongType(n, path, fmt.Sprintf("a whole number of at most %d bits", v.Type().Bits()))
	case reflect.Float32, reflect.Float64:
		if f, ok := value.(float64); ok && !math.IsNaN(f) && !math.IsInf(f, 0) {
			v.SetFloat(f)
			return
		}
		if i, ok := value.(int64); ok {
			v.SetFloat(float64(i))
			return
		}
		o.WrongType(n, path, "a number")
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
func (o *Object) readOwn(n *yaml.Node, u json.Unmarshaler, path string) {
	text, err := json.Marshal(Plain(n))
	if err == nil {
		err = u.UnmarshalJSON(text)
	}
	if err != nil {
		o.ProblemAt(n.Line, path, "", "%s cannot be read as %s", Describe(n), ownForm(u))
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

// Plain is the node as JSON values. The bounds of the document were checked before.
func Plain(n *yaml.Node) any {
	switch n.Kind {
	case yaml.AliasNode:
		return Plain(n.Alias)
	case yaml.MappingNode:
		m := map[string]any{}
		for i := 0; i+1 < len(n.Content); i += 2 {
			m[n.Content[i].Value] = Plain(n.Content[i+1])
		}
		return m
	case yaml.SequenceNode:
		list := []any{}
		for _, c := range n.Content {
			list = append(list, Plain(c))
		}
		return list
	}
	return Scalar(n)
}

// WrongType notes that a value is not of the type that is wanted.
func (o *Object) WrongType(n *yaml.Node, path, want string) {
	fix := ""
	if n.Kind == yaml.ScalarNode && want == "text" {
		fix = fmt.Sprintf("quote it: %q", n.Value)
	}
	o.ProblemAt(n.Line, path, fix, "want %s, found %s", want, Describe(n))
}
