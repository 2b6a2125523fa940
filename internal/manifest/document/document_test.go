package document

import "testing"

func TestParent(t *testing.T) {
	for path, want := range map[string]string{
		"spec.ingress[0].from[1]": "spec.ingress[0].from", "spec.ingress[0]": "spec.ingress", "spec": "", "": "",
		`metadata.labels["a.b/c"]`: "metadata.labels", "spec.podSelector": "spec",
	} {
		if got := parent(path); got != want {
			t.Errorf("parent(%q) is %q, want %q", path, got, want)
		}
	}
}

func TestProblemText(t *testing.T) {
	p := Problem{File: "net.yaml", Line: 12, Object: "NetworkPolicy shop/web", Field: "spec.ingress[0].form", Message: "unknown field", Fix: `did you mean "from"?`}
	const line = `net.yaml:12: NetworkPolicy shop/web: spec.ingress[0].form: unknown field; did you mean "from"?`
	if p.Error() != line || p.Text() != line {
		t.Errorf("got %q and %q, want %q", p.Error(), p.Text(), line)
	}
	p.Effect = "nothing passes"
	if got := p.Text(); got != line+"\n    nothing passes" {
		t.Errorf("got %q", got)
	}
	if got := (Problem{File: "a", Message: "m"}).Error(); got != "a: m" {
		t.Errorf("got %q", got)
	}
}
