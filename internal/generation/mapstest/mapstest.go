// Package mapstest makes the fake clientset keep versions of ConfigMaps, as an API does: of two who write over the same
// version one is refused.
package mapstest

import (
	"errors"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// Versioned returns client, which keeps versions of ConfigMaps from now on.
func Versioned(client *fake.Clientset) *fake.Clientset {
	v := &versions{tracker: client.Tracker()}
	client.PrependReactor("create", "configmaps", v.create)
	client.PrependReactor("update", "configmaps", v.update)
	return client
}

var resource = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}

type versions struct {
	tracker k8stesting.ObjectTracker

	mu   sync.Mutex
	last int
}

func (v *versions) next() string {
	v.last++
	return strconv.Itoa(v.last)
}

func (v *versions) create(a k8stesting.Action) (bool, runtime.Object, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := a.(k8stesting.CreateAction).GetObject().(*corev1.ConfigMap).DeepCopy()
	m.ResourceVersion, m.CreationTimestamp = v.next(), metav1.Now()
	return true, m, v.tracker.Create(resource, m, m.Namespace)
}

func (v *versions) update(a k8stesting.Action) (bool, runtime.Object, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := a.(k8stesting.UpdateAction).GetObject().(*corev1.ConfigMap).DeepCopy()
	there, err := v.tracker.Get(resource, m.Namespace, m.Name)
	if err != nil {
		return true, nil, err
	}
	if m.ResourceVersion != there.(*corev1.ConfigMap).ResourceVersion {
		return true, nil, apierrors.NewConflict(resource.GroupResource(), m.Name, errors.New("it is newer"))
	}
	m.ResourceVersion = v.next()
	return true, m, v.tracker.Update(resource, m, m.Namespace)
}
