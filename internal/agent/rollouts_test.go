package agent

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/ringfence-project/ringfence/api/v1alpha1"
	"github.com/ringfence-project/ringfence/internal/flowlog"
	"github.com/ringfence-project/ringfence/internal/flowlog/socket"
	"github.com/ringfence-project/ringfence/internal/inforce"
	"github.com/ringfence-project/ringfence/internal/rollout"
	"github.com/ringfence-project/ringfence/internal/rollout/record"
)

// closeAll is a candidate that denies all ingress of all pods of shop.
const closeAll = `{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"namespace":"shop","name":"closed"},
	"spec":{"podSelector":{},"policyTypes":["Ingress"]}}`

// auditThenDB audits, and then enforces for pods labelled app=db, and then for all.
const auditThenDB = `[{"audit":{"for":"1h"}},{"enforce":{"selector":{"matchLabels":{"app":"db"}},"for":"1h"}},{"enforce":{"percent":100,"for":"1h"}}]`

// hand is a controller by hand.
type hand struct {
	*testing.T
	options Options
	now     time.Time
}

// write writes a rollout's spec, as somebody who applies it does.
func (h *hand) write(name, policies, steps string) {
	h.Helper()
	text := fmt.Sprintf(`{"apiVersion":%q,"kind":"PolicyRollout","metadata":{"name":%q,"uid":"r"},"spec":{"policies":[%s],"steps":%s}}`,
		v1alpha1.APIVersion, name, policies, steps)
	u := new(unstructured.Unstructured)
	must(h.T, u.UnmarshalJSON([]byte(text)))
	rollouts := h.options.Dynamic.Resource(record.Resource)
	old, err := rollouts.Get(h.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = rollouts.Create(h.Context(), u, metav1.CreateOptions{})
		must(h.T, err)
		return
	}
	must(h.T, err)
	old.Object["spec"] = u.Object["spec"]
	_, err = rollouts.Update(h.Context(), old, metav1.UpdateOptions{})
	must(h.T, err)
}

// move changes a rollout's status, and returns the record.
func (h *hand) move(name string, f func(record.Record) rollout.Status) record.Record {
	h.Helper()
	rollouts := h.options.Dynamic.Resource(record.Resource)
	u, err := rollouts.Get(h.Context(), name, metav1.GetOptions{})
	must(h.T, err)
	r, err := record.Read(u)
	must(h.T, err)
	h.now = h.now.Add(time.Second)
	r = r.With(f(r), h.now)
	u, err = r.Object()
	must(h.T, err)
	_, err = rollouts.UpdateStatus(h.Context(), u, metav1.UpdateOptions{})
	must(h.T, err)
	return r
}

func (h *hand) follow(name string) record.Record {
	h.Helper()
	return h.move(name, func(r record.Record) rollout.Status { return r.Status.Follow(r.Spec, "", h.now) })
}

func (h *hand) do(name string, c rollout.Command) record.Record {
	h.Helper()
	return h.move(name, func(r record.Record) rollout.Status {
		next, err := r.Status.Do(r.Spec, c, rollout.Health{}, h.now)
		must(h.T, err)
		return next
	})
}

// reported is what the node says of a rollout.
func (h *hand) reported(name string) v1alpha1.NodeRollout {
	h.Helper()
	s, err := inforce.Get(h.Context(), h.options.Dynamic, "n1")
	must(h.T, err)
	if s != nil {
		for _, r := range s.Rollouts {
			if r.Name == name {
				return r
			}
		}
	}
	return v1alpha1.NodeRollout{}
}

// awaitInForce waits until the node reports that a status is in force, and its living connections judged.
func (h *hand) awaitInForce(r record.Record) v1alpha1.NodeRollout {
	h.Helper()
	var n v1alpha1.NodeRollout
	eventually(h.T, fmt.Sprintf("%s is in force: %s, step %d", r.Name, r.Status.Phase, r.Status.Step), func() bool {
		n = h.reported(r.Name)
		return n.InForce && n.Digest == r.Status.Digest && n.Revision == int64(r.Status.Revision) && n.Phase == string(r.Status.Phase) &&
			n.StepIndex == int32(r.Status.Step) && (n.Living || !r.Status.Active())
	})
	return n
}

// awaitFound waits for exactly the findings of these texts, which say kind, ends, and how.
func (h *hand) awaitFound(name string, want ...string) {
	h.Helper()
	var found []string
	deadline := time.Now().Add(patience)
	for {
		found = nil
		for _, f := range h.reported(name).Evidence.Findings {
			text := fmt.Sprintf("%s %s -> %s %s", f.Kind, f.Source, f.Destination, f.Port)
			if f.Live {
				text += " live"
			}
			if f.Enforced {
				text += " enforced"
			}
			found = append(found, text)
		}
		slices.Sort(found)
		if slices.Equal(found, want) {
			return
		}
		if time.Now().After(deadline) {
			h.Fatalf("found %q, want %q", found, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// shop is a machine with web and db, and an agent's options for it.
func shop(t *testing.T) (*machine, *hand) {
	t.Helper()
	m := newMachine(t, false)
	o, _ := options(apiNode(m.net.Ranges[:]...), apiPod("web", "1", "n1", port("web").Addresses...), apiPod("db", "2", "n1", port("db").Addresses...))
	o.Flows = filepath.Join(t.TempDir(), "flows.sock")
	return m, &hand{T: t, options: o, now: time.Now()}
}

// knock dials a server again and again, and says what of it was ever otherwise than wanted.
func (m *machine) knock(from, to string, reaches bool) (stop func()) {
	done, ended := make(chan struct{}), make(chan int)
	go func() {
		wrong := 0
		defer func() { ended <- wrong }()
		for {
			select {
			case <-done:
				return
			default:
			}
			limit := 200 * time.Millisecond
			if reaches {
				limit = patience
			}
			c, err := m.dial(m.pods[from], to, 0, limit)
			if err == nil {
				c.Close()
				time.Sleep(5 * time.Millisecond)
			}
			if (err == nil) != reaches {
				wrong++
			}
		}
	}()
	var once sync.Once
	return func() {
		once.Do(func() {
			close(done)
			if n := <-ended; n > 0 {
				m.t.Errorf("%s -> %s: %d times it was not %v that it is reached", from, to, n, reaches)
			}
		})
	}
}

func TestRolloutInAKernel(t *testing.T) {
	m, h := shop(t)
	web, db := m.pods["web"], m.pods["db"]
	a, stop := m.start(h.options)
	m.awaitReady(a)
	open, err := m.dial(web, "db", 0, patience)
	must(t, err)
	defer open.Close()
	talk(t, open)
	m.hasSeen(a, "shop/web -> shop/db") // else it is a new one for a rollout that begins meanwhile

	// audit: the connection that is open and the next one are seen, and nothing is denied
	h.write("lockdown", closeAll, auditThenDB)
	n := h.awaitInForce(h.follow("lockdown"))
	if n.Evidence.Connections == 0 || !slices.Equal(n.Evidence.Workloads, []string{"shop/db", "shop/web"}) {
		t.Errorf("the evidence is %+v", n.Evidence)
	}
	h.awaitFound("lockdown", "NewlyDenied shop/web -> shop/db 80/tcp live")
	m.reaches(db, "web")
	h.awaitFound("lockdown", "NewlyDenied shop/db -> shop/web 80/tcp", "NewlyDenied shop/web -> shop/db 80/tcp live")
	talk(t, open)
	m.wouldDeny(a, "shop/db -> shop/web")

	// a cohort: nobody else
	canary := h.do("lockdown", rollout.Promote)
	h.awaitInForce(canary)
	m.fails(web, "db")
	m.reaches(db, "web")
	h.awaitFound("lockdown", "NewlyDenied shop/db -> shop/web 80/tcp", "NewlyDenied shop/web -> shop/db 80/tcp enforced")
	if n := h.reported("lockdown"); n.Evidence.Cohort.Failed > 0 {
		t.Errorf("denied connections are counted as failed: %+v", n.Evidence)
	}

	// the agent's end and start are not seen, whatever of it is asked meanwhile
	denied, reached := m.knock("web", "db", false), m.knock("db", "web", true)
	stop()
	a, stop = m.start(h.options)
	m.awaitReady(a)
	h.awaitInForce(canary)
	denied()
	reached()
	if f := h.reported("lockdown").Evidence.Findings; len(f) < 2 || !f[0].First.Before(&metav1.MicroTime{Time: time.Now()}) {
		t.Errorf("the restart forgot what was found: %+v", f)
	}

	// rolled back, all is as before; also for the connection that was cut
	h.awaitInForce(h.do("lockdown", rollout.Abort))
	m.reaches(web, "db")
	talk(t, open)
	stop()
}

// hasSeen waits until a connection is a flow.
func (m *machine) hasSeen(a *Agent, want string) {
	m.t.Helper()
	eventually(m.t, want+" is seen", func() bool {
		a.mu.Lock()
		log := a.flows
		a.mu.Unlock()
		return log != nil && slices.ContainsFunc(log.Records(flowlog.Query{}), func(r *flowlog.Record) bool {
			return r.Source.String()+" -> "+r.Destination.String() == want
		})
	})
}

// wouldDeny asks for flows that a candidate would deny, as `ringfence flows --would-deny` does.
func (m *machine) wouldDeny(a *Agent, want string) {
	m.t.Helper()
	eventually(m.t, "flows tell what would be denied", func() bool {
		found := false
		err := socket.Stream(m.t.Context(), a.options.Flows, socket.Request{Options: flowlog.Options{WouldDeny: true, Rollout: "lockdown"}},
			func(x socket.Message) error {
				if r := x.Record; r != nil {
					found = found || r.Source.String()+" -> "+r.Destination.String() == want && !r.Denied() &&
						strings.Contains(r.Beside.String(), "rollout lockdown would deny it by shop/closed")
					if strings.Contains(r.Source.Labels.String(), "~") {
						m.t.Errorf("a mark is shown: %s", r.Source.Labels)
					}
				}
				return nil
			})
		return err == nil && found
	})
}

// Nobody is judged by a candidate before the connections that were there have been judged, and the API knows. Without the
// log of flows it is the same. And a spec that nobody has followed yet is in force for nobody.
func TestRolloutIsHeldBack(t *testing.T) {
	m, h := shop(t)
	web, db := m.pods["web"], m.pods["db"]
	h.options.Flows = ""
	var refuse atomic.Bool
	refused := make(chan struct{}, 100)
	h.options.Dynamic.(*dynamicfake.FakeDynamicClient).PrependReactor("patch", "nodeenforcements",
		func(x k8stesting.Action) (bool, runtime.Object, error) {
			if !refuse.Load() || !strings.Contains(string(x.(k8stesting.PatchAction).GetPatch()), `"living":true`) {
				return false, nil, nil
			}
			refused <- struct{}{}
			return true, nil, errors.New("not now")
		})
	a, stop := m.start(h.options)
	defer stop()
	m.awaitReady(a)
	open, err := m.dial(web, "db", 0, patience)
	must(t, err)
	defer open.Close()

	refuse.Store(true)
	h.write("lockdown", closeAll, `[{"enforce":{"percent":100,"for":"1h"}}]`)
	all := h.follow("lockdown")
	<-refused
	m.reaches(web, "db")
	talk(t, open)
	refuse.Store(false)
	h.awaitInForce(all)
	m.fails(web, "db")
	h.awaitFound("lockdown", "NewlyDenied shop/web -> shop/db 80/tcp", "NewlyDenied shop/web -> shop/db 80/tcp enforced",
		"NewlyDenied shop/web -> shop/db 80/tcp live")

	complete := h.do("lockdown", rollout.Promote)
	if complete.Status.Phase != rollout.Complete {
		t.Fatalf("it is %s", complete.Status.Phase)
	}
	h.awaitInForce(complete)
	m.fails(web, "db")
	h.write("lockdown", strings.Replace(closeAll, `"podSelector":{}`, `"podSelector":{"matchLabels":{"app":"web"}}`, 1), `[{"enforce":{"percent":100,"for":"1h"}}]`)
	m.reaches(m.node, "db") // which takes a while, and is no proof
	m.fails(web, "db")
	m.fails(db, "web")
	edited := h.follow("lockdown") // on top of the former revision
	h.awaitInForce(edited)
	m.reaches(web, "db")
	m.fails(db, "web")
	h.awaitInForce(h.do("lockdown", rollout.Abort)) // which goes back to the former one
	m.fails(web, "db")
	m.fails(db, "web")
	definition := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "policyrollouts.ringfence.dev"}}}
	_, err = h.options.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).
		Create(t.Context(), definition, metav1.CreateOptions{})
	must(t, err)
	must(t, h.options.Dynamic.Resource(record.Resource).Delete(t.Context(), "lockdown", metav1.DeleteOptions{}))
	m.reaches(web, "db")
	m.reaches(db, "web")
}
