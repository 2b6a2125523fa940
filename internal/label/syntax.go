package label

import (
	"fmt"
	"strings"
)

// CheckKey returns an error if key is no Kubernetes label key: an optional DNS-subdomain prefix of at most
// 253 characters and '/', then a name of at most 63 characters.
func CheckKey(key string) error {
	name := key
	if prefix, rest, ok := strings.Cut(key, "/"); ok {
		if !isSubdomain(prefix) {
			return fmt.Errorf("label key %q: the part before '/' must be a DNS name in lower case", key)
		}
		name = rest
	}
	if name == "" || !isName(name) {
		return fmt.Errorf("label key %q: the name must be 1 to 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends", key)
	}
	return nil
}

// CheckValue returns an error if value is no Kubernetes label value: empty, or formed like a key's name.
func CheckValue(value string) error {
	if value != "" && !isName(value) {
		return fmt.Errorf("label value %q must be empty or at most 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends", value)
	}
	return nil
}

func isName(s string) bool {
	if len(s) > 63 || !isAlnum(s[0]) || !isAlnum(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlnum(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func isSubdomain(s string) bool {
	if len(s) == 0 || len(s) > 253 {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for i := range len(part) {
			if c := part[i]; c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
				return false
			}
		}
	}
	return true
}

func isAlnum(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
