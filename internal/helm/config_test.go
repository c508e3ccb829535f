package helm

import (
	"errors"
	"testing"

	"helm.sh/helm/v3/pkg/kube"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
)

// Helm uses the result of an update that has failed.
func TestFailedUpdateHasAResult(t *testing.T) {
	failed := errors.New("it failed")
	target := kube.ResourceList{{
		Mapping: &meta.RESTMapping{GroupVersionKind: appsv1.SchemeGroupVersion.WithKind("StatefulSet")},
		Name:    "example-etcd", Object: &appsv1.StatefulSet{},
	}}
	for name, d := range map[string]deploying{
		"it is not known whether it has to be made anew": {
			renewed: func(*appsv1.StatefulSet) (bool, error) { return false, failed }},
		"it cannot be made anew": {
			renewed: func(*appsv1.StatefulSet) (bool, error) { return true, nil },
			makeWay: func(*appsv1.StatefulSet) error { return failed }},
	} {
		t.Run(name, func(t *testing.T) {
			d.Client = &kube.Client{Log: func(string, ...any) {}}
			result, err := d.Update(kube.ResourceList{}, target, false)
			if !errors.Is(err, failed) || result == nil {
				t.Errorf("the result is %v, error %v", result, err)
			}
		})
	}
}
