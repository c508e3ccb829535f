package leader

import (
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func lease(holder string, renewed time.Time) *coordinationv1.Lease {
	at := metav1.NewMicroTime(renewed)
	return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{HolderIdentity: &holder, RenewTime: &at}}
}

func TestHeartbeat(t *testing.T) {
	now := time.Now()
	after := now.Add
	// The leader's clock is an hour late.
	theirs := func(d time.Duration) time.Time { return now.Add(d - time.Hour) }
	h := &Heartbeat{lastRenewal: now}
	if !h.Alive(after(time.Second)) {
		t.Error("a leader was given up before it could renew")
	}
	h.observe(lease("a", theirs(0)), after(time.Second))
	h.observe(lease("a", theirs(RenewEvery)), after(2*time.Second))
	if !h.Alive(after(3 * time.Second)) {
		t.Error("a leader that renews does not count as alive")
	}
	// A resync brings the same lease again.
	h.observe(lease("a", theirs(RenewEvery)), after(3*time.Second))
	// A lease that was given up is nobody's.
	h.observe(lease("", theirs(3*time.Second)), after(3*time.Second))
	if h.Alive(after(4 * time.Second)) {
		t.Error("a leader that is silent counts as alive")
	}
	h.observe(lease("b", theirs(RenewEvery)), after(4*time.Second))
	if !h.Alive(after(5 * time.Second)) {
		t.Error("another leader is not lastRenewal")
	}
}
