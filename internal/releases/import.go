package releases

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"helm.sh/helm/v3/pkg/release"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// maxOld is how many records of a name are looked at in the namespace of a Vault,
// where users may have made any number.
const maxOld = 100

// importOld looks in the namespace of the Vault for a release of its name, when
// there is no record in the operator's: the Vault is new, the record is lost, or
// it was left by a version of the operator that kept records there.
func (d *vaultDriver) importOld() error {
	// Without their content, which can be a megabyte each.
	var list metav1.PartialObjectMetadataList
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("SecretList"))
	err := d.store.APIReader.List(d.ctx, &list, client.InNamespace(d.vault.GetNamespace()), client.Limit(maxOld),
		client.MatchingLabels{ownerLabel: ownerHelm, nameLabel: d.vault.GetName()})
	if err != nil {
		return err
	}
	var own []*metav1.ObjectMeta
	var foreign *metav1.PartialObjectMetadata
	for i := range list.Items {
		if metav1.IsControlledBy(&list.Items[i], d.vault) {
			own = append(own, &list.Items[i].ObjectMeta)
		} else {
			foreign = &list.Items[i]
		}
	}
	if len(own) > 0 {
		return d.importNewest(own)
	}
	if foreign != nil && d.vault.GetDeletionTimestamp().IsZero() {
		d.refuse(foreign)
	}
	return nil
}

// refuse remembers a release that is not the Vault's, so that nothing is deployed
// beside it.
func (d *vaultDriver) refuse(secret *metav1.PartialObjectMetadata) {
	conflict := &conflictError{Release: d.vault.GetName(), Secret: secret.Name}
	if owner := metav1.GetControllerOf(secret); owner != nil {
		conflict.Leftover = owner.Kind == "Vault" && owner.APIVersion == v1alpha1.GroupVersion.String()
	}
	d.store.conflicts.Store(d.vault.GetUID(), conflict)
	if !conflict.Leftover {
		d.store.Recorder.Event(d.vault, corev1.EventTypeWarning, reasonConflict, conflict.Error())
	}
}

// importNewest takes over the newest deployed revision, and removes the records
// of the Vault in its namespace. If the revision cannot be taken over, it is left
// to the garbage collector, and what runs is adopted as if there were no record.
func (d *vaultDriver) importNewest(own []*metav1.ObjectMeta) error {
	newest := own[0]
	for _, meta := range own[1:] {
		if newer(meta, newest) {
			newest = meta
		}
	}
	rel, err := d.readOld(newest)
	if err != nil {
		var refused *refusedError
		if errors.As(err, &refused) {
			d.store.Recorder.Eventf(d.vault, corev1.EventTypeWarning, reasonIgnored,
				"Secret %q, a Helm record of an earlier version of the operator, is not used: %v",
				newest.Name, refused.error)
			return nil
		}
		return err
	}
	if err := d.write(rel, func(secret *corev1.Secret) error { return d.store.Client.Create(d.ctx, secret) }); err != nil {
		return err
	}
	for _, meta := range own {
		if err := d.store.remove(d.ctx, meta); err != nil {
			return fmt.Errorf("removing the old record %s: %w", meta.Name, err)
		}
	}
	return nil
}

// refusedError is what is wrong with an old record.
type refusedError struct{ error }

func (d *vaultDriver) readOld(meta *metav1.ObjectMeta) (*release.Release, error) {
	var secret corev1.Secret
	key := client.ObjectKey{Namespace: meta.Namespace, Name: meta.Name}
	if err := d.store.APIReader.Get(d.ctx, key, &secret); err != nil {
		return nil, err
	}
	d.store.importing.Lock()
	defer d.store.importing.Unlock()
	if secret.Type != secretType {
		return nil, &refusedError{errors.New("it is not of the type " + string(secretType))}
	}
	rel, err := fromTenant(secret.Data[dataKey], d.vault, d.store.Chart)
	if err != nil {
		return nil, &refusedError{err}
	}
	return rel, nil
}

// newer says that a is rather the revision that is deployed than b.
func newer(a, b *metav1.ObjectMeta) bool {
	deployed := release.StatusDeployed.String()
	if is, was := a.Labels[statusLabel] == deployed, b.Labels[statusLabel] == deployed; is != was {
		return is
	}
	return revisionOf(a) > revisionOf(b)
}

func revisionOf(meta *metav1.ObjectMeta) int {
	revision, err := strconv.Atoi(meta.Labels[versionLabel])
	if err != nil {
		return 0
	}
	return revision
}

// RemovedHandler reconciles the Vault that had to wait until a foreign release of
// its name was gone. It is for metadata of Secrets, with Removed.
func RemovedHandler() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, secret client.Object) []reconcile.Request {
		name := client.ObjectKey{Namespace: secret.GetNamespace(), Name: secret.GetLabels()[nameLabel]}
		return []reconcile.Request{{NamespacedName: name}}
	})
}

// Removed passes the removal of a record of Helm.
func Removed() predicate.Predicate {
	return predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		UpdateFunc:  func(event.UpdateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		DeleteFunc: func(e event.DeleteEvent) bool {
			labels := e.Object.GetLabels()
			return labels[ownerLabel] == ownerHelm && labels[nameLabel] != "" && labels[vaultNameLabel] == ""
		},
	}
}
