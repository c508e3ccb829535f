package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// tokenLifetime is longer than any run.
const tokenLifetime = 24 * time.Hour

// controlPlane is a kube-apiserver with its etcd, in which all of config/default is
// installed but the operator's pods.
type controlPlane struct {
	env    *envtest.Environment
	config *rest.Config
	admin  client.Client
	audit  *auditLog
	// deployment says how the operator is run.
	deployment appsv1.Deployment
}

func startControlPlane(ctx context.Context, tree string) (*controlPlane, error) {
	existing := false
	p := &controlPlane{audit: &auditLog{}, env: &envtest.Environment{
		UseExistingCluster:    &existing,
		CRDDirectoryPaths:     []string{filepath.Join(tree, "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}}
	policy, err := p.audit.writePolicy()
	if err != nil {
		return p, err
	}
	defer func() { _ = os.Remove(policy) }()
	server := p.env.ControlPlane.GetAPIServer()
	server.Out = p.audit
	args := server.Configure()
	args.Set("audit-policy-file", policy)
	args.Set("audit-log-path", "-")
	// Each Vault has two Services with an address, and the default range has 254.
	args.Set("service-cluster-ip-range", "10.0.0.0/16")
	args.Append("enable-admission-plugins", "OwnerReferencesPermissionEnforcement")
	if p.config, err = p.env.Start(); err != nil {
		return p, fmt.Errorf("starting the control plane: %w", err)
	}
	p.config.QPS = -1 // this program's own requests must not wait
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return p, err
	}
	if p.admin, err = client.New(p.config, client.Options{Scheme: scheme}); err != nil {
		return p, err
	}
	return p, p.install(ctx, tree)
}

func (p *controlPlane) stop() error { return p.env.Stop() }

// install creates what config/default has, but for the CRD, which is there, and the
// Deployment, which is kept to run the operator by.
func (p *controlPlane) install(ctx context.Context, tree string) error {
	kubectl := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	text, err := exec.CommandContext(ctx, kubectl, "kustomize", filepath.Join(tree, "config", "default")).Output()
	if err != nil {
		return fmt.Errorf("rendering config/default: %w", err)
	}
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		var object unstructured.Unstructured
		if err := decoder.Decode(&object.Object); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		switch object.GetKind() {
		case "", "CustomResourceDefinition":
			continue
		case "Deployment":
			err = runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &p.deployment)
		default:
			err = p.admin.Create(ctx, &object)
		}
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
	}
	if p.deployment.Name == "" {
		return errors.New("config/default has no Deployment")
	}
	p.audit.user(fmt.Sprintf("system:serviceaccount:%s:%s",
		p.deployment.Namespace, p.deployment.Spec.Template.Spec.ServiceAccountName))
	return nil
}

// token returns one of a ServiceAccount of the operator's namespace.
func (p *controlPlane) token(ctx context.Context, account string) (string, error) {
	seconds := int64(tokenLifetime.Seconds())
	request := authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	object := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: p.deployment.Namespace, Name: account}}
	if err := p.admin.SubResource("token").Create(ctx, object, &request); err != nil {
		return "", fmt.Errorf("token of ServiceAccount %s: %w", account, err)
	}
	return request.Status.Token, nil
}

// metricsToken returns a token of somebody who may read metrics.
func (p *controlPlane) metricsToken(ctx context.Context) (string, error) {
	const name = "bench-metrics-reader"
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: p.deployment.Namespace, Name: name}}
	role := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules:      []rbacv1.PolicyRule{{NonResourceURLs: []string{"/metrics"}, Verbs: []string{"get"}}},
	}
	binding := &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: account.Namespace, Name: name}},
	}
	for _, object := range []client.Object{account, role, binding} {
		if err := p.admin.Create(ctx, object); err != nil {
			return "", err
		}
	}
	return p.token(ctx, name)
}

// auditLog counts the requests of the operator. The API server writes its audit
// log to it.
type auditLog struct {
	mu      sync.Mutex
	name    string
	rest    []byte
	counts  map[string]int
	lastOne time.Time
}

// writePolicy writes the audit policy and returns its file.
func (a *auditLog) writePolicy() (string, error) {
	file, err := os.CreateTemp("", "vault-operator-scale-audit-")
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(`apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- level: None
  verbs: [watch]
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
`)
	return file.Name(), errors.Join(err, file.Close())
}

// user says whose requests count.
func (a *auditLog) user(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.name = name
}

// Write takes a part of the log.
func (a *auditLog) Write(part []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rest = append(a.rest, part...)
	for {
		line, rest, complete := bytes.Cut(a.rest, []byte("\n"))
		if !complete {
			return len(part), nil
		}
		a.count(line)
		a.rest = rest
	}
}

func (a *auditLog) count(line []byte) {
	var r struct {
		Verb       string
		RequestURI string
		User       struct{ Username string }
		ObjectRef  struct{ Resource, Subresource string }
	}
	if json.Unmarshal(line, &r) != nil || a.name == "" || r.User.Username != a.name {
		return
	}
	if a.counts == nil {
		a.counts = map[string]int{}
	}
	a.counts[kindOf(r.Verb, r.ObjectRef.Resource, r.ObjectRef.Subresource, r.RequestURI)]++
	if r.ObjectRef.Resource != "leases" {
		a.lastOne = time.Now()
	}
}

// kindOf names a kind of request.
func kindOf(verb, resource, subresource, uri string) string {
	switch {
	case resource == "":
		return verb + " " + uri
	case subresource != "":
		return verb + " " + resource + "/" + subresource
	}
	return verb + " " + resource
}

// snapshot returns the requests so far, by kind.
func (a *auditLog) snapshot() requests {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := requests{}
	for kind, n := range a.counts {
		r[kind] = float64(n)
	}
	return r
}

// quietFor says for how long the operator has made no request but for its lease.
func (a *auditLog) quietFor() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Since(a.lastOne)
}
