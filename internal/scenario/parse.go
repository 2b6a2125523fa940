package scenario

import (
	"fmt"
	"strings"

	"github.com/ringfence-project/ringfence/internal/query"
)

// line is one command of a scenario.
type line struct {
	number int // from 1, in the file
	text   string
}

// commandLines takes the commands from the comment of an archive.
func commandLines(comment string) []line {
	var all []line
	number := 0
	for text := range strings.Lines(comment) {
		number++
		if text = strings.TrimSpace(text); text != "" && !strings.HasPrefix(text, "#") {
			all = append(all, line{number, text})
		}
	}
	return all
}

// target is "A -> B:PORT".
type target struct {
	from, to string
	port     query.Port
}

func parseTarget(text string) (target, error) {
	from, rest, ok := strings.Cut(text, " -> ")
	if !ok {
		return target{}, fmt.Errorf("%q: want A -> B:PORT", text)
	}
	to, text, err := query.SplitPort(rest)
	if err != nil {
		return target{}, err
	}
	if at := strings.LastIndexByte(to, ':'); text == "" && at > 0 && !strings.HasPrefix(to, "[") {
		return target{}, fmt.Errorf("%q: write an IPv6 address before a port as [%s]", rest, to[:at])
	}
	if text == "" {
		return target{}, fmt.Errorf("%q: want a port behind the destination, like %s:80", rest, to)
	}
	port, err := query.ParsePort(text)
	if err != nil {
		return target{}, err
	}
	return target{strings.TrimSpace(from), to, port}, nil
}

// expectation is an allow line.
type expectation struct {
	target
	allow   bool
	service bool
	by      string // "" for any rule
}

func parseExpectation(text string, allow bool) (expectation, error) {
	e := expectation{allow: allow}
	text, by, given := strings.Cut(text, " by ")
	if e.by = strings.TrimSpace(by); given && e.by == "" {
		return e, fmt.Errorf("by what? want a policy or a rule")
	}
	text, e.service = strings.CutSuffix(strings.TrimSpace(text), " via service")
	var err error
	e.target, err = parseTarget(text)
	return e, err
}

// cutGolden takes "... > FILE" apart.
func cutGolden(text string) (args, file string, err error) {
	args, file, ok := strings.Cut(" "+text, " > ") // the space in front is for a command without arguments
	if file = strings.TrimSpace(file); !ok || file == "" {
		return "", "", fmt.Errorf("want > FILE, the file of the archive with what is expected")
	}
	return strings.TrimSpace(args), file, nil
}
