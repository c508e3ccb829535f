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
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/manifests"
)

// renewableAfter is how old a StatefulSet is before it is made anew. The garbage collector has to know
// which pods are its own: it takes those that it does not know for pods of one that is gone, and
// deletes them.
const renewableAfter = 30 * time.Second

// RenewGate deletes a StatefulSet without its pods and claims when larger volumes are rendered
// for it and are there, because its claim template cannot be changed. Helm makes it again in the
// same reconcile. It has to be the last gate: all others compare what is rendered with the
// StatefulSet that there is, and where one refuses, its pods shall not be without one.
func RenewGate(c client.Client, apiReader client.Reader, vault client.ObjectKey) postrender.PostRenderer {
	return manifests.Gate(c, vault, func(ctx context.Context, vault *v1alpha1.Vault, rendered manifests.Manifests) error {
		var wanted appsv1.StatefulSet
		found, err := rendered.Find("StatefulSet", layoutOf(vault).set, &wanted)
		if err != nil || !found {
			return err
		}
		size := request(claimTemplate(&wanted))
		if s, err := Load(ctx, c, vault); err != nil || !s.hasOtherTemplate(size) {
			return err
		}
		return renewal{writer: c, reader: apiReader, vault: vault, size: size}.await(ctx)
	})
}

// renewal makes one StatefulSet anew. The reader must not be a cache.
type renewal struct {
	writer client.Writer
	reader client.Reader
	vault  *v1alpha1.Vault
	// size is that of the volumes in what is rendered.
	size resource.Quantity
}

// await returns nil when nothing is in the way of what is rendered.
func (r renewal) await(ctx context.Context) error {
	for {
		waits, err := r.step(ctx)
		if err != nil || waits == "" {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("StatefulSet %q is being made anew, for larger volumes: waiting until %s",
				layoutOf(r.vault).set, waits)
		case <-time.After(followEvery):
		}
	}
}

// step does what can be done now, and says what it waits for, or nothing.
func (r renewal) step(ctx context.Context) (waits string, err error) {
	s, err := Load(ctx, r.reader, r.vault)
	if err != nil || !s.hasOtherTemplate(r.size) {
		return "", err
	}
	if s.Set.DeletionTimestamp != nil {
		return "the one before is gone", nil
	}
	if err := s.renewable(r.size); err != nil {
		return "", err
	}
	// Claims must not go with it.
	const kept = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	if err := setRetention(ctx, r.writer, s.Set, kept); err != nil {
		return "", err
	}
	if owned := notFollowed(s.Claims, s.Set, kept); len(owned) > 0 {
		return "the StatefulSet controller keeps the volume claims " + strings.Join(owned, ", "), nil
	}
	without := &State{Vault: s.Vault, Claims: s.Claims}
	if err := cmp.Or(without.Refusal(), without.pending()); err != nil {
		return "", err // it could not be made again
	}
	ctrl.LoggerFrom(ctx).Info("Replacing a StatefulSet without its pods, for its volumes are larger now",
		"namespace", s.Set.Namespace, "statefulSet", s.Set.Name)
	err = r.writer.Delete(ctx, s.Set, client.Preconditions{UID: &s.Set.UID},
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
	wanted := s.layout().volumeSize
	if wanted == nil || wanted.Cmp(size) != 0 {
		return errors.New("the spec has changed while it was rendered")
	}
	if err := s.changeRefusal(); err != nil {
		return err
	}
	if err := s.volumesPending(); err != nil {
		return err
	}
	if time.Since(s.Set.CreationTimestamp.Time) < renewableAfter {
		return fmt.Errorf("StatefulSet %q was made less than %v ago: waiting until it may be made anew, for larger volumes",
			s.Set.Name, renewableAfter)
	}
	return nil
}
