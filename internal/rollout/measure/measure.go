// Package measure asks Prometheus servers what rollouts want to know of them: instant queries, by the HTTP API that
// Prometheus, Thanos, Mimir and VictoriaMetrics have in common.
//
// What a server can do to its caller is bounded: by time, by the size of an answer, and as no redirect is followed. An
// answer is numbers, or why there are none, in the words of this package or, bounded, of the server's API; never what else
// a server says, as who writes a rollout need not be somebody who may read everything that its driver can reach.
package measure

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ringfence-project/ringfence/internal/rollout"
)

// Options are choices for New. The zero value is good.
type Options struct {
	Every   time.Duration // how often queries are asked; 0 is 15 s
	Timeout time.Duration // how long one may take; 0 is 10 s
}

const (
	maxAnswer  = 1 << 20 // bytes of an answer
	maxMessage = 200     // runes of what a server says is wrong with a query
	atOnce     = 4       // queries of a step that are asked at the same time
)

// Asker asks the queries of steps again and again, beside whoever wants the answers. Its methods may be called from any
// goroutine.
type Asker struct {
	options Options
	client  *http.Client
	ctx     context.Context
	end     context.CancelFunc
	group   sync.WaitGroup

	mu    sync.Mutex
	steps map[string]*step
}

// step is what is known of a step's queries.
type step struct {
	used    time.Time // somebody wanted the answers
	began   time.Time // the newest round of questions; zero before the first
	asking  bool
	answers []rollout.Measurement
	at      time.Time // of answers
}

// New returns an Asker, which asks nothing by itself. End it with Close.
func New(o Options) *Asker {
	o.Every, o.Timeout = cmp.Or(o.Every, 15*time.Second), cmp.Or(o.Timeout, 10*time.Second)
	ctx, end := context.WithCancel(context.Background())
	client := &http.Client{Timeout: o.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return &Asker{options: o, client: client, ctx: ctx, end: end, steps: map[string]*step{}}
}

// Close ends all questions and waits for them.
func (a *Asker) Close() {
	a.end()
	a.group.Wait()
}

// Measured returns the newest answers to the queries of a step, and sees to it that there are newer ones if it is time. It
// waits for nothing: who wants the answers calls it again and again. Steps are told apart by their names; an answer is never
// older than the first call with its name. Answers that are too old to count are replaced by saying so.
func (a *Asker) Measured(name string, queries []rollout.Query) []rollout.Measurement {
	if len(queries) == 0 {
		return nil
	}
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.steps, func(_ string, s *step) bool { return !s.asking && now.Sub(s.used) > a.old() })
	s := a.steps[name]
	if s == nil {
		s = &step{}
		a.steps[name] = s
	}
	s.used = now
	if !s.asking && now.Sub(s.began) >= a.options.Every && a.ctx.Err() == nil {
		s.asking, s.began = true, now
		a.group.Go(func() { a.round(s, queries) })
	}
	if s.at.IsZero() || now.Sub(s.at) <= a.old() {
		return s.answers
	}
	var none []rollout.Measurement
	for _, q := range queries {
		none = append(none, rollout.Measurement{Query: q.Name, Problem: fmt.Sprintf("none since %s", s.at.Format(time.TimeOnly))})
	}
	return none
}

// old is the age at which an answer counts no more.
func (a *Asker) old() time.Duration { return 3*a.options.Every + a.options.Timeout }

// round asks all queries of a step once.
func (a *Asker) round(s *step, queries []rollout.Query) {
	answers := make([]rollout.Measurement, len(queries))
	var g errgroup.Group
	g.SetLimit(atOnce)
	for i, q := range queries {
		g.Go(func() error {
			answers[i] = a.Ask(a.ctx, q)
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	a.mu.Lock()
	defer a.mu.Unlock()
	s.asking, s.answers, s.at = false, answers, time.Now()
}

// Ask asks one query once.
func (a *Asker) Ask(ctx context.Context, q rollout.Query) rollout.Measurement {
	values, err := a.ask(ctx, q)
	m := rollout.Measurement{Query: q.Name, Values: values}
	if err != nil {
		m.Problem = err.Error()
	}
	return m
}

func (a *Asker) ask(ctx context.Context, q rollout.Query) ([]float64, error) {
	ctx, cancel := context.WithTimeout(ctx, a.options.Timeout)
	defer cancel()
	values := url.Values{"query": {q.Text}, "timeout": {strconv.FormatFloat(a.options.Timeout.Seconds(), 'f', -1, 64) + "s"}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(q.Server, "/")+"/api/v1/query?"+values.Encode(), nil)
	if err != nil {
		return nil, errors.New("the server's URL cannot be asked")
	}
	request.Header.Set("User-Agent", "ringfence")
	request.Header.Set("Accept", "application/json")
	response, err := a.client.Do(request)
	if err != nil {
		return nil, plain(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, plain(err)
	case len(body) > maxAnswer:
		return nil, fmt.Errorf("the answer is larger than %d MiB", maxAnswer>>20)
	}
	return parse(response.StatusCode, body)
}

// plain is an error of the HTTP client without the URL, which holds the whole query.
func plain(err error) error {
	var u *url.Error
	switch {
	case errors.As(err, &u) && u.Timeout(), errors.Is(err, context.DeadlineExceeded):
		return errors.New("the server did not answer in time")
	case errors.As(err, &u):
		return u.Err
	}
	return err
}

// answer is what the API says.
type answer struct {
	Status    string `json:"status"`
	ErrorType string `json:"errorType"`
	Error     string `json:"error"`
	Data      struct {
		Type   string          `json:"resultType"`
		Result json.RawMessage `json:"result"`
	} `json:"data"`
}

// sample is [seconds, "value"].
type sample [2]any

func (s sample) value() (float64, error) {
	text, ok := s[1].(string)
	if !ok {
		return 0, errNoAnswer
	}
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, errNoAnswer
	}
	return v, nil
}

var errNoAnswer = errors.New("what the server says is no answer to a query")

// parse reads the numbers of an answer: one of a scalar, one for each series of a vector.
func parse(status int, body []byte) ([]float64, error) {
	var a answer
	err := json.Unmarshal(body, &a)
	switch {
	case err == nil && a.Status == "error" && a.ErrorType != "":
		return nil, fmt.Errorf("the server says %s: %s", cut(a.ErrorType), cut(a.Error))
	case status != http.StatusOK:
		return nil, fmt.Errorf("the server answers with status %d", status)
	case err != nil || a.Status != "success":
		return nil, errNoAnswer
	}
	var samples []sample
	switch a.Data.Type {
	case "scalar":
		var one sample
		if err := json.Unmarshal(a.Data.Result, &one); err != nil {
			return nil, errNoAnswer
		}
		samples = []sample{one}
	case "vector":
		var series []struct {
			Value sample `json:"value"`
		}
		if err := json.Unmarshal(a.Data.Result, &series); err != nil {
			return nil, errNoAnswer
		}
		for _, s := range series {
			samples = append(samples, s.Value)
		}
	default:
		return nil, fmt.Errorf("the answer is a %s: want a query for a number, or for one of each series", cut(cmp.Or(a.Data.Type, "nothing")))
	}
	values := []float64{}
	for _, s := range samples {
		v, err := s.value()
		if err != nil {
			return nil, err
		}
		values = append(values, v)
	}
	return values, nil
}

// cut bounds what a server says, to one line.
func cut(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > maxMessage {
		return string(runes[:maxMessage-1]) + "…"
	}
	return text
}
