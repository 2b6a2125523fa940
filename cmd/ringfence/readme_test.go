package main

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
)

// TestReadmeIsTrue runs every command of the README's console blocks, from the repository's root, and compares what it
// prints. A line of three dots stands for any lines.
func TestReadmeIsTrue(t *testing.T) {
	t.Chdir("../..")
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for i, block := range strings.Split(string(readme), "```console\n") {
		if i == 0 {
			continue
		}
		block, _, _ = strings.Cut(block, "```")
		for _, part := range strings.Split("\n"+block, "\n$ ringfence ")[1:] {
			line, want, _ := strings.Cut(part, "\n")
			var out bytes.Buffer
			run(context.Background(), argumentsOf(line), strings.NewReader(""), &out, &out)
			if !matches(strings.Split(strings.TrimSpace(want), "\n"), strings.Split(strings.TrimSpace(out.String()), "\n")) {
				t.Errorf("ringfence %s\nprints\n%s\nthe README says\n%s", line, out.String(), want)
			}
			commands++
		}
	}
	if commands == 0 {
		t.Error("the README shows no command")
	}
}

// argumentsOf splits a command line; single quotes keep words together.
func argumentsOf(line string) []string {
	var all []string
	for i, part := range strings.Split(line, "'") {
		if i%2 == 1 {
			all = append(all, part)
		} else {
			all = append(all, strings.Fields(part)...)
		}
	}
	return all
}

func matches(want, got []string) bool {
	for i, w := range want {
		if w == "..." {
			for skip := i; skip <= len(got); skip++ {
				if matches(want[i+1:], got[skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(got) || strings.TrimRight(w, " ") != strings.TrimRight(got[i], " ") {
			return false
		}
	}
	return len(want) == len(got)
}
