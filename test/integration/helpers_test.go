//go:build integration

package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// timeout is how long something may take on a busy machine. What has to be fast is
// asserted where it is.
const timeout = time.Minute

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	poll.Eventually(t, what, timeout, 100*time.Millisecond, check)
}

// newNamespace makes a namespace. When the test ends its Vaults are removed,
// whether or not an operator runs, so that the next operator has no work left.
func newNamespace(t *testing.T) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-"}}
	if err := admin.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		var vaults v1alpha1.VaultList
		if err := admin.List(ctx, &vaults, client.InNamespace(namespace.Name)); err != nil {
			t.Error(err)
		}
		for i := range vaults.Items {
			_ = admin.Delete(ctx, &vaults.Items[i])
			noFinalizers := client.RawPatch(types.MergePatchType, []byte(`{"metadata": {"finalizers": null}}`))
			if err := admin.Patch(ctx, &vaults.Items[i], noFinalizers); client.IgnoreNotFound(err) != nil {
				t.Error(err)
			}
		}
		if err := admin.DeleteAllOf(ctx, &corev1.Pod{}, client.InNamespace(namespace.Name),
			client.GracePeriodSeconds(0)); err != nil {
			t.Error(err)
		}
	})
	return namespace.Name
}

// createVault makes a Vault of the name "example" with the spec in YAML.
func createVault(t *testing.T, namespace, spec string) *v1alpha1.Vault {
	t.Helper()
	if err := strict().Create(t.Context(), parseVault(t, namespace, "example", spec)); err != nil {
		t.Fatal(err)
	}
	return get(t, namespace, "example", &v1alpha1.Vault{})
}

// get reads an object anew.
func get[T client.Object](t *testing.T, namespace, name string, obj T) T {
	t.Helper()
	if err := admin.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, obj); err != nil {
		t.Fatal(err)
	}
	return obj
}

// exists says whether there is such an object.
func exists(t *testing.T, namespace, name string, obj client.Object) bool {
	t.Helper()
	err := admin.Get(t.Context(), types.NamespacedName{Namespace: namespace, Name: name}, obj)
	if client.IgnoreNotFound(err) != nil {
		t.Fatal(err)
	}
	return !apierrors.IsNotFound(err)
}

// change patches an object by a JSON merge patch.
func change(t *testing.T, obj client.Object, patch string) {
	t.Helper()
	if err := admin.Patch(t.Context(), obj, client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, objects ...client.Object) {
	t.Helper()
	for _, obj := range objects {
		if err := admin.Delete(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitVault waits until the Vault is as check wants it, and returns it.
func awaitVault(t *testing.T, vault *v1alpha1.Vault, what string, check func(*v1alpha1.Vault) error) *v1alpha1.Vault {
	t.Helper()
	current := &v1alpha1.Vault{}
	eventually(t, what, func() error {
		current = &v1alpha1.Vault{}
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(vault), current); err != nil {
			return err
		}
		return check(current)
	})
	return current
}

// has checks a condition, given as "Type=Status Reason".
func has(wants ...string) func(*v1alpha1.Vault) error {
	return func(vault *v1alpha1.Vault) error {
		var got []string
		for _, condition := range vault.Status.Conditions {
			got = append(got, fmt.Sprintf("%s=%s %s", condition.Type, condition.Status, condition.Reason))
		}
		for _, want := range wants {
			if !slices.Contains(got, want) {
				return fmt.Errorf("conditions %v, want %s", got, want)
			}
		}
		return nil
	}
}

// says checks that the message of a condition has all of the texts.
func says(conditionType string, texts ...string) func(*v1alpha1.Vault) error {
	return func(vault *v1alpha1.Vault) error {
		c := meta.FindStatusCondition(vault.Status.Conditions, conditionType)
		for _, text := range texts {
			if c == nil || !strings.Contains(c.Message, text) {
				return fmt.Errorf("%s does not say %q: %+v", conditionType, text, c)
			}
		}
		return nil
	}
}

// all checks everything, and says all that is not so.
func all(checks ...func(*v1alpha1.Vault) error) func(*v1alpha1.Vault) error {
	return func(vault *v1alpha1.Vault) error {
		var errs []error
		for _, check := range checks {
			errs = append(errs, check(vault))
		}
		return errors.Join(errs...)
	}
}

// Conditions of a Vault at rest whose pods do not exist: all that the operator
// can do without a kubelet is done.
var deployed = []string{
	"Initialized=True Initialized", "ReleaseFailed=False Released", "Irreconcilable=False Reconciled",
	"TLSReady=True SecretsValid", "ConfigValid=True ConfigAccepted", "Available=False NodesStarting",
}

// awaitDeployed waits until the release of the Vault was made and the
// status says so.
func awaitDeployed(t *testing.T, vault *v1alpha1.Vault) *v1alpha1.Vault {
	t.Helper()
	return awaitVault(t, vault, "the release is deployed", func(v *v1alpha1.Vault) error {
		if err := has(deployed...)(v); err != nil {
			return err
		}
		if v.Status.DeployedRelease == nil || v.Status.DeployedRelease.Name != v.Name {
			return fmt.Errorf("deployed release %v", v.Status.DeployedRelease)
		}
		return nil
	})
}

// events returns those of a Vault, as "Type Reason Message".
func events(t *testing.T, vault *v1alpha1.Vault) []string {
	t.Helper()
	var list corev1.EventList
	if err := admin.List(t.Context(), &list, client.InNamespace(vault.Namespace)); err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, e := range list.Items {
		if e.InvolvedObject.Kind == "Vault" && e.InvolvedObject.Name == vault.Name {
			texts = append(texts, fmt.Sprintf("%s %s %s", e.Type, e.Reason, e.Message))
		}
	}
	return texts
}

// awaitEvent waits for an event that begins with the text.
func awaitEvent(t *testing.T, vault *v1alpha1.Vault, text string) {
	t.Helper()
	eventually(t, "event "+text, func() error {
		all := events(t, vault)
		if slices.ContainsFunc(all, func(e string) bool { return strings.HasPrefix(e, text) }) {
			return nil
		}
		return fmt.Errorf("events %q", all)
	})
}

// countEvents counts those that begin with the text, repetitions included.
func countEvents(t *testing.T, vault *v1alpha1.Vault, text string) int {
	t.Helper()
	var list corev1.EventList
	if err := admin.List(t.Context(), &list, client.InNamespace(vault.Namespace)); err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, e := range list.Items {
		if strings.HasPrefix(fmt.Sprintf("%s %s %s", e.Type, e.Reason, e.Message), text) {
			count += int(max(e.Count, 1))
		}
	}
	return count
}

// operatorProcess is an operator that runs in a process of its own.
type operatorProcess struct {
	t     *testing.T
	cmd   *exec.Cmd
	ended chan struct{}
	log   string
	// mayBeRefused says that refusals by the API server are expected.
	mayBeRefused bool
}

// startOperator starts an operator, which is stopped when the test ends.
func startOperator(t *testing.T) *operatorProcess {
	t.Helper()
	return startOperatorAs(t, operatorConfig)
}

func startOperatorAs(t *testing.T, kubeconfig string) *operatorProcess {
	t.Helper()
	o := &operatorProcess{t: t, ended: make(chan struct{})}
	o.log = filepath.Join(t.TempDir(), "operator.log")
	log, err := os.Create(o.log)
	if err != nil {
		t.Fatal(err)
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o.cmd = exec.Command(executable)
	o.cmd.Dir = repository
	o.cmd.Env = append(os.Environ(), asOperator+"=1", "KUBECONFIG="+kubeconfig)
	o.cmd.Stdout, o.cmd.Stderr = log, log
	// It must not outlive tests that were interrupted.
	o.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(o.ended)
		_ = o.cmd.Wait()
		_ = log.Close()
	}()
	t.Cleanup(func() {
		o.kill()
		o.checkLog()
		if t.Failed() {
			t.Log("What is there after the failure:")
			t.Logf("operator:\n%s", tail(o.read(), 60))
		}
	})
	return o
}

// kill ends the operator by SIGKILL.
func (o *operatorProcess) kill() {
	_ = o.cmd.Process.Kill()
	<-o.ended
}

// terminate ends the operator as Kubernetes does.
func (o *operatorProcess) terminate() {
	o.t.Helper()
	if err := o.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		o.t.Fatal(err)
	}
	select {
	case <-o.ended:
	case <-time.After(timeout):
		o.t.Fatal("the operator does not stop on SIGTERM")
	}
	if code := o.cmd.ProcessState.ExitCode(); code != 0 {
		o.t.Errorf("the operator ended with code %d on SIGTERM", code)
	}
}

func (o *operatorProcess) read() string {
	text, err := os.ReadFile(o.log)
	if err != nil {
		o.t.Error(err)
	}
	return string(text)
}

// countLogs counts lines of the log with the text.
func (o *operatorProcess) countLogs(text string) int {
	return strings.Count(o.read(), text)
}

// checkLog asserts what no operator may log.
func (o *operatorProcess) checkLog() {
	text := o.read()
	for _, bad := range []string{"DATA RACE", "panic:", "Observed a panic"} {
		if strings.Contains(text, bad) {
			o.t.Errorf("the operator's log has %q:\n%s", bad, around(text, bad))
		}
	}
	// The operator has the role that it is installed with.
	if !o.mayBeRefused && strings.Contains(text, "is forbidden") {
		o.t.Errorf("the API server refused something:\n%s", around(text, "is forbidden"))
	}
	if secret := leaked(o.t, text); secret != "" {
		o.t.Errorf("the operator's log holds %s", secret)
	}
}

// leaked names a key of a Secret whose content is in the text. Certificates are
// public; the records of Helm hold no secret.
func leaked(t *testing.T, text string) string {
	if strings.Contains(text, "PRIVATE KEY") {
		return "a private key"
	}
	var secrets corev1.SecretList
	if err := admin.List(context.Background(), &secrets); err != nil {
		t.Error(err)
	}
	for _, secret := range secrets.Items {
		for key, value := range secret.Data {
			if !strings.HasSuffix(key, ".key") {
				continue
			}
			for line := range strings.Lines(string(value)) {
				if line = strings.TrimSpace(line); len(line) > 16 && strings.Contains(text, line) {
					return fmt.Sprintf("key %s of Secret %s", key, secret.Name)
				}
			}
		}
	}
	return ""
}

func around(text, bad string) string {
	at := strings.Index(text, bad)
	return text[max(0, at-500):min(len(text), at+3000)]
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func equalJSON(t *testing.T, a, b any) bool {
	t.Helper()
	var both [2]any
	for i, value := range []any{a, b} {
		text, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(text, &both[i]); err != nil {
			t.Fatal(err)
		}
	}
	return reflect.DeepEqual(both[0], both[1])
}
