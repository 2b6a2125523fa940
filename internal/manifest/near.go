package manifest

import (
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"
)

// nearest returns the name that word is most likely a typo of, or "" if none is near. Of equally near ones it is the
// first in alphabetical order.
func nearest(word string, names []string) string {
	best, bestDistance := "", 1+max(1, min(len(word), 12)/3)
	names = slices.Sorted(slices.Values(names))
	for _, name := range names {
		if len(name) > 100 || len(word) > 100 { // no name of the API is: do not spend time on it
			continue
		}
		if d := levenshtein.ComputeDistance(strings.ToLower(word), strings.ToLower(name)); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

// list is "a, b, c".
func list(words []string) string { return strings.Join(words, ", ") }
