package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/generation"
	"github.com/ringfence-project/ringfence/internal/policy"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/runtime"
	"github.com/ringfence-project/ringfence/internal/wholefile"
)

// disk is how long files may take, which is as long as it takes.
var disk = context.Background()

// generations is the part of `up` that keeps every set of policies that is in force for everyone, and returns to one. What
// a rollout has in force for a cohort is not among it.
type generations struct {
	store    *generation.Store
	recorder *generation.Recorder
	file     string // of the Return
	say      func(string, ...any)

	// steering is held by whoever begins, ends or commands rollouts, so that none is under way while one is returned to.
	steering sync.Mutex

	mu       sync.Mutex
	to       *generation.Return
	policies []*policy.Policy   // of to
	judged   *cluster.State     // the newest state with them
	judgedBy *generation.Return // to, when judged was made
	applied  *generation.Return // by which what is in force was made
	changed  chan struct{}      // closed when applied is written, and replaced
	inForce  []*policy.Policy   // for everyone
	finals   []string           // rollouts that are in it
	complain string             // the last error that was told
}

func generationsFolder(i runtime.Instance) string { return filepath.Join(i.State, "generations") }

func returnFile(i runtime.Instance) string { return filepath.Join(i.State, "returned.json") }

// openGenerations takes over what is kept. Where what was returned to cannot be read it fails: other policies must not come
// in force because of that, and the kernel keeps those that are.
func openGenerations(i runtime.Instance, say func(string, ...any)) (*generations, error) {
	store, err := generation.Open(generationsFolder(i), generation.Limits{})
	if err != nil {
		return nil, err
	}
	g := &generations{store: store, recorder: generation.NewRecorder(store, "manifests"), file: returnFile(i), say: say, changed: make(chan struct{})}
	if g.to, err = readReturn(g.file); err != nil || g.to == nil {
		return g, err
	}
	kept, err := store.Get(disk, g.to.ID)
	if err != nil {
		return nil, fmt.Errorf("policies were returned to %s: %w; without %s the files rule", g.to, err, g.file)
	}
	g.policies = kept.Policies
	return g, nil
}

func readReturn(file string) (*generation.Return, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var r generation.Return
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w; without it the files rule", file, err)
	}
	return &r, nil
}

// returned is what was returned to; nil if the files rule.
func (g *generations) returned() *generation.Return {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.to
}

// rewrite returns s with the policies that were returned to; nil if the files rule.
func (g *generations) rewrite(s *cluster.State) (*cluster.State, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.judged, g.judgedBy = nil, g.to
	if g.to == nil {
		return nil, nil
	}
	o := s.Objects()
	o.Policies = g.policies
	var err error
	g.judged, err = cluster.NewState(o)
	return g.judged, err
}

// state is the newest state that rewrite returned; nil if the files rule.
func (g *generations) state() *cluster.State {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.judged
}

// enforced takes note of what is in force for everyone, by a state that rewrite returned, or not.
func (g *generations) enforced(s *cluster.State, policies []*policy.Policy, finals []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inForce, g.finals = policies, finals
	if g.judged != nil {
		g.inForce, g.finals = g.policies, nil
	}
	if g.judged == nil || g.judged == s {
		g.applied = g.judgedBy
	}
	close(g.changed)
	g.changed = make(chan struct{})
}

// wait waits until what was returned to is in force, of nil what the files say, and reports whether it is when ctx ends.
func (g *generations) wait(ctx context.Context, to *generation.Return) bool {
	for {
		g.mu.Lock()
		done, changed := g.applied == to, g.changed
		g.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-changed:
		}
	}
}

// note writes what is in force to the history, if that is new. files is what changed of the manifests.
func (g *generations) note(files string, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, err := g.recorder.Note(disk, generation.Arrival{Policies: g.inForce, Rollouts: g.finals, Returned: g.to, Changes: files}, now)
	g.tell(err)
}

// tell tells an error once.
func (g *generations) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != g.complain {
		g.say("history of generations: %s", text)
	}
	g.complain = text
}

// prove marks what is in force good once it was for long enough.
func (g *generations) prove(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tell(g.recorder.Prove(disk, now))
}

// keepProving lets time pass until ctx ends.
func (g *generations) keepProving(ctx context.Context) {
	tick := time.NewTicker(generation.GoodAfter / 60)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			g.prove(now)
		}
	}
}

// returnTo has an earlier generation put in force for everyone, once it is on disk that it is. Rollouts that are under way
// end. The caller has the state put in force.
func (g *generations) returnTo(ref string, rollouts *rollouts, now time.Time) (*generation.Return, error) {
	g.steering.Lock()
	defer g.steering.Unlock()
	history, err := g.store.History(disk)
	if err != nil && len(history) == 0 {
		return nil, err
	}
	entry, err := history.Find(ref)
	if err != nil {
		return nil, err
	}
	kept, err := g.store.Get(disk, entry.ID)
	if err != nil {
		return nil, err
	}
	views, _ := rollouts.Views()
	for _, v := range views {
		if !v.Over() {
			if err := rollouts.Do(v.Rollout, rollout.Abort, now); err != nil {
				return nil, err
			}
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	to := &generation.Return{Number: entry.Number, ID: entry.ID, Time: now.UTC()}
	if err := g.store.Return(disk, *to, now); err != nil {
		return nil, err
	}
	data, err := json.Marshal(to)
	if err != nil {
		return nil, err
	}
	if err := wholefile.Write(g.file, append(data, '\n')); err != nil {
		return nil, err
	}
	g.to, g.policies = to, kept.Policies
	return to, nil
}

// resume has the files rule again. The caller has them put in force.
func (g *generations) resume() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.to == nil {
		return errors.New("the files rule already")
	}
	if err := os.Remove(g.file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	g.to, g.policies = nil, nil
	return nil
}

// returnTo answers that a person wants an earlier generation in force.
func (u *upRun) returnTo(w http.ResponseWriter, q *http.Request) {
	to, err := u.generations.returnTo(q.URL.Query().Get("to"), u.rollouts, time.Now())
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	u.say("returned to the policies of %s, until \"ringfence rollout resume\"", to)
	u.node.Again()
	u.awaitReturn(w, q, to)
}

// Steered is what came of a ReturnTo or a Resume.
type Steered struct {
	To      *generation.Return `json:"to,omitempty"` // nil: the files rule
	InForce bool               `json:"inForce"`
}

// awaitReturn answers when what a person wants is in force, or that it was not within the time that the person waits.
func (u *upRun) awaitReturn(w http.ResponseWriter, q *http.Request, to *generation.Return) {
	wait, err := time.ParseDuration(q.URL.Query().Get("wait"))
	if err != nil {
		wait = 0
	}
	ctx, cancel := context.WithTimeout(q.Context(), min(wait, maxWait))
	defer cancel()
	_ = json.NewEncoder(w).Encode(Steered{to, u.generations.wait(ctx, to)}) // who does not read to the end has gone
}

// maxWait bounds how long a request waits.
const maxWait = 10 * time.Minute

// resume answers that a person wants the files to rule again.
func (u *upRun) resume(w http.ResponseWriter, q *http.Request) {
	if err := u.letFilesRule(); err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	u.node.Again()
	u.awaitReturn(w, q, nil)
}

func (u *upRun) letFilesRule() error {
	u.generations.steering.Lock()
	defer u.generations.steering.Unlock()
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.generations.resume(); err != nil {
		return err
	}
	u.say("resumed: the files rule")
	if u.latest != nil {
		u.rollouts.Follow(u.latest.Rollouts, time.Now())
	}
	return nil
}

// ReadGenerations returns which generations were in force in an instance, and what a person returned to, nil if the files
// rule. The store is to be read only.
func ReadGenerations(i runtime.Instance) (*generation.Store, generation.History, *generation.Return, error) {
	to, err := readReturn(returnFile(i))
	if err != nil {
		return nil, nil, nil, err
	}
	if _, err := os.Stat(generationsFolder(i)); err != nil {
		return nil, nil, to, fmt.Errorf("instance %s has no history of generations: %w", i.Name, err)
	}
	store, err := generation.Open(generationsFolder(i), generation.Limits{})
	if err != nil {
		return nil, nil, to, err
	}
	history, err := store.History(disk)
	if len(history) > 0 && errors.Is(err, generation.ErrDamaged) {
		err = nil // what could be saved is shown
	}
	return store, history, to, err
}

// ReturnTo has the running `up` of an instance put an earlier generation in force, and waits at most for that long until it
// is; see generation.History.Find for ref.
func ReturnTo(ctx context.Context, i runtime.Instance, ref string, wait time.Duration) (Steered, error) {
	return steer(ctx, i, "return?to="+url.QueryEscape(ref)+"&", wait)
}

// Resume has the running `up` of an instance put in force what the files say, after a ReturnTo, and waits likewise.
func Resume(ctx context.Context, i runtime.Instance, wait time.Duration) (Steered, error) {
	return steer(ctx, i, "resume?", wait)
}

func steer(ctx context.Context, i runtime.Instance, path string, wait time.Duration) (Steered, error) {
	var s Steered
	answer, err := tell(ctx, i, "/generations/"+path+"wait="+wait.String())
	if err == nil {
		err = json.Unmarshal(answer, &s)
	}
	return s, err
}

// tell has the running `up` of an instance do something. The error says why it does not.
func tell(ctx context.Context, i runtime.Instance, path string) ([]byte, error) {
	answer, err := ask(ctx, i.Run, http.MethodPost, path)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<12))
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.New(strings.TrimSpace(string(text)))
	}
	return text, err
}
