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
	"github.com/vault-operator/vault-operator/internal/manifests"
	"github.com/vault-operator/vault-operator/internal/storage"
)

// retaining hands out action clients that have the volumes of a Vault kept or
// deleted as its spec says when it is uninstalled, be it deployed or not, and that make a
// StatefulSet anew which is not as the release has it.
type retaining struct {
	helmclient.ActionClientGetter
	apiReader client.Reader
	writer    client.Writer
	renewal   func(vault client.ObjectKey) storage.Renewal
}

func (r retaining) ActionClientFor(ctx context.Context, obj client.Object) (helmclient.ActionInterface, error) {
	actions, err := r.ActionClientGetter.ActionClientFor(ctx, obj)
	if err != nil {
		return nil, err
	}
	renewal := r.renewal(client.ObjectKeyFromObject(obj))
	makeWay := func(manifest string) error { return renewal.MakeWayFor(ctx, manifests.Manifests(manifest)) }
	return retainingClient{actions, makeWay, func() error {
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
	makeWay        func(manifest string) error
	applyRetention func() error
}

// Reconcile makes what is deployed as the release has it.
func (c retainingClient) Reconcile(rel *release.Release) error {
	if err := c.makeWay(rel.Manifest); err != nil {
		return err
	}
	return c.ActionInterface.Reconcile(rel)
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
