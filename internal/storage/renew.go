package storage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"helm.sh/helm/v3/pkg/postrender"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/manifests"
)

const (
	// renewableAfter is how old a StatefulSet is before it is made anew. The garbage collector has to
	// know which pods are its own: it takes those that it does not know for pods of one that is gone,
	// and deletes them.
	renewableAfter = 30 * time.Second
	// renewFor is how long it may take until a StatefulSet that was deleted is gone.
	renewFor = 30 * time.Second
)

// Renewal makes the StatefulSet of a Vault's storage anew, without its pods and claims, when its volumes are
// larger: its claim template cannot be changed. The gate refuses a release for as long as that cannot be, and
// MakeWay deletes the StatefulSet right before Helm makes the next one: all gates compare what is rendered with
// the StatefulSet that there is, and where one refuses, its pods shall not be without one.
type Renewal struct {
	Client client.Client
	// APIReader must not be a cache.
	APIReader client.Reader
	Vault     client.ObjectKey
}

// Gate refuses larger volumes while the StatefulSet cannot be made anew for them.
func (r Renewal) Gate() postrender.PostRenderer {
	return manifests.Gate(r.Client, r.Vault,
		func(ctx context.Context, vault *v1alpha1.Vault, rendered manifests.Manifests) error {
			wanted, err := r.neededFor(ctx, vault, rendered)
			if err != nil || wanted == nil {
				return err
			}
			if err := r.await(ctx, vault, request(claimTemplate(wanted)), r.prepare); err != nil {
				return err
			}
			wanted.Namespace = vault.Namespace
			return r.try(ctx, wanted)
		})
}

// try has the API server look at the next StatefulSet, for what it refuses has to be known before the one of before
// is gone. It looks at all of an object before it says that there is one of its name.
func (r Renewal) try(ctx context.Context, wanted *appsv1.StatefulSet) error {
	err := r.Client.Create(ctx, wanted, client.DryRunAll)
	if err == nil || apierrors.IsAlreadyExists(err) {
		return nil
	}
	return fmt.Errorf("StatefulSet %q cannot be made anew, for larger volumes: %w", wanted.Name, err)
}

// Needed says that a StatefulSet has to be made anew to become what it is to be.
func (r Renewal) Needed(ctx context.Context, wanted *appsv1.StatefulSet) (bool, error) {
	var vault v1alpha1.Vault
	if err := r.Client.Get(ctx, r.Vault, &vault); err != nil || wanted.Name != layoutOf(&vault).set {
		return false, client.IgnoreNotFound(err)
	}
	return r.needed(ctx, &vault, wanted)
}

func (r Renewal) needed(ctx context.Context, vault *v1alpha1.Vault, wanted *appsv1.StatefulSet) (bool, error) {
	s, err := Load(ctx, r.Client, vault)
	return err == nil && s.hasOtherTemplate(request(claimTemplate(wanted))), err
}

// neededFor returns the StatefulSet of a release that has to be made anew, or nil.
func (r Renewal) neededFor(
	ctx context.Context, vault *v1alpha1.Vault, release manifests.Manifests,
) (*appsv1.StatefulSet, error) {
	var wanted appsv1.StatefulSet
	found, err := release.Find("StatefulSet", layoutOf(vault).set, &wanted)
	if err != nil || !found {
		return nil, err
	}
	if needed, err := r.needed(ctx, vault, &wanted); err != nil || !needed {
		return nil, err
	}
	return &wanted, nil
}

// MakeWay deletes the StatefulSet, and waits until it is gone.
func (r Renewal) MakeWay(ctx context.Context, wanted *appsv1.StatefulSet) error {
	// What was deleted is made again, also by a process that is about to end.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), renewFor)
	defer cancel()
	var vault v1alpha1.Vault
	if err := r.APIReader.Get(ctx, r.Vault, &vault); err != nil {
		return err
	}
	return r.await(ctx, &vault, request(claimTemplate(wanted)), r.remove)
}

// MakeWayFor deletes the StatefulSet if it is not as a release has it.
func (r Renewal) MakeWayFor(ctx context.Context, deployed manifests.Manifests) error {
	var vault v1alpha1.Vault
	if err := r.Client.Get(ctx, r.Vault, &vault); err != nil {
		return client.IgnoreNotFound(err)
	}
	wanted, err := r.neededFor(ctx, &vault, deployed)
	if err != nil || wanted == nil {
		return err
	}
	return r.MakeWay(ctx, wanted)
}

// await does a step until it waits for nothing any more.
func (r Renewal) await(
	ctx context.Context, vault *v1alpha1.Vault, size resource.Quantity,
	step func(context.Context, *State) (waits string, err error),
) error {
	for {
		s, err := Load(ctx, r.APIReader, vault)
		if err != nil || !s.hasOtherTemplate(size) {
			return err
		}
		waits := "the one before is gone"
		if s.Set.DeletionTimestamp == nil {
			if err := s.renewable(size); err != nil {
				return err
			}
			waits, err = step(ctx, s)
		}
		if err != nil || waits == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("StatefulSet %q is being made anew, for larger volumes: waiting until %s", s.Set.Name, waits)
		case <-time.After(followEvery):
		}
	}
}

// kept is what becomes of the volumes of a StatefulSet that is made anew.
const kept = appsv1.RetainPersistentVolumeClaimRetentionPolicyType

// prepare has the claims stay when the StatefulSet is deleted.
func (r Renewal) prepare(ctx context.Context, s *State) (waits string, err error) {
	if !hasRetention(s.Set, kept) {
		return "its volumes are to be kept", setRetention(ctx, r.Client, s.Set, kept)
	}
	if s.Set.Status.ObservedGeneration < s.Set.Generation {
		return "the StatefulSet controller has seen it", nil
	}
	if owned := notFollowed(s.Claims, s.Set, kept); len(owned) > 0 {
		return "the StatefulSet controller keeps the volume claims " + strings.Join(owned, ", "), nil
	}
	without := &State{Vault: s.Vault, Claims: s.Claims}
	return "", cmp.Or(without.Refusal(), without.pending())
}

// remove deletes the StatefulSet, which was prepared.
func (r Renewal) remove(ctx context.Context, s *State) (waits string, err error) {
	if !hasRetention(s.Set, kept) || len(notFollowed(s.Claims, s.Set, kept)) > 0 {
		return "", fmt.Errorf("StatefulSet %q would be deleted with its volumes", s.Set.Name)
	}
	ctrl.LoggerFrom(ctx).Info("Replacing a StatefulSet without its pods, for its volumes are larger now",
		"namespace", s.Set.Namespace, "statefulSet", s.Set.Name)
	err = r.Client.Delete(ctx, s.Set, client.Preconditions{UID: &s.Set.UID},
		client.PropagationPolicy(metav1.DeletePropagationOrphan))
	return "the one before is gone", client.IgnoreNotFound(err)
}

// hasOtherTemplate says that the StatefulSet makes volumes of another size.
func (s *State) hasOtherTemplate(size resource.Quantity) bool {
	if s.Set == nil || s.replaceable() {
		return false
	}
	template := request(claimTemplate(s.Set))
	return !template.IsZero() && template.Cmp(size) != 0
}

// renewable is why the StatefulSet must not be made anew now, or nil.
func (s *State) renewable(size resource.Quantity) error {
	if s.Vault.DeletionTimestamp != nil {
		return errors.New("the Vault is being deleted")
	}
	wanted := s.layout().volumeSize
	if wanted == nil || wanted.Cmp(size) != 0 {
		return errors.New("the spec has changed while it was rendered")
	}
	if err := cmp.Or(s.changeRefusal(), s.volumesPending()); err != nil {
		return err
	}
	if time.Since(s.Set.CreationTimestamp.Time) < renewableAfter {
		return fmt.Errorf("StatefulSet %q was made less than %v ago: waiting until it may be made anew, for larger volumes",
			s.Set.Name, renewableAfter)
	}
	return nil
}
