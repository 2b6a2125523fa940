package measure_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/measure"
)

func asker(t *testing.T, o measure.Options) *measure.Asker {
	a := measure.New(o)
	t.Cleanup(a.Close)
	return a
}

func vector(values ...string) string {
	var series []string
	for i, v := range values {
		series = append(series, fmt.Sprintf(`{"metric":{"i":"%d"},"value":[1.5,%q]}`, i, v))
	}
	return `{"status":"success","data":{"resultType":"vector","result":[` + strings.Join(series, ",") + `]}}`
}

func TestAnswers(t *testing.T) {
	const secret = "a secret of the inner network"
	for what, c := range map[string]struct {
		status  int
		body    string
		values  []float64
		problem string
	}{
		"vector":       {200, vector("0.25", "+Inf", "1e3"), []float64{0.25, math.Inf(1), 1000}, ""},
		"empty":        {200, vector(), []float64{}, ""},
		"scalar":       {200, `{"status":"success","data":{"resultType":"scalar","result":[1,"7"]}}`, []float64{7}, ""},
		"range":        {200, `{"status":"success","data":{"resultType":"matrix","result":[]}}`, nil, "the answer is a matrix: want a query for a number"},
		"bad query":    {400, `{"status":"error","errorType":"bad_data","error":"parse error:\n unexpected"}`, nil, "the server says bad_data: parse error: unexpected"},
		"other server": {200, "<html>" + secret, nil, "no answer to a query"},
		"not found":    {404, secret, nil, "the server answers with status 404"},
		"half":         {200, `{"status":"success"}`, nil, "the answer is a nothing"},
		"no values":    {200, `{"status":"success","data":{"resultType":"vector","result":[{}]}}`, nil, "no answer to a query"},
		"no number":    {200, vector("many"), nil, "no answer to a query"},
		"large":        {200, vector(strings.Repeat("1", 2<<20)), nil, "larger than 1 MiB"},
		// What Prometheus 2.42 said.
		"a gauge":     {200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"test_errors","instance":"127.0.0.1:19191","job":"test"},"value":[1795357074.430,"0"]}]}}`, []float64{0}, ""},
		"two targets": {200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","instance":"127.0.0.1:19090","job":"self"},"value":[1795357075.458,"1"]},{"metric":{"__name__":"up","instance":"127.0.0.1:19191","job":"test"},"value":[1795357075.458,"1"]}]}}`, []float64{1, 1}, ""},
		"a scalar":    {200, `{"status":"success","data":{"resultType":"scalar","result":[1795357074.831,"0"]}}`, []float64{0}, ""},
		"divided":     {200, `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1795357075.412,"+Inf"]}]}}`, []float64{math.Inf(1)}, ""},
		"a matrix":    {200, `{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"test_errors","instance":"127.0.0.1:19191","job":"test"},"values":[[1795357072.857,"0"],[1795357073.857,"0"]]}]}}`, nil, "the answer is a matrix"},
		"a string":    {200, `{"status":"success","data":{"resultType":"string","result":[1795357074.946,"text"]}}`, nil, "the answer is a string"},
		"no query":    {400, `{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:6: parse error: unclosed left parenthesis"}`, nil, `the server says bad_data: invalid parameter "query": 1:6: parse error: unclosed left parenthesis`},
		"many":        {422, `{"status":"error","errorType":"execution","error":"found duplicate series for the match group {}; matching labels must be unique on one side"}`, nil, "the server says execution: found duplicate series"},
		"long error":  {400, `{"status":"error","errorType":"execution","error":"` + strings.Repeat("x", 5000) + `"}`, nil, "the server says execution: xxx"},
	} {
		t.Run(what, func(t *testing.T) {
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/prom/api/v1/query" || r.URL.Query().Get("query") != `up{a="b"}` {
					http.Error(w, "not what was to be asked", http.StatusTeapot)
					return
				}
				w.WriteHeader(c.status)
				_, _ = w.Write([]byte(c.body)) // who does not read to the end has gone
			}))
			defer s.Close()
			m := asker(t, measure.Options{}).Ask(t.Context(), rollout.Query{Name: "q", Server: s.URL + "/prom/", Text: `up{a="b"}`})
			if m.Query != "q" || !slices.Equal(m.Values, c.values) || !strings.Contains(m.Problem, c.problem) || c.problem == "" && m.Problem != "" {
				t.Errorf("got %v, %q", m.Values, m.Problem)
			}
			if strings.Contains(m.Problem, secret) || len(m.Problem) > 300 {
				t.Errorf("says too much: %s", m.Problem)
			}
		})
	}
}

func TestNoServer(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	m := asker(t, measure.Options{}).Ask(t.Context(), rollout.Query{Name: "q", Server: s.URL, Text: "secret_metric"})
	if !strings.Contains(m.Problem, "connection refused") || strings.Contains(m.Problem, "secret_metric") {
		t.Errorf("got %q", m.Problem)
	}
}

func TestSlowServer(t *testing.T) {
	gone := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); close(gone) }))
	defer s.Close()
	m := asker(t, measure.Options{Timeout: 50 * time.Millisecond}).Ask(t.Context(), rollout.Query{Name: "q", Server: s.URL, Text: "up"})
	if m.Problem != "the server did not answer in time" {
		t.Errorf("got %q", m.Problem)
	}
	<-gone
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	inner := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was") }))
	defer inner.Close()
	s := httptest.NewServer(http.RedirectHandler(inner.URL, http.StatusFound))
	defer s.Close()
	if m := asker(t, measure.Options{}).Ask(t.Context(), rollout.Query{Name: "q", Server: s.URL, Text: "up"}); m.Problem != "the server answers with status 302" {
		t.Errorf("got %q", m.Problem)
	}
}

// eventually waits for an answer that holds.
func eventually(t *testing.T, a *measure.Asker, step string, queries []rollout.Query, holds func([]rollout.Measurement) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for !holds(a.Measured(step, queries)) {
		select {
		case <-ctx.Done():
			t.Fatalf("last: %v", a.Measured(step, queries))
		case <-time.After(time.Millisecond):
		}
	}
}

// TestMeasured: answers come by themselves, are renewed, and are never those of another step.
func TestMeasured(t *testing.T) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(vector(fmt.Sprint(asked.Add(1)))))
	}))
	defer s.Close()
	a := asker(t, measure.Options{Every: 5 * time.Millisecond, Timeout: 10 * time.Second})
	queries := []rollout.Query{{Name: "q", Server: s.URL, Text: "up"}}
	if got := a.Measured("r 1 0", queries); got != nil {
		t.Errorf("before anything was answered: %v", got)
	}
	eventually(t, a, "r 1 0", queries, func(m []rollout.Measurement) bool { return len(m) == 1 && m[0].Values[0] >= 3 })
	before := asked.Load()
	if got := a.Measured("r 1 1", queries); got != nil {
		t.Errorf("another step has the answers %v", got)
	}
	eventually(t, a, "r 1 1", queries, func(m []rollout.Measurement) bool { return len(m) == 1 && m[0].Values[0] >= float64(before) })
	if got := a.Measured("none", nil); got != nil {
		t.Errorf("no queries: %v", got)
	}
}

// TestOldAnswersDoNotCount: a server that hangs leaves no answer behind that was once good.
func TestOldAnswersDoNotCount(t *testing.T) {
	var hangs atomic.Bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hangs.Load() {
			<-r.Context().Done()
			return
		}
		_, _ = w.Write([]byte(vector("1")))
	}))
	defer s.Close()
	a := asker(t, measure.Options{Every: time.Millisecond, Timeout: 30 * time.Millisecond})
	queries := []rollout.Query{{Name: "q", Server: s.URL, Text: "up"}}
	eventually(t, a, "s", queries, func(m []rollout.Measurement) bool { return len(m) == 1 && m[0].Problem == "" })
	hangs.Store(true)
	eventually(t, a, "s", queries, func(m []rollout.Measurement) bool { return len(m) == 1 && m[0].Problem != "" && m[0].Values == nil })
}

// TestClose: it waits for what is asked, and nothing is asked afterwards.
func TestClose(t *testing.T) {
	var asked atomic.Int64
	began := make(chan struct{}, 1)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		began <- struct{}{}
		<-r.Context().Done()
	}))
	defer s.Close()
	a := measure.New(measure.Options{Every: time.Nanosecond})
	queries := []rollout.Query{{Name: "q", Server: s.URL, Text: "up"}}
	a.Measured("s", queries)
	<-began
	a.Close()
	a.Measured("s", queries)
	a.Close()
	if n := asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}
