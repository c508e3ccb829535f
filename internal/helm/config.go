package helm

import (
	"context"
	"fmt"
	"sync"
	"time"

	helmclient "github.com/operator-framework/helm-operator-plugins/pkg/client"
	"helm.sh/helm/v3/pkg/action"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/kube"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// capabilitiesAge is for how long the version of the API server and its kinds are
// believed. The chart depends on the version, which changes when the server restarts.
const capabilitiesAge = 10 * time.Minute

// sparing hands out configurations with which Helm does not request what the API server
// can do, nor whether it can be reached, for each release anew.
type sparing struct {
	helmclient.ActionConfigGetter
	// renew makes way for a StatefulSet of a Vault.
	renew func(ctx context.Context, vault client.ObjectKey, wanted *appsv1.StatefulSet) error

	mu           sync.Mutex
	capabilities *chartutil.Capabilities
	requested    time.Time
}

// ActionConfigFor returns the configuration for the release of a Vault.
func (s *sparing) ActionConfigFor(ctx context.Context, obj client.Object) (*action.Configuration, error) {
	config, err := s.ActionConfigGetter.ActionConfigFor(ctx, obj)
	if err != nil {
		return nil, err
	}
	if config.Capabilities, err = s.current(config); err != nil {
		return nil, err
	}
	if c, ok := config.KubeClient.(*kube.Client); ok {
		config.KubeClient = deploying{c, func(set *appsv1.StatefulSet) error {
			return s.renew(ctx, client.ObjectKeyFromObject(obj), set)
		}}
	}
	return config, nil
}

func (s *sparing) current(config *action.Configuration) (*chartutil.Capabilities, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.capabilities != nil && time.Since(s.requested) < capabilitiesAge {
		return s.capabilities, nil
	}
	server, err := config.RESTClientGetter.ToDiscoveryClient()
	if err != nil {
		return nil, fmt.Errorf("discovery: %w", err)
	}
	server.Invalidate()
	version, err := server.ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("version of the API server: %w", err)
	}
	// An API service that does not answer is none that the chart needs.
	kinds, err := action.GetVersionSet(server)
	if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
		return nil, fmt.Errorf("kinds of the API server: %w", err)
	}
	s.requested = time.Now()
	s.capabilities = &chartutil.Capabilities{
		APIVersions: kinds,
		KubeVersion: chartutil.KubeVersion{Version: version.GitVersion, Major: version.Major, Minor: version.Minor},
		HelmVersion: chartutil.DefaultCapabilities.HelmVersion,
	}
	return s.capabilities, nil
}

// deploying is a client that makes way for StatefulSets which cannot become what they are to be, and does not
// try whether it has a connection before it uses it.
type deploying struct {
	*kube.Client
	renew func(*appsv1.StatefulSet) error
}

// IsReachable returns nil.
func (deploying) IsReachable() error { return nil }

// Update changes what is deployed.
func (d deploying) Update(original, target kube.ResourceList, force bool) (*kube.Result, error) {
	for _, info := range target {
		if info.Mapping == nil || info.Mapping.GroupVersionKind != appsv1.SchemeGroupVersion.WithKind("StatefulSet") {
			continue
		}
		content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(info.Object)
		var set appsv1.StatefulSet
		if err == nil {
			err = runtime.DefaultUnstructuredConverter.FromUnstructured(content, &set)
		}
		if err == nil {
			err = d.renew(&set)
		}
		if err != nil {
			return nil, err
		}
	}
	return d.Client.Update(original, target, force)
}
