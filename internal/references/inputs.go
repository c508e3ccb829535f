package references

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/vaultconfig"
)

// Check is about something that a user brings beside the spec. While it cannot be used
// the Helm reconciler deploys nothing, and a condition and an event say why.
type Check struct {
	// Condition is the type of the condition. It is one of v1alpha1.VaultConditions.
	Condition string
	// Accepted is the reason and the message of the condition when nothing is wrong. It is
	// nil when it depends on more than what is checked.
	Accepted func(*v1alpha1.VaultSpec) (reason, message string)
	// Stalls are the reasons with which nothing goes on before the user acts; nil are all.
	Stalls []string
	// objects are what is checked, once for each version of them.
	objects func(*v1alpha1.VaultSpec) []object
	// check returns a *problem.Error of the condition for what the user has to fix; any
	// other error says that the API server could not be read from.
	check func(context.Context, client.Reader, *v1alpha1.Vault) error
}

// Checks are all of them, in the order in which a Vault is refused. The check of the
// certificates is not among them: the Helm reconciler makes those that are missing.
var Checks = []Check{
	{v1alpha1.ConfigValidCondition, vaultconfig.Accepted, nil, configs, vaultconfig.Check},
	{v1alpha1.SealReadyCondition, nil, seal.Stalls, sealSecrets, seal.Check},
}

// Inputs reads what users bring and what the operator makes in its place, once for each
// version of it, for the Helm reconciler and the status alike.
type Inputs struct {
	// Cache holds the metadata of Secrets and ConfigMaps.
	Cache client.Reader
	// APIReader reads from the API server.
	APIReader client.Reader

	checked      memo[map[string]error]
	certificates memo[loaded]
}

// Check runs the Checks. The result is why what the Vault names cannot be used, or could
// not be read, by the type of the condition.
func (i *Inputs) Check(ctx context.Context, vault *v1alpha1.Vault) map[string]error {
	var objects []object
	for _, c := range Checks {
		objects = append(objects, c.objects(&vault.Spec)...)
	}
	results, err := i.checked.Get(ctx, i.Cache, vault, objects, func() (map[string]error, error) {
		results := map[string]error{}
		var unread []error
		for _, c := range Checks {
			err := c.check(ctx, i.APIReader, vault)
			results[c.Condition] = err
			if err != nil && problem.In(err) == nil {
				unread = append(unread, err)
			}
		}
		return results, errors.Join(unread...)
	})
	if results == nil {
		results = map[string]error{}
		for _, c := range Checks {
			results[c.Condition] = err
		}
	}
	return results
}

// Gate returns the first of what Check returns, or nil.
func (i *Inputs) Gate(ctx context.Context, vault *v1alpha1.Vault) error {
	results := i.Check(ctx, vault)
	for _, c := range Checks {
		if err := results[c.Condition]; err != nil {
			return err
		}
	}
	return nil
}

// loaded is what the Secrets with certificates hold, or what is wrong with them.
type loaded struct {
	material *certs.Material
	problem  *problem.Error
}

// Certificates is certs.Load. Made are Secrets that were made a moment ago, so that the
// cache may not have them yet. That any other is missing is believed of the cache: the
// event of a Secret tells when it is there.
func (i *Inputs) Certificates(
	ctx context.Context, vault *v1alpha1.Vault, made ...*corev1.Secret,
) (*certs.Material, error) {
	reader := existing{apiReader: i.APIReader, cache: i.Cache, made: made}
	// While one is being made the others need not be read.
	if err := certs.Missing(ctx, reader, vault); err != nil {
		return nil, err
	}
	result, err := i.certificates.Get(ctx, reader, vault, certificates(vault), func() (loaded, error) {
		material, err := certs.Load(ctx, reader, vault)
		wrong := problem.In(err)
		if wrong != nil {
			err = nil // it is kept for as long as the Secrets stay as they are
		}
		return loaded{material: material, problem: wrong}, err
	})
	if err == nil && result.problem != nil {
		err = result.problem
	}
	return result.material, err
}

// Forget drops what is kept of a Vault that is gone.
func (i *Inputs) Forget(vault types.NamespacedName) {
	i.checked.Forget(vault)
	i.certificates.Forget(vault)
}
