package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/ringfence-project/ringfence/internal/cluster"
	"github.com/ringfence-project/ringfence/internal/dataplane"
	"github.com/ringfence-project/ringfence/internal/flow"
	"github.com/ringfence-project/ringfence/internal/ruleset"
)

// Events are made of denials so sparingly that nobody's API suffers from them: for one pod, rule and kind of peer one in
// eventEvery, and for a node eventRate a second after a burst. They point at what happens; the counters say how much.
const (
	eventEvery = 5 * time.Minute
	eventRate  = 0.2
	eventBurst = 20
	eventKinds = 4096 // that are remembered at most
)

// countEvery is how often the kernel's counters are read.
const countEvery = 5 * time.Second

// denials tells people of what was denied: with a log line, with an Event on the pod, and with counters.
type denials struct {
	node   string
	client kubernetes.Interface
	log    *slog.Logger
	feed   *feed
	denied *prometheus.CounterVec
	events chan event
	limit  *rate.Limiter
	every  time.Duration // between two readings of the kernel's counters

	mu   sync.Mutex
	told map[kindOfDenial]*repeated
}

// attributor says what denials mean; an engine does.
type attributor interface {
	At(netip.Addr) cluster.Party
	Attribute(dataplane.Denial) (flow.Rule, bool)
	Denies(ruleset.RowID) (flow.Rule, bool)
}

// dropCounter counts what rows drop; a dataplane does.
type dropCounter interface {
	RowDrops(context.Context) (map[ruleset.RowID]uint64, error)
}

// kindOfDenial is what one Event is about, whoever of a workload's pods the peer is and whatever its source port.
type kindOfDenial struct {
	pod  cluster.Key
	peer string
	port string
	rule string
}

// repeated is when an Event was made last, and how many denials were seen since.
type repeated struct {
	at    time.Time
	since int
}

type event struct {
	pod     cluster.Key
	uid     string
	message string
}

func newDenials(o Options, f *feed) *denials {
	return &denials{node: o.Node, client: o.Client, log: o.Log, feed: f, told: map[kindOfDenial]*repeated{},
		events: make(chan event, eventBurst), limit: rate.NewLimiter(eventRate, eventBurst), every: countEvery,
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ringfence_denied_total",
			Help: "Packets that were dropped, by the policy that denied them; without a policy those of pods that were not known yet."},
			[]string{"kind", "policy", "direction"})}
}

// see is told of a denial that the kernel logged.
func (d *denials) see(x dataplane.Denial, by attributor) {
	rule, known := by.Attribute(x)
	from, to := by.At(x.Tuple.Source), by.At(x.Tuple.Destination)
	why := "unknown pod"
	if known {
		why = rule.Kind + " " + rule.String()
	} else if x.Row != 0 {
		why = "a policy that is gone"
	}
	d.log.Debug("denied", "from", from.String(), "to", to.String(), "connection", x.Tuple.String(), "by", why)
	if !known {
		return
	}
	subject, peer, arrow := to, from, "from"
	if rule.Direction == flow.Egress {
		subject, peer, arrow = from, to, "to"
	}
	if subject.Endpoint == nil {
		return
	}
	kind := kindOfDenial{pod: subject.Endpoint.Key, peer: workloadOf(peer), port: portOf(x.Tuple), rule: why}
	more, tell := d.remember(kind)
	pod := d.feed.pod(kind.pod)
	if !tell || pod == nil {
		return
	}
	e := event{pod: kind.pod, uid: pod.UID, message: fmt.Sprintf("%s %s %s, port %s, is denied by %s%s", rule.Direction, arrow, peer, kind.port, why, more)}
	select {
	case d.events <- e:
	default: // the API is slow or away, and a denial is nothing to wait for
	}
}

// remember counts a denial, and says whether to tell of it now, and with what about earlier ones.
func (d *denials) remember(k kindOfDenial) (more string, tell bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	r := d.told[k]
	if r == nil {
		if len(d.told) >= eventKinds {
			d.forget(now)
		}
		r = &repeated{}
		d.told[k] = r
	}
	r.since++
	if now.Sub(r.at) < eventEvery || !d.limit.Allow() {
		return "", false
	}
	if r.since > 1 {
		more = fmt.Sprintf(" (%d times since the last report)", r.since)
	}
	r.at, r.since = now, 0
	return more, true
}

// forget makes room: first of what is long ago, and if that is nothing, of all.
func (d *denials) forget(now time.Time) {
	for k, r := range d.told {
		if now.Sub(r.at) >= eventEvery {
			delete(d.told, k)
		}
	}
	if len(d.told) >= eventKinds {
		clear(d.told)
	}
}

// workloadOf names a peer without what differs between the pods of one workload.
func workloadOf(p cluster.Party) string {
	if e := p.Endpoint; e != nil && e.Owner.Name != "" {
		return e.Namespace + "/" + e.Owner.Kind + "/" + e.Owner.Name
	}
	return p.String()
}

func portOf(t flow.Tuple) string {
	if !t.Protocol.HasPorts() {
		return t.Protocol.String()
	}
	return fmt.Sprintf("%d/%s", t.Port, t.Protocol)
}

// send makes Events until ctx ends.
func (d *denials) send(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-d.events:
			now := metav1.Now()
			_, err := d.client.CoreV1().Events(e.pod.Namespace).Create(ctx, &corev1.Event{
				ObjectMeta: metav1.ObjectMeta{GenerateName: e.pod.Name + ".", Namespace: e.pod.Namespace},
				InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: e.pod.Namespace, Name: e.pod.Name,
					UID: types.UID(e.uid)},
				Reason: "PolicyDenied", Message: e.message, Type: corev1.EventTypeWarning, Count: 1, FirstTimestamp: now, LastTimestamp: now,
				Source: corev1.EventSource{Component: "ringfence", Host: d.node}}, metav1.CreateOptions{})
			if err != nil && ctx.Err() == nil {
				d.log.Warn("an Event could not be made", "pod", e.pod.String(), "error", err)
			}
		}
	}
}

// count keeps the counters of denials in step with the kernel's until ctx ends.
func (d *denials) count(ctx context.Context, from dropCounter, by attributor) error {
	last := map[ruleset.RowID]uint64{}
	tick := time.NewTicker(d.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		rows, err := from.RowDrops(ctx)
		if err != nil {
			if ctx.Err() == nil {
				d.log.Warn("the kernel's counters could not be read", "error", err)
			}
			continue
		}
		d.add(rows, last, by)
		last = rows
	}
}

// add adds what rows dropped since the last reading.
func (d *denials) add(rows, last map[ruleset.RowID]uint64, by attributor) {
	for row, n := range rows {
		if n <= last[row] {
			continue
		}
		rule, _ := by.Denies(row)
		direction := ""
		if !rule.IsZero() {
			direction = rule.Direction.String()
		}
		d.denied.WithLabelValues(rule.Kind, rule.Policy(), direction).Add(float64(n - last[row]))
	}
}
