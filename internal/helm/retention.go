package helm

import (
	"context"
	"fmt"

	helmclient "github.com/operator-framework/helm-operator-plugins/pkg/client"
	"helm.sh/helm/v3/pkg/release"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/storage"
)

// retaining hands out action clients that have the volumes of a Vault kept or
// deleted as its spec says when it is uninstalled, be it deployed or not.
type retaining struct {
	helmclient.ActionClientGetter
	apiReader client.Reader
	writer    client.Writer
}

func (r retaining) ActionClientFor(ctx context.Context, obj client.Object) (helmclient.ActionInterface, error) {
	actions, err := r.ActionClientGetter.ActionClientFor(ctx, obj)
	if err != nil {
		return nil, err
	}
	return retainingClient{actions, func() error {
		content, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return fmt.Errorf("a %T is not a Vault", obj)
		}
		var vault v1alpha1.Vault
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content.Object, &vault); err != nil {
			return err
		}
		return storage.ApplyRetention(ctx, r.apiReader, r.writer, &vault)
	}}, nil
}

type retainingClient struct {
	helmclient.ActionInterface
	applyRetention func() error
}

// Uninstall uninstalls the release when the volumes are marked as the spec says.
func (c retainingClient) Uninstall(
	name string, opts ...helmclient.UninstallOption,
) (*release.UninstallReleaseResponse, error) {
	if err := c.applyRetention(); err != nil {
		return nil, err
	}
	return c.ActionInterface.Uninstall(name, opts...)
}
