// Package releases keeps Helm's records of the Vaults' releases.
//
// Helm does what a record says, with the rights of who runs it: it deletes the
// objects that the manifest names, in any namespace, and runs the hooks. Helm
// keeps records beside what they describe, where for an operator anybody is who
// may write Secrets in the namespace of a Vault. So the operator keeps them in
// its own namespace, by Helm's own scheme, with the UID of the Vault as the name
// of the release:
//
//	helm -n vault-operator-system get manifest UID
//
// A record in the namespace of a Vault is another matter. One that an earlier
// version of the operator has left there is imported once, if nothing in it
// reaches beyond the Vault. Any other is of somebody else's release of the same
// name: it is not touched, and the Vault is not deployed beside it.
package releases

import (
	"context"
	"fmt"
	"sync"

	"helm.sh/helm/v3/pkg/storage/driver"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// VaultNamespaceLabel is on each record: the namespace of its Vault.
	VaultNamespaceLabel = "vault.security.coreos.com/vault-namespace"
	// vaultNameLabel is on each record: the name of its Vault.
	vaultNameLabel = "vault.security.coreos.com/vault-name"

	// Labels of Helm.
	ownerLabel   = "owner"
	ownerHelm    = "helm"
	nameLabel    = "name"
	statusLabel  = "status"
	versionLabel = "version"
	// secretType is the type of Helm's records.
	secretType = corev1.SecretType("helm.sh/release.v1")
	// dataKey holds the release.
	dataKey = "release"
)

// Reasons of events.
const (
	reasonConflict   = "ReleaseConflict"
	reasonUnreadable = "RecordUnreadable"
	reasonIgnored    = "RecordIgnored"
)

// Store holds the records of all Vaults.
type Store struct {
	// Namespace is the operator's own, where nobody writes who is no
	// administrator of the operator.
	Namespace string
	// Chart is the name of the chart that renders Vaults.
	Chart string
	// Client writes, and APIReader reads from the API server.
	Client    client.Client
	APIReader client.Reader
	Recorder  record.EventRecorder
	Clock     clock.PassiveClock

	// conflicts are the conflictErrors by the UID of the Vault, as found when its
	// record was looked for the last time.
	conflicts sync.Map
	// importing bounds the memory that forged records can take: one at a time.
	importing sync.Mutex
}

// conflictError says that the namespace of a Vault has a Helm release of the
// Vault's name that is not the Vault's.
type conflictError struct {
	// Release is the name, and Secret holds a record of it.
	Release, Secret string
	// Leftover says that it belongs to an earlier Vault of the same name.
	Leftover bool
}

func (e *conflictError) Error() string {
	if e.Leftover {
		return fmt.Sprintf("waiting for the deletion of Secret %q, a Helm record of an earlier Vault %q", e.Secret, e.Release)
	}
	return fmt.Sprintf("the namespace has a Helm release %q that is not of this Vault (Secret %q): "+
		"uninstall that release, or give the Vault another name; if nothing but the Secret is left of it, delete the Secret",
		e.Release, e.Secret)
}

// Driver is the storage driver for the release of one Vault, for as long as the
// Vault is being reconciled: it reads the records once.
func (s *Store) Driver(ctx context.Context, vault client.Object, _ *rest.Config) (driver.Driver, error) {
	// What Helm has begun it records to the end, also while the operator stops.
	return &vaultDriver{store: s, ctx: context.WithoutCancel(ctx), vault: vault}, nil
}

// Check says whether a foreign release is in the way of the Vault, as it was when
// a driver looked for the record of the Vault.
func (s *Store) Check(vault types.UID) error {
	if conflict, found := s.conflicts.Load(vault); found {
		return conflict.(*conflictError)
	}
	return nil
}
