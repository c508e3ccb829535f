//go:build integration

package integration

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/message"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// setConfiguration makes the ConfigMap "mine", or changes it.
func setConfiguration(t *testing.T, namespace, hcl string) {
	t.Helper()
	data := map[string]string{v1alpha1.ConfigMapKey: hcl}
	configMap := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "mine"}, Data: data}
	if !exists(t, namespace, "mine", &corev1.ConfigMap{}) {
		if err := admin.Create(t.Context(), configMap); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := admin.Update(t.Context(), configMap); err != nil {
		t.Fatal(err)
	}
}

// awaitRefusal waits until ConfigValid says this of the configuration.
func awaitRefusal(t *testing.T, vault *v1alpha1.Vault, text string) {
	t.Helper()
	awaitVault(t, vault, "the configuration is refused: "+text,
		all(has("ConfigValid=False ConfigInvalid"), says(v1alpha1.ConfigValidCondition, text)))
}

// requireAlive fails when the operator has ended.
func (o *operatorProcess) requireAlive() {
	o.t.Helper()
	select {
	case <-o.ended:
		o.t.Fatalf("the operator has ended: %s", o.cmd.ProcessState)
	default:
	}
}

// A configuration that the parser could not bear is refused without it, and the
// Vaults of others are served meanwhile.
func TestConfigurationIsLimited(t *testing.T) {
	others, namespace := newNamespace(t), newNamespace(t)
	operator := startOperator(t)
	other := deployVault(t, others)
	nodes := map[string]*fakevault.Node{
		"a": startPod(t, other, "a", fakevault.Active), "b": startPod(t, other, "b", fakevault.Standby),
	}
	awaitLabel(t, others, "a")
	vault := createVault(t, namespace, `spec: {configMapName: mine}`)
	active, standby := "a", "b"
	for _, test := range []struct{ what, hcl, says string }{
		{"a million brackets", "x = " + strings.Repeat("[", 1_000_000), "larger than 64 KiB"},
		{"64 KiB of brackets", "x = " + strings.Repeat("[", 64<<10-4), "nested deeper than 32 levels"},
		{"a large file", strings.Repeat("# a comment\n", 693<<10/12), "larger than 64 KiB"},
	} {
		setConfiguration(t, namespace, test.hcl)
		begin := time.Now()
		nodes[active].Set(fakevault.Standby)
		nodes[standby].Set(fakevault.Active)
		awaitLabel(t, others, standby)
		// A parser that hangs takes longer. Probes of an operator that is late come seldom.
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%s: a failover of another Vault took %s", test.what, took)
		}
		active, standby = standby, active
		awaitRefusal(t, vault, test.says)
		operator.requireAlive()
	}
	setConfiguration(t, namespace, "ui = true\n")
	awaitVault(t, vault, "the configuration is accepted", has("ConfigValid=True ConfigAccepted"))
}

// What is wrong with a configuration is told without a word of it, since it may hold
// credentials.
func TestMistakesInAConfigurationAreNotQuoted(t *testing.T) {
	const marker = "hvsMARKER"
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := createVault(t, namespace, `spec: {configMapName: mine}`)
	for _, test := range []struct{ hcl, says string }{
		{`seal "transit" { token = hvsMARKER }`, "line 1, column 26: a value is expected"},
		{`seal "transit" { token "hvsMARKER2" }`, "a key must be followed by '=' or '{'"},
		{"hvsMARKER = 1\nhvsMARKER = 2", "line 2, column 1: a key is set twice"},
		{`{"seal": hvsMARKER}`, "invalid character"},
		{`seal "transit" { token = "\U00110000hvsMARKER" }`, "invalid number or escape sequence"},
		{`storage "hvsMARKER" {}`, "sets storage, which the operator owns"},
	} {
		setConfiguration(t, namespace, test.hcl)
		awaitRefusal(t, vault, test.says)
		awaitVault(t, vault, "Helm is kept from it", has("Irreconcilable=True ErrorGettingValues"))
		awaitEvent(t, vault, "Warning ConfigInvalid")
	}
	awaitQuiet(t)
	for _, condition := range get(t, namespace, "example", vault).Status.Conditions {
		if strings.Contains(condition.Message, marker) {
			t.Errorf("condition %s: %s", condition.Type, condition.Message)
		}
	}
	for _, text := range events(t, vault) {
		if strings.Contains(text, marker) {
			t.Errorf("event: %s", text)
		}
	}
	if log := operator.read(); strings.Contains(log, marker) {
		t.Errorf("log: %s", around(log, marker))
	}
}

// A certificate for thousands of names makes an error of 100 KiB. The status has to
// go on all the same.
func TestLongMessagesDoNotFreezeTheStatus(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := deployVault(t, namespace)
	a := startPod(t, vault, "a", fakevault.Active)
	b := startPod(t, vault, "b", fakevault.Standby)
	nodesAre(t, vault, v1alpha1.NodesStatus{Active: "a", Standby: []string{"b"}})

	var names []string
	for i := range 4000 {
		names = append(names, fmt.Sprintf("name-%d.example.com", i))
	}
	ca, err := certs.NewCA("mine", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := certs.Sign(ca, "mine", []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, names, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	secret := get(t, namespace, vault.ServerSecretName(), &corev1.Secret{})
	secret.Data = map[string][]byte{v1alpha1.ServerCertKey: pair.Cert, v1alpha1.ServerKeyKey: pair.Key}
	if err := admin.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	awaitVault(t, vault, "the certificate is refused", has("TLSReady=False SecretInvalid"))
	a.Kill()
	crashed(t, vault, "a", a.IP)
	b.Set(fakevault.Active)
	awaitLabel(t, namespace, "b")
	awaitVault(t, vault, "the status goes on", func(v *v1alpha1.Vault) error {
		if v.Status.VaultStatus.Active != "b" {
			return fmt.Errorf("active: %q", v.Status.VaultStatus.Active)
		}
		return nil
	})
	awaitQuiet(t)
	for _, condition := range get(t, namespace, "example", vault).Status.Conditions {
		if len(condition.Message) > message.Max {
			t.Errorf("condition %s has a message of %d bytes", condition.Type, len(condition.Message))
		}
	}
	for _, text := range events(t, vault) {
		if len(text) > message.Max+100 {
			t.Errorf("an event of %d bytes: %.100s", len(text), text)
		}
	}
}

// peakMemory is the most that the process has had in memory, in MiB.
func (o *operatorProcess) peakMemory() int {
	o.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", o.cmd.Process.Pid))
	if err != nil {
		o.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kilobytes, err := strconv.Atoi(strings.Fields(value)[0])
			if err != nil {
				o.t.Fatal(err)
			}
			return kilobytes >> 10
		}
	}
	o.t.Fatal("the process has no peak of its memory")
	return 0
}

// foreignObjects is how many Secrets, and as many ConfigMaps, other tenants have in the
// test of the operator's memory. FOREIGN_OBJECTS sets another number, for measurements.
func foreignObjects(t *testing.T) int {
	t.Helper()
	text := cmp.Or(os.Getenv("FOREIGN_OBJECTS"), "400")
	number, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("FOREIGN_OBJECTS=%s: %v", text, err)
	}
	return number
}

// The memory of the operator does not follow what others keep in the annotations of
// their Secrets and ConfigMaps: not when they are made, and not when it starts, with
// an API server that streams lists or one that does not.
func TestAnnotationsOfOthersTakeNoMemory(t *testing.T) {
	const size = 250_000
	each := foreignObjects(t)
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	awaitQuiet(t)
	before := operator.peakMemory()

	elsewhere := newNamespace(t)
	annotation := strings.Repeat("x", size)
	meta := func(i int) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: elsewhere, Name: fmt.Sprint("foreign-", i),
			Annotations: map[string]string{corev1.LastAppliedConfigAnnotation: annotation}}
	}
	var made []client.Object
	for i := range each {
		made = append(made, &corev1.Secret{ObjectMeta: meta(i)}, &corev1.ConfigMap{ObjectMeta: meta(i)})
	}
	// A pod with the labels of a Vault is watched as well.
	pod := &corev1.Pod{ObjectMeta: meta(0), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}}}
	pod.Labels = vault.PodLabels()
	made = append(made, pod)
	for _, obj := range made {
		if err := admin.Create(t.Context(), obj); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { removeAll(t, elsewhere) })
	// The operator has seen all of them when it has seen a later change.
	setConfiguration(t, namespace, "ui = true\n")
	change(t, vault, `{"spec": {"configMapName": "mine"}}`)
	awaitVault(t, vault, "the configuration is used", says(v1alpha1.ConfigValidCondition, "mine"))
	peaks := []int{operator.peakMemory()}
	for _, streaming := range []string{"true", "false"} {
		operator.terminate()
		t.Setenv("KUBE_FEATURE_WatchListClient", streaming)
		operator = startOperator(t)
		ui := "ui = " + streaming
		hcl := fmt.Sprintf("%s\ncluster_name = %q\n", ui, streaming+"?")
		setConfiguration(t, namespace, ui+" \"\n") // a mistake, to see that it is read
		awaitVault(t, vault, "the operator is at work", has("ConfigValid=False ConfigInvalid"))
		setConfiguration(t, namespace, hcl)
		awaitVault(t, vault, "the configuration is used", has("ConfigValid=True ConfigAccepted"))
		peaks = append(peaks, operator.peakMemory())
	}
	t.Logf("%d MiB of annotations; peaks of memory in MiB: %d before, then %v", 2*each*size>>20, before, peaks)
	if highest := slices.Max(peaks); highest > before+memoryAllowed {
		t.Errorf("the memory went from %d to %d MiB", before, highest)
	}
}

// removeAll takes out of the API server, when a test ends, what the operators of the next tests would have to read.
func removeAll(t *testing.T, namespace string) {
	t.Helper()
	for _, obj := range []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}} {
		// The context of the test has ended by then.
		if err := admin.DeleteAllOf(context.Background(), obj, client.InNamespace(namespace)); err != nil {
			t.Error(err)
		}
	}
}

// What a new Vault costs the API server: 42 to 46 requests, by which controller comes first, and more on a busy
// machine. Reconciling the release once more costs 14.
func TestRequestsOfACreation(t *testing.T) {
	const most = 55
	namespace := newNamespace(t)
	operator := startOperator(t)
	deployVault(t, newNamespace(t)) // requests that are made once are left out
	awaitQuiet(t)
	before := len(audit.all(t))
	reconciled := operator.countLogs(`"Release reconciled"`)
	deployVault(t, namespace)
	awaitQuiet(t)
	requests := audit.all(t)[before:]
	if len(requests) > most {
		t.Errorf("%d requests, want at most %d", len(requests), most)
	}
	for i, r := range requests {
		t.Log(i+1, r)
	}
	if again := operator.countLogs(`"Release reconciled"`) - reconciled; again > 0 {
		t.Errorf("Helm reconciled %d times after it had installed", again)
	}
}

// A failover is told from what is in memory: nothing that holds keys is read for it.
func TestFailoversReadNoSecrets(t *testing.T) {
	namespace := newNamespace(t)
	startOperator(t)
	vault := deployVault(t, namespace)
	nodes := map[string]*fakevault.Node{
		"a": startPod(t, vault, "a", fakevault.Active), "b": startPod(t, vault, "b", fakevault.Standby),
	}
	nodesAre(t, vault, v1alpha1.NodesStatus{Active: "a", Standby: []string{"b"}})
	awaitQuiet(t)
	before := len(audit.all(t))
	nodes["a"].Set(fakevault.Standby)
	nodes["b"].Set(fakevault.Active)
	awaitLabel(t, namespace, "b")
	nodesAre(t, vault, v1alpha1.NodesStatus{Active: "b", Standby: []string{"a"}})
	awaitQuiet(t)
	for _, r := range audit.all(t)[before:] {
		t.Log(r)
		if resource := r.ObjectRef.Resource; resource == "secrets" || resource == "configmaps" {
			t.Errorf("the failover made the operator %s", r)
		}
	}
}
