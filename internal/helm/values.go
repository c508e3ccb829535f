package helm

import (
	"context"
	"time"

	"github.com/operator-framework/helm-operator-plugins/pkg/values"
	"helm.sh/helm/v3/pkg/chartutil"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/vaultconfig"
)

// asTheyAre maps the translated values to themselves.
var asTheyAre = values.MapperFunc(func(v chartutil.Values) chartutil.Values { return v })

// translator turns the spec of a Vault into the values of the chart.
//
// It is also the gate before everything that runs: while the user's
// configuration or certificates cannot be used it fails, the release stays as
// it is, and the Vault that runs is not touched. The reconciler is called again
// when one of the objects that the Vault names has changed.
type translator struct {
	client client.Client
	// live reads from the API server.
	live client.Reader
}

// Translate returns the values: the spec, with the configuration in place of
// the name of its ConfigMap, and the mark that an operator runs the release.
func (t *translator) Translate(ctx context.Context, obj *unstructured.Unstructured) (chartutil.Values, error) {
	var vault v1alpha1.Vault
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(obj.Object, &vault); err != nil {
		return nil, err
	}
	config, err := vaultconfig.Load(ctx, t.live, &vault)
	if err != nil {
		return nil, err
	}
	// Certificates come first, so that no pod has to wait for a Secret to mount.
	if err := certs.Ensure(ctx, t.client, t.live, &vault); err != nil {
		return nil, err
	}
	if err := certs.Check(ctx, t.live, &vault, time.Now()); err != nil {
		return nil, err
	}
	spec, _, err := unstructured.NestedMap(obj.Object, "spec")
	if err != nil {
		return nil, err
	}
	delete(spec, "configMapName")
	spec["config"] = config
	spec["operated"] = true
	return spec, nil
}
