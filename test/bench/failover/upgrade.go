package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// upgradeTime is how long an upgrade may take.
const upgradeTime = 5 * time.Minute

// upgrade brings a Vault to the other version, in the way of what runs it,
// while sealed nodes are unsealed at once.
func upgrade(ctx context.Context, b *bench, v *victim) error {
	to := versions[0]
	if isVersion(v.active, to) {
		to = versions[1]
	}
	u := &upgrading{bench: b, victim: v, to: to}
	ways := map[string]func(context.Context) error{
		ours: u.byOperator, oursLogin: u.byOperator, oursRaft: u.byOperator,
		oursRaft2: u.byOperator, oursRaft3: u.byOperator,
		"vault-helm": u.byHand, "vault-helm-raft": u.byHand, "coreos": u.byCoreOS, "kubevault": u.byStatefulSet,
	}
	if err := ways[v.name](ctx); err != nil {
		return err
	}
	err := u.await(ctx, "is upgraded, and its Services have followed", func(s state) bool {
		if !s.whole() || slices.ContainsFunc(s.pods(), func(pod corev1.Pod) bool { return !isVersion(pod, to) }) {
			return false
		}
		_, err := b.lead(ctx, v.set, s)
		return err == nil
	})
	if err != nil {
		return err
	}
	return sleep(ctx, 2*settle)
}

func isVersion(pod corev1.Pod, version string) bool {
	return strings.HasSuffix(pod.Spec.Containers[0].Image, ":"+version)
}

// upgrading is an upgrade that is under way.
type upgrading struct {
	*bench
	*victim
	to string
}

// await tends the Vault until it is as wanted, and counts its failovers.
func (u *upgrading) await(ctx context.Context, what string, wanted func(state) bool) error {
	return poll.Until(ctx, u.name+" "+what, upgradeTime, pace, func() error {
		found, err := u.tend(ctx, u.set)
		if err != nil {
			return err
		}
		u.countFailover(found)
		for _, l := range u.loads {
			l.follow(found.addresses)
		}
		if !wanted(found) {
			return fmt.Errorf("%d standby nodes, %d others", len(found.standby), len(found.other))
		}
		return nil
	})
}

// byOperator is how ours is upgraded: by its spec. Every other time it is a downgrade.
func (u *upgrading) byOperator(ctx context.Context) error {
	return u.Patch(ctx, u.resource(), client.RawPatch(types.MergePatchType,
		fmt.Appendf(nil, `{"spec": {"version": %q, "allowDowngrade": true}}`, u.to)))
}

// byHand is how HashiCorp tells administrators to upgrade what its chart runs: the pods
// are deleted one by one, the standby nodes first.
// https://developer.hashicorp.com/vault/docs/deploy/kubernetes/helm/run#upgrading-vault-servers
func (u *upgrading) byHand(ctx context.Context) error {
	if err := u.setImage(ctx, &appsv1.StatefulSet{}); err != nil {
		return err
	}
	found, err := u.tend(ctx, u.set)
	if err == nil && !found.whole() {
		err = errors.New(u.name + " is not whole")
	}
	if err != nil {
		return err
	}
	for _, pod := range append(found.standby, *found.active) {
		if err := u.Delete(ctx, &pod); err != nil {
			return err
		}
		err := u.await(ctx, "has replaced "+pod.Name, func(s state) bool {
			return s.whole() && slices.ContainsFunc(s.pods(), func(other corev1.Pod) bool {
				return other.Name == pod.Name && other.UID != pod.UID
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// byCoreOS is what the CoreOS operator did: all standby nodes are replaced at
// once, and then the active pod is deleted.
// https://github.com/coreos/vault-operator/blob/master/pkg/operator/sync.go
func (u *upgrading) byCoreOS(ctx context.Context) error {
	var d appsv1.Deployment
	if err := u.Get(ctx, u.key(), &d); err != nil {
		return err
	}
	unavailable := intstr.FromInt(nodes - 1)
	d.Spec.Strategy.RollingUpdate.MaxUnavailable = &unavailable
	d.Spec.Template.Spec.Containers[0].Image = image(u.to)
	if err := u.Update(ctx, &d); err != nil {
		return err
	}
	err := u.await(ctx, "has new standby nodes", func(s state) bool {
		old := func(pod corev1.Pod) bool { return !isVersion(pod, u.to) }
		// A third has no place before the active pod is gone: each has a node of its own.
		return s.active != nil && len(s.standby) >= nodes-1 && !slices.ContainsFunc(s.standby, old)
	})
	if err != nil {
		return err
	}
	return u.Delete(ctx, &u.active)
}

// byStatefulSet leaves it to the StatefulSet, which replaces one pod after the
// other, whichever is active.
func (u *upgrading) byStatefulSet(ctx context.Context) error {
	return u.setImage(ctx, &appsv1.StatefulSet{})
}

func (u *upgrading) setImage(ctx context.Context, s *appsv1.StatefulSet) error {
	if err := u.Get(ctx, u.key(), s); err != nil {
		return err
	}
	s.Spec.Template.Spec.Containers[0].Image = image(u.to)
	return u.Update(ctx, s)
}

func (u *upgrading) key() types.NamespacedName {
	return types.NamespacedName{Namespace: namespace, Name: u.name}
}

func image(version string) string { return "hashicorp/vault:" + version }
