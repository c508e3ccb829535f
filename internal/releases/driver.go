package releases

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"helm.sh/helm/v3/pkg/release"
	"helm.sh/helm/v3/pkg/storage"
	"helm.sh/helm/v3/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// vaultDriver is Helm's storage for the release of one Vault. Helm calls it with
// the Vault's name as that of the release. It is used by one reconcile, and only
// the leader reconciles, so nobody else writes these records meanwhile.
type vaultDriver struct {
	store *Store
	ctx   context.Context // Helm's interface has none
	vault client.Object

	loaded bool
	// entries are the records by the name of their Secret.
	entries map[string]*entry
}

// entry is a record in the operator's namespace.
type entry struct {
	meta metav1.ObjectMeta
	// text is the release in JSON; it is nil when the record cannot be read.
	text []byte
}

// Name is for Helm's log.
func (d *vaultDriver) Name() string { return "Secrets of the operator" }

// Get returns a revision of the release.
func (d *vaultDriver) Get(key string) (*release.Release, error) {
	if err := d.load(); err != nil {
		return nil, err
	}
	e := d.entries[d.secretName(key)]
	if e == nil || e.text == nil {
		return nil, driver.ErrReleaseNotFound
	}
	return parse(e.text, d.vault)
}

// List returns the revisions that pass the filter. Records that cannot be read
// are left out: an event told of them when they were loaded.
func (d *vaultDriver) List(filter func(*release.Release) bool) ([]*release.Release, error) {
	if err := d.load(); err != nil {
		return nil, err
	}
	var found []*release.Release
	for _, name := range slices.Sorted(maps.Keys(d.entries)) {
		if d.entries[name].text == nil {
			continue
		}
		// Helm changes what it gets, so each is made anew.
		rel, err := parse(d.entries[name].text, d.vault)
		if err != nil {
			return nil, err
		}
		if filter(rel) {
			found = append(found, rel)
		}
	}
	return found, nil
}

// Query returns the revisions with these labels.
func (d *vaultDriver) Query(labels map[string]string) ([]*release.Release, error) {
	found, err := d.List(func(rel *release.Release) bool {
		has := helmLabels(rel)
		for key, value := range labels {
			if has[key] != value {
				return false
			}
		}
		return true
	})
	if err == nil && len(found) == 0 {
		err = driver.ErrReleaseNotFound
	}
	return found, err
}

// Create adds a revision. It takes the place of a record that cannot be read.
func (d *vaultDriver) Create(key string, rel *release.Release) error {
	if err := d.load(); err != nil {
		return err
	}
	if err := d.store.Check(d.vault.GetUID()); err != nil {
		return err
	}
	if old := d.entries[d.secretName(key)]; old != nil {
		if old.text != nil {
			return driver.ErrReleaseExists
		}
		if err := d.store.remove(d.ctx, &old.meta); err != nil {
			return err
		}
	}
	return d.write(rel, func(secret *corev1.Secret) error {
		err := d.store.Client.Create(d.ctx, secret)
		if apierrors.IsAlreadyExists(err) {
			return driver.ErrReleaseExists
		}
		return err
	})
}

// Update changes a revision.
func (d *vaultDriver) Update(key string, rel *release.Release) error {
	if err := d.load(); err != nil {
		return err
	}
	old := d.entries[d.secretName(key)]
	if old == nil {
		return driver.ErrReleaseNotFound
	}
	return d.write(rel, func(secret *corev1.Secret) error {
		secret.ResourceVersion = old.meta.ResourceVersion
		return d.store.Client.Update(d.ctx, secret)
	})
}

// Delete removes a revision.
func (d *vaultDriver) Delete(key string) (*release.Release, error) {
	rel, err := d.Get(key)
	if err != nil {
		return nil, err
	}
	name := d.secretName(key)
	if err := d.store.remove(d.ctx, &d.entries[name].meta); err != nil {
		return nil, err
	}
	delete(d.entries, name)
	return rel, nil
}

// load reads the records, once.
func (d *vaultDriver) load() error {
	if d.loaded {
		return nil
	}
	var list corev1.SecretList
	err := d.store.APIReader.List(d.ctx, &list, client.InNamespace(d.store.Namespace),
		client.MatchingLabels{ownerLabel: ownerHelm, nameLabel: string(d.vault.GetUID())})
	if err != nil {
		return fmt.Errorf("reading the records of the release: %w", err)
	}
	d.entries = map[string]*entry{}
	for i := range list.Items {
		secret := &list.Items[i]
		text, err := d.read(secret)
		if err != nil {
			d.store.Recorder.Eventf(d.vault, corev1.EventTypeWarning, reasonUnreadable,
				"Secret %s/%s, a record of the Helm release, cannot be read: %v", secret.Namespace, secret.Name, err)
		}
		d.entries[secret.Name] = &entry{secret.ObjectMeta, text}
	}
	d.store.conflicts.Delete(d.vault.GetUID())
	if len(d.entries) == 0 {
		if err := d.importOld(); err != nil {
			return fmt.Errorf("looking for a release of the name %q: %w", d.vault.GetName(), err)
		}
	}
	d.loaded = true
	return nil
}

// read returns the release in JSON, if it is one.
func (d *vaultDriver) read(secret *corev1.Secret) ([]byte, error) {
	text, err := unpack(secret.Data[dataKey])
	if err != nil {
		return nil, err
	}
	rel, err := parse(text, d.vault)
	if err == nil && secret.Name != recordName(string(d.vault.GetUID()), rel.Version) {
		err = errors.New("it is of another revision")
	}
	if err != nil {
		return nil, err
	}
	return text, nil
}

// write encodes a release, and keeps what was written.
func (d *vaultDriver) write(rel *release.Release, send func(*corev1.Secret) error) error {
	// The name is the one that the helm command finds the release by.
	stored := *rel
	stored.Name = string(d.vault.GetUID())
	data, err := pack(&stored)
	if err != nil {
		return fmt.Errorf("encoding revision %d: %w", rel.Version, err)
	}
	text, err := unpack(data)
	if err != nil {
		return fmt.Errorf("revision %d: %w", rel.Version, err)
	}
	labels := helmLabels(&stored)
	labels["modifiedAt"] = strconv.FormatInt(d.store.Clock.Now().Unix(), 10)
	labels[VaultNamespaceLabel] = d.vault.GetNamespace()
	labels[vaultNameLabel] = d.vault.GetName()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.store.Namespace, Name: recordName(stored.Name, rel.Version), Labels: labels,
		},
		Type: secretType,
		Data: map[string][]byte{dataKey: data},
	}
	if err := send(secret); err != nil {
		return err
	}
	d.entries[secret.Name] = &entry{secret.ObjectMeta, text}
	return nil
}

// helmLabels are those that Helm finds a record by.
func helmLabels(rel *release.Release) map[string]string {
	return map[string]string{
		ownerLabel: ownerHelm, nameLabel: rel.Name,
		statusLabel: rel.Info.Status.String(), versionLabel: strconv.Itoa(rel.Version),
	}
}

// secretName is the name of the Secret for a key of Helm, which has the name of
// the Vault in it.
func (d *vaultDriver) secretName(key string) string {
	revision := strings.TrimPrefix(key, storage.HelmStorageType+"."+d.vault.GetName())
	return storage.HelmStorageType + "." + string(d.vault.GetUID()) + revision
}

// recordName is the name that Helm gives to the Secret of a record.
func recordName(release string, revision int) string {
	return fmt.Sprintf("%s.%s.v%d", storage.HelmStorageType, release, revision)
}

// remove deletes a Secret, if it is still the same.
func (s *Store) remove(ctx context.Context, meta *metav1.ObjectMeta) error {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: meta.Namespace, Name: meta.Name}}
	return client.IgnoreNotFound(s.Client.Delete(ctx, secret, client.Preconditions{UID: &meta.UID}))
}
