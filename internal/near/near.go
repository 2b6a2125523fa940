// Package near finds the name that was most likely meant, for messages about names that are not there.
package near

import (
	"slices"
	"strings"
)

// Of returns the name that word is most likely a typo of, or "" if none is near. Of equally near ones it is the
// first in alphabetical order.
func Of(word string, names []string) string {
	best, bestDistance := "", min(len(word), 1+max(1, min(len(word), 12)/3))
	names = slices.Sorted(slices.Values(names))
	for _, name := range names {
		if len(name) > 100 || len(word) > 100 { // no name of the API is: do not spend time on it
			continue
		}
		if d := distance(strings.ToLower(word), strings.ToLower(name)); d < bestDistance {
			best, bestDistance = name, d
		}
	}
	return best
}

// distance counts the slips between a and b: a character too many, too few, another one, or two neighbours swapped.
// Swaps are why this is not a plain Levenshtein distance: "form" is one slip from "from", "ICMP" is two from "SCTP".
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			switch {
			case i == 0 || j == 0:
				rows[i][j] = i + j
				continue
			case a[i-1] == b[j-1]:
				rows[i][j] = rows[i-1][j-1]
			default:
				rows[i][j] = 1 + min(rows[i-1][j-1], rows[i-1][j], rows[i][j-1])
			}
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], 1+rows[i-2][j-2])
			}
		}
	}
	return rows[len(a)][len(b)]
}
