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
	"k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/internal/storage"
)

// capabilitiesAge is for how long the version of the API server and its kinds are
// believed. The chart depends on the version, which changes when the server restarts.
const capabilitiesAge = 10 * time.Minute

// sparing hands out configurations with which Helm does not request what the API server
// can do, nor whether it can be reached, for each release anew.
type sparing struct {
	helmclient.ActionConfigGetter
	// renewal makes StatefulSets of a Vault anew.
	renewal func(vault client.ObjectKey) storage.Renewal

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
		renewal := s.renewal(client.ObjectKeyFromObject(obj))
		config.KubeClient = deploying{
			Client:  c,
			renewed: func(set *appsv1.StatefulSet) (bool, error) { return renewal.Needed(ctx, set) },
			makeWay: func(set *appsv1.StatefulSet) error { return renewal.MakeWay(ctx, set) },
		}
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

// deploying is a client that makes StatefulSets anew which cannot become what they are to be, and does not try
// whether it has a connection before it uses it.
type deploying struct {
	*kube.Client
	// renewed says that a StatefulSet has to be made anew to become what it is to be, and makeWay deletes the one
	// that there is.
	renewed func(*appsv1.StatefulSet) (bool, error)
	makeWay func(*appsv1.StatefulSet) error
}

// IsReachable returns nil.
func (deploying) IsReachable() error { return nil }

// Update changes what is deployed. A StatefulSet that is made anew comes last, so that its pods are not without
// one because something else cannot be changed. The result is never nil: Helm uses it also when there is an error.
func (d deploying) Update(original, target kube.ResourceList, force bool) (*kube.Result, error) {
	anew, err := d.anew(target)
	if err != nil {
		return &kube.Result{}, err
	}
	result, err := d.Client.Update(original.Difference(anew), target.Difference(anew), force)
	if err != nil || len(anew) == 0 {
		return result, err
	}
	for _, info := range anew {
		set, err := statefulSet(info)
		if err == nil {
			err = d.makeWay(set)
		}
		if err != nil {
			return result, err
		}
	}
	made, err := d.Client.Update(kube.ResourceList{}, anew, force)
	result.Created = append(result.Created, made.Created...)
	result.Updated = append(result.Updated, made.Updated...)
	return result, err
}

// anew are the StatefulSets that have to be made anew.
func (d deploying) anew(target kube.ResourceList) (anew kube.ResourceList, err error) {
	for _, info := range target {
		if info.Mapping.GroupVersionKind != appsv1.SchemeGroupVersion.WithKind("StatefulSet") {
			continue
		}
		set, err := statefulSet(info)
		if err != nil {
			return nil, err
		}
		must, err := d.renewed(set)
		if err != nil {
			return nil, err
		}
		if must {
			anew = append(anew, info)
		}
	}
	return anew, nil
}

func statefulSet(info *resource.Info) (*appsv1.StatefulSet, error) {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(info.Object)
	if err != nil {
		return nil, err
	}
	var set appsv1.StatefulSet
	return &set, runtime.DefaultUnstructuredConverter.FromUnstructured(content, &set)
}
