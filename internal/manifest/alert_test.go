package manifest

import (
	"fmt"
	"strings"
	"testing"
)

// TestAlertTitleIsOneLine: it ends up in logs and messages of others.
func TestAlertTitleIsOneLine(t *testing.T) {
	for text, want := range map[string]string{
		`"a pod that is no LDAP client tried"`: "a pod that is no LDAP client tried",
		`"two\nlines\u001b[31m"`:               "two lines [31m",
		`"` + strings.Repeat("ä", 150) + `"`:   strings.Repeat("ä", 100),
		`""`:                                   "",
	} {
		b := NewBundle()
		b.Decode("p.yaml", fmt.Appendf(nil, "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n"+
			"metadata: {name: p, namespace: shop, annotations: {%s: %s}}\nspec: {podSelector: {}}\n", AlertAnnotation, text))
		r := b.Finish(Options{})
		if len(r.Problems) > 0 || len(r.Objects.Policies) != 1 || r.Objects.Policies[0].AlertTitle != want {
			t.Errorf("%s: %v, %+v, want %q", text, r.Problems, r.Objects.Policies, want)
		}
	}
}
