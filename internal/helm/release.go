package helm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	helmclient "github.com/operator-framework/helm-operator-plugins/pkg/client"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chart"
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

// Upgrade upgrades the release. Of revisions that failed Helm has patched what the API
// server accepted, and it merges with the last deployed one alone: what only a failed one
// had would stay forever. So that is taken away before.
func (c unlockingClient) Upgrade(
	name, namespace string, chrt *chart.Chart, vals map[string]any, opts ...helmclient.UpgradeOption,
) (*release.Release, error) {
	upgrade := func(more ...helmclient.UpgradeOption) (*release.Release, error) {
		return c.ActionInterface.Upgrade(name, namespace, chrt, vals, slices.Concat(opts, more)...)
	}
	options := action.NewUpgrade(c.Config())
	for _, o := range opts {
		if err := o(options); err != nil {
			return nil, err
		}
	}
	if options.DryRun {
		return upgrade()
	}
	failed, err := c.failed(name)
	if err != nil {
		return nil, err
	}
	if len(failed) == 0 {
		return upgrade()
	}
	wanted, err := upgrade(func(u *action.Upgrade) error { u.DryRun = true; return nil })
	if err != nil {
		return upgrade() // it records the revision that cannot be rendered
	}
	var left error
	for _, manifest := range failed {
		if err := c.takeBack(manifest, wanted.Manifest); err != nil {
			left = fmt.Errorf("taking back what a failed revision has left: %w", err)
		}
	}
	rel, err := upgrade()
	if err == nil && left != nil {
		// It is tried again as long as the last revision has failed.
		rel.SetStatus(release.StatusFailed, left.Error())
		return rel, errors.Join(left, c.Config().Releases.Update(rel))
	}
	return rel, err
}

// failed returns the manifests of the revisions that failed since one was deployed.
func (c unlockingClient) failed(name string) ([]string, error) {
	history, err := c.Config().Releases.History(name)
	if err != nil {
		return nil, fmt.Errorf("the revisions of release %s: %w", name, err)
	}
	slices.SortFunc(history, func(a, b *release.Release) int { return b.Version - a.Version })
	var failed []string
	for _, rel := range history {
		if rel.Info.Status != release.StatusFailed {
			break
		}
		if !slices.Contains(failed, rel.Manifest) {
			failed = append(failed, rel.Manifest)
		}
	}
	return failed, nil
}

// takeBack patches and deletes what the manifest of a failed revision has and the wanted
// one has not.
func (c unlockingClient) takeBack(failed, wanted string) error {
	kube := c.Config().KubeClient
	original, err := kube.Build(strings.NewReader(failed), false)
	if err != nil {
		return err
	}
	target, err := kube.Build(strings.NewReader(wanted), false)
	if err != nil {
		return err
	}
	_, err = kube.Update(original, target.Intersect(original), false)
	return err
}
