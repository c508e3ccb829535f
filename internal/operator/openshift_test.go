package operator

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// Not to know whether the cluster is OpenShift is an error, and not a "no".
func TestIsOpenShift(t *testing.T) {
	for name, tt := range map[string]struct {
		groups      []string
		unavailable bool
		want, fails bool
	}{
		"Kubernetes":         {groups: []string{"apps", "policy"}},
		"OpenShift":          {groups: []string{"apps", "security.openshift.io"}, want: true},
		"no answer":          {unavailable: true, fails: true},
		"another of its own": {groups: []string{"route.openshift.io"}},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tt.unavailable {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				var response any = metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}}
				if r.URL.Path == "/apis" {
					list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
					for _, group := range tt.groups {
						version := metav1.GroupVersionForDiscovery{GroupVersion: group + "/v1", Version: "v1"}
						list.Groups = append(list.Groups,
							metav1.APIGroup{Name: group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version})
					}
					response = list
				}
				if err := json.NewEncoder(w).Encode(response); err != nil {
					t.Error(err)
				}
			}))
			defer server.Close()
			got, err := isOpenShift(&rest.Config{Host: server.URL}, server.Client())
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("OpenShift %v, error %v", got, err)
			}
		})
	}
}
