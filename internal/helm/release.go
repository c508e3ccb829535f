package helm

import (
	"context"
	"fmt"

	helmclient "github.com/operator-framework/helm-operator-plugins/pkg/client"
	"helm.sh/helm/v3/pkg/release"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// unlocking hands out action clients that recover a release which was left
// pending: Helm refuses to touch it, because it cannot know that the process
// that was working on it is dead. Here it is known: only the operator's leader
// works on releases, on one Vault at a time.
type unlocking struct{ helmclient.ActionClientGetter }

func (r unlocking) ActionClientFor(ctx context.Context, obj client.Object) (helmclient.ActionInterface, error) {
	actions, err := r.ActionClientGetter.ActionClientFor(ctx, obj)
	if err != nil {
		return nil, err
	}
	return unlockingClient{actions}, nil
}

type unlockingClient struct{ helmclient.ActionInterface }

// Get returns the last revision of the release. It is marked as failed when it
// is pending, which makes the reconciler apply the release again.
func (c unlockingClient) Get(name string, opts ...helmclient.GetOption) (*release.Release, error) {
	rel, err := c.ActionInterface.Get(name, opts...)
	if err != nil || !rel.Info.Status.IsPending() {
		return rel, err
	}
	rel.SetStatus(release.StatusFailed, "the operator stopped while it was working on this revision")
	if err := c.Config().Releases.Update(rel); err != nil {
		return nil, fmt.Errorf("recovering release %s from %s: %w", name, rel.Info.Status, err)
	}
	return rel, nil
}
