package document

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// kubectl reads YAML 1.1, in which these plain words are booleans; the parser here knows YAML 1.2.
var (
	yamlTrue  = []string{"y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"}
	yamlFalse = []string{"n", "N", "no", "No", "NO", "off", "Off", "OFF", "false", "False", "FALSE"}
)

// Scalar is the value that kubectl would see: nil, bool, int64, float64 or string.
func Scalar(n *yaml.Node) any {
	tag := n.ShortTag()
	plain := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) == 0
	switch {
	case tag == "!!null":
		return nil
	case tag == "!!bool", plain && tag == "!!str":
		if slices.Contains(yamlTrue, n.Value) {
			return true
		}
		if slices.Contains(yamlFalse, n.Value) {
			return false
		}
	case tag == "!!int":
		return number(n.Value)
	case tag == "!!float":
		var f float64
		if n.Decode(&f) == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return f
		}
	}
	return n.Value
}

// number reads an integer; one that fits no int64 is a float, as in JSON.
func number(text string) any {
	plain := strings.ReplaceAll(text, "_", "")
	if i, err := strconv.ParseInt(plain, 0, 64); err == nil {
		return i
	}
	if f, err := strconv.ParseFloat(plain, 64); err == nil {
		return f
	}
	return text
}

// Describe says what a node is, for messages about a wrong type.
func Describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "an object"
	case yaml.SequenceNode:
		return "a list"
	}
	switch Scalar(n).(type) {
	case nil:
		return "empty"
	case bool:
		return fmt.Sprintf("the boolean %s", n.Value)
	case int64, float64:
		return fmt.Sprintf("the number %s", n.Value)
	}
	return fmt.Sprintf("the text %q", Shorten(n.Value))
}

// Shorten makes text short enough for a message.
func Shorten(s string) string {
	if r := []rune(s); len(r) > 40 {
		return string(r[:40]) + "..."
	}
	return s
}
