//go:build integration

package integration

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/go-logr/zapr"
	"go.uber.org/zap"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/operator"
)

const (
	// repository is the top of the work tree, seen from this package.
	repository = "../.."
	// operatorUser is who the operator is for the API server: the ServiceAccount
	// that config/default makes.
	operatorUser = "system:serviceaccount:" + operatorNamespace + ":vault-operator-controller-manager"
	// operatorNamespace is where the operator keeps its records.
	operatorNamespace = "vault-operator-system"
	// asOperator makes the test binary run the operator instead of tests. Each
	// operator is a process of its own, so that it can be killed like one.
	asOperator = "VAULT_OPERATOR_TEST_PROCESS"
	// metricsAddress is where such an operator serves its metrics; nowhere, if
	// not set.
	metricsAddress = "VAULT_OPERATOR_TEST_METRICS"
	// watchNamespace are the namespaces that such an operator serves; all, if not set.
	watchNamespace = "VAULT_OPERATOR_TEST_NAMESPACES"
)

// What all tests share; set by TestMain.
var (
	// admin may do everything.
	admin     client.WithWatch
	clientset kubernetes.Interface
	// operatorConfig is the path of the operator's kubeconfig.
	operatorConfig string
	// newUser makes a user with no rights, and returns a kubeconfig.
	newUser func(name string) ([]byte, error)
	// audit is the API server's record of the operator's requests.
	audit *auditLog
)

func TestMain(m *testing.M) {
	if os.Getenv(asOperator) != "" {
		if err := runOperator(); err != nil {
			fmt.Fprintln(os.Stderr, "vault-operator:", err)
			os.Exit(1)
		}
		return
	}
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration tests:", err)
		code = 1
	}
	os.Exit(code)
}

// runOperator runs the operator as main.go does, with its options from the environment.
func runOperator() error {
	logger, err := zap.NewProduction()
	if err != nil {
		return err
	}
	ctrl.SetLogger(zapr.NewLogger(logger))
	return operator.Run(ctrl.SetupSignalHandler(), operator.Options{
		WatchesFile: "watches.yaml", MetricsAddress: cmp.Or(os.Getenv(metricsAddress), "0"), ProbeAddress: "0",
		Namespaces: os.Getenv(watchNamespace), Namespace: operatorNamespace,
	})
}

func runTests(m *testing.M) (int, error) {
	ctrl.SetLogger(zapr.NewLogger(zap.NewNop()))
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		return 0, errors.New("KUBEBUILDER_ASSETS is not set: it has to name a directory with kube-apiserver, etcd and " +
			"kubectl; " +
			"\"make integration\" makes one and sets it")
	}
	dir, err := os.MkdirTemp("", "vault-operator-integration-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()

	existing := false
	env := &envtest.Environment{
		UseExistingCluster:    &existing,
		CRDDirectoryPaths:     []string{filepath.Join(repository, "config", "crd", "bases")},
		ErrorIfCRDPathMissing: true,
	}
	if err := configureAPIServer(env, dir); err != nil {
		return 0, err
	}
	config, err := env.Start()
	defer func() {
		if err := env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "stopping the control plane:", err)
		}
	}()
	if err != nil {
		return 0, fmt.Errorf("starting the control plane: %w", err)
	}
	if err := connect(env, config, dir); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

// configureAPIServer makes the API server as strict as OpenShift's about owner
// references, and lets it record the requests of the operator.
func configureAPIServer(env *envtest.Environment, dir string) error {
	policy := filepath.Join(dir, "audit-policy.yaml")
	err := os.WriteFile(policy, []byte(`apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [watch]
  users: ["`+operatorUser+`"]
  omitStages: [RequestReceived, ResponseComplete]
- level: Metadata
  users: ["`+operatorUser+`"]
- level: None
`), 0o600)
	if err != nil {
		return err
	}
	audit = &auditLog{path: filepath.Join(dir, "audit.log")}
	// TestAnnotationsOfOthersTakeNoMemory can fill more than the 2 GB that etcd allows.
	env.ControlPlane.Etcd = &envtest.Etcd{}
	env.ControlPlane.Etcd.Configure().Set("quota-backend-bytes", strconv.Itoa(8<<30))
	args := env.ControlPlane.GetAPIServer().Configure()
	args.Set("audit-policy-file", policy)
	args.Set("audit-log-path", audit.path)
	args.Append("enable-admission-plugins", "OwnerReferencesPermissionEnforcement")
	return nil
}

// connect makes the clients, and the operator's user with its role.
func connect(env *envtest.Environment, config *rest.Config, dir string) error {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		return err
	}
	config.QPS = -1 // the tests poll, and the API server is theirs
	var err error
	if admin, err = client.NewWithWatch(config, client.Options{Scheme: scheme}); err != nil {
		return err
	}
	if clientset, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	newUser = func(name string) ([]byte, error) {
		user, err := env.AddUser(envtest.User{Name: name}, nil)
		if err != nil {
			return nil, err
		}
		return user.KubeConfig()
	}
	kubeconfig, err := newUser(operatorUser)
	if err != nil {
		return err
	}
	operatorConfig = filepath.Join(dir, "operator.kubeconfig")
	if err := os.WriteFile(operatorConfig, kubeconfig, 0o600); err != nil {
		return err
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: operatorNamespace}}
	if err := admin.Create(context.Background(), namespace); err != nil {
		return err
	}
	return grantRights(context.Background())
}

// grantRights applies what config/default says of the operator's rights, so that a
// permission that is missing from it shows here.
func grantRights(ctx context.Context) error {
	objects, err := build("default")
	if err != nil {
		return err
	}
	for _, obj := range objects {
		switch obj.GroupVersionKind().Group {
		case rbacv1.GroupName, admissionregistrationv1.GroupName:
			if err := admin.Create(ctx, obj); err != nil {
				return fmt.Errorf("%s %s: %w", obj.GetKind(), obj.GetName(), err)
			}
		}
	}
	return nil
}

// build returns what "kubectl apply -k" would apply of a folder of config.
func build(folder string) ([]*unstructured.Unstructured, error) {
	kubectl := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	text, err := exec.Command(kubectl, "kustomize", filepath.Join(repository, "config", folder)).Output()
	if err != nil {
		return nil, fmt.Errorf("kubectl kustomize config/%s: %w", folder, err)
	}
	var objects []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := decoder.Decode(obj); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, fmt.Errorf("config/%s: %w", folder, err)
		}
		objects = append(objects, obj)
	}
}

// bindRole makes a ClusterRole of config/rbac, and binds it to a ServiceAccount until the test ends.
func bindRole(t *testing.T, file, namespace, account string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, "config", "rbac", file))
	if err != nil {
		t.Fatal(err)
	}
	role, binding := &rbacv1.ClusterRole{}, &rbacv1.ClusterRoleBinding{}
	if err := yaml.UnmarshalStrict(text, role); err != nil {
		t.Fatalf("config/rbac/%s: %v", file, err)
	}
	binding.Name = role.Name
	binding.RoleRef = rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role.Name}
	binding.Subjects = []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: namespace, Name: account}}
	for _, obj := range []client.Object{role, binding} {
		if err := admin.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := admin.Delete(context.Background(), obj); err != nil {
				t.Error(err)
			}
		})
	}
}
