package plugin

import (
	"archive/zip"
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// planted are secrets that must not be in a report.
var planted = map[string]string{
	"token":           "hvs.CAESIJplantedtokenplantedtokenplanted",
	"batch token":     "hvb.AAAAAQplantedtokenplantedtoken",
	"old token":       "s.plantedplantedplantedpl",
	"JWT":             "eyJhbGciOiJSUzI1NiJ9.eyJwbGFudGVkIjoxfQ.cGxhbnRlZA",
	"password":        "planted-password",
	"unseal key":      "cGxhbnRlZHBsYW50ZWRwbGFudGVkcGxhbnRlZHBs",
	"environment":     "planted-environment",
	"annotation":      "planted-annotation",
	"header":          "planted-header",
	"applied":         "planted-applied",
	"audited":         "planted-audited",
	"private key":     "cGxhbnRlZCBwcml2YXRlIGtleQ",
	"AWS key":         "AKIAPLANTED123456789",
	"in the Secret":   "planted-in-the-secret",
	"cloud":           "planted-client-secret",
	"in the CA":       "planted-in-the-ca",
	"proxy's":         "planted-proxy",
	"volume's":        "planted-volume",
	"service account": "planted-service-account",
}

func TestReportHoldsNoSecrets(t *testing.T) {
	h := newHarness(t)
	h.vault.Annotations = map[string]string{
		"kubectl.kubernetes.io/last-applied-configuration": planted["applied"],
		v1alpha1.VersionAnnotation:                         "1.21.0",
	}
	h.vault.Spec.Pod.Env = []corev1.EnvVar{{Name: "VISIBLE_NAME", Value: planted["environment"]}}
	h.vault.Spec.Pod.Annotations = map[string]string{"example.com/token": planted["annotation"]}
	h.vault.Spec.Pod.ServiceAccountAnnotations = map[string]string{"example.com/token": planted["service account"]}
	h.vault.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionFalse,
		Reason: "Visible", Message: "token " + planted["token"]}}
	h.pods(map[string]string{"example-a": h.serve(&fakeNode{initialized: true, active: true})})
	pod := h.api.objects["pods"][0].(*corev1.Pod)
	pod.Annotations = map[string]string{"example.com/injected": planted["annotation"]}
	pod.Spec.Containers = []corev1.Container{{
		Name: "vault", Args: []string{"--password=" + planted["password"], "--visible=yes"},
		Env: []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: planted["environment"]}},
		LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{
			HTTPHeaders: []corev1.HTTPHeader{{Name: "X", Value: planted["header"]}},
		}}},
	}}
	pod.Spec.Volumes = []corev1.Volume{{Name: "v",
		VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{
			VolumeAttributes: map[string]string{"key": planted["volume's"]},
		}}}}
	pod.Status.ContainerStatuses[0].RestartCount = 1
	h.api.set("secrets", append(h.api.objects["secrets"], &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "example-seal", Namespace: "default", Labels: pod.Labels},
		Data:       map[string][]byte{"vault.hcl": []byte(planted["in the Secret"])},
	})...)
	h.api.set("events", &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "e",
			Namespace: "default"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "example-a"},
		Message: "visible event " + planted["JWT"],
	}, &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "f",
			Namespace: "default"}, InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "example-2-a"},
		Message: "event of a stranger",
	})
	stranger := pod.DeepCopy()
	stranger.Name, stranger.Labels[v1alpha1.NameLabel] = "stranger", "web"
	h.api.set("pods", pod, stranger)
	audit, _ := json.Marshal(map[string]any{"time": "now", "type": "request", "auth": map[string]any{},
		"request": map[string]any{"data": planted["audited"]}})
	h.api.logs["example-a/vault"] = strings.Join([]string{
		"a visible line",
		"token " + planted["token"] + " and " + planted["batch token"] + ", old " + planted["old token"],
		"Unseal Key 1: " + planted["unseal key"],
		"2026-01-01T00:00:00Z " + string(audit),
		`{"auth":{"policies":["root"]},"request":{"data":"` + planted["audited"], // the kubelet has cut it
		`<json:object name="auth"><json:string name="data">` + planted["audited"] + `</json:string>`,
		"dial https://user:" + planted["proxy's"] + "@proxy.example.com:3128 failed",
		`client_secret = "` + planted["cloud"] + `"`,
		`{"password":"` + planted["password"] + `"}`,
		"Authorization: Bearer " + planted["JWT"],
		"access " + planted["AWS key"],
		"-----BEGIN RSA PRIVATE KEY-----", planted["private key"], "-----END RSA PRIVATE KEY-----",
		"the last visible line",
	}, "\n")
	pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: "long"})
	h.api.logs["example-a/long"] = "the end of a secret\n" + strings.Repeat("x\n", reportLogLines-1)
	pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: "wide"})
	wide := strings.Repeat("x", 1<<16-10) + "\n"
	h.api.logs["example-a/wide"] = "an old line\n" + strings.Repeat(wide, 1+reportLogBytes>>16) + "the newest line\n"

	file := filepath.Join(t.TempDir(), "report.zip")
	h.run("", "report", "example", "--file", file).expect(t, 0, file)
	all := ""
	names := map[string]bool{}
	archive, err := zip.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	for _, member := range archive.File {
		names[member.Name] = true
		reader, err := member.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		all += string(text)
	}
	for what, secret := range planted {
		if strings.Contains(all, secret) {
			t.Errorf("the report holds the %s", what)
		}
	}
	for _, text := range []string{"a visible line", "the last visible line", "VISIBLE_NAME", "--visible=yes",
		"reason: Visible", "visible event", "proxy.example.com",
		v1alpha1.VersionAnnotation + ": 1.21.0", "plugin: test", "Kubernetes: v1.2.3"} {
		if !strings.Contains(all, text) {
			t.Errorf("the report lacks %q", text)
		}
	}
	if strings.Contains(all, "stranger") {
		t.Error("something else is in the report")
	}
	if strings.Contains(all, "an old line") || !strings.Contains(all, "the newest line") {
		t.Error("of a long log the oldest lines are in the report, or not the newest")
	}
	if strings.Contains(all, "the end of a secret") || !strings.Contains(all, "(what is before this was left out)") {
		t.Error("a line that may have been cut is in the report")
	}
	for _, name := range []string{"vault.yaml", "events.yaml", "pods.yaml", "deployments.yaml", "statefulsets.yaml",
		"versions.txt", "logs/example-a/vault.log", "logs/example-a/vault.previous.log"} {
		if !names[name] {
			t.Errorf("the report has no %s", name)
		}
	}
	for _, request := range h.api.requests() {
		if strings.Contains(request, "/secrets") || strings.Contains(request, "/configmaps") {
			t.Errorf("a report needs no %s", request)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has the mode %v, %v", info.Mode(), err)
	}
	h.run("", "report", "example", "--file", file).expect(t, exitError, "exists")
}

func TestLogs(t *testing.T) {
	h := newHarness(t)
	h.pods(map[string]string{"example-a": "", "example-b": ""})
	h.api.logs["example-a/vault"] = "one\ntwo\x1b[31m\n"
	h.api.logs["example-b/vault"] = strings.Repeat("x", 3*logLineLimit) + "\nthree"
	r := h.run("", "logs", "example")
	r.expect(t, 0, "[example-a] one\n", "[example-b] three\n")
	if strings.Contains(r.out, "\x1b") || len(r.out) > 2*logLineLimit {
		t.Error("a log was printed as it is")
	}

	// Pods that come later are followed.
	reader, writer := io.Pipe()
	defer reader.Close()
	p := newPlugin(genericStreams(), "test")
	p.out, p.pause = writer, 10*time.Millisecond
	done := make(chan int)
	ctx, cancel := testContext(t)
	h.pods(map[string]string{"example-a": ""})
	go func() {
		done <- p.run(ctx, []string{"--server", h.api.URL, "--namespace", "default", "logs", "example", "-f"})
	}()
	scanner := bufio.NewScanner(reader)
	await := func(line string) {
		for scanner.Scan() {
			if scanner.Text() == line {
				return
			}
		}
	}
	await("[example-a] one")
	h.pods(map[string]string{"example-a": "", "example-c": ""})
	h.api.mu.Lock()
	h.api.logs["example-c/vault"] = "four\n"
	h.api.mu.Unlock()
	await("[example-c] four")
	cancel()
	go func() { _, _ = io.Copy(io.Discard, reader) }()
	if code := <-done; code != exitInterrupted {
		t.Errorf("the code is %d", code)
	}
}

func TestLogsThatCannotBeRead(t *testing.T) {
	h := newHarness(t)
	h.pods(map[string]string{"a": "", "b": ""})
	h.api.logs["b/vault"] = "one\n"
	h.api.refuse("a", http.StatusBadRequest)
	h.run("", "logs", "example").expect(t, 0, "a: ", "[b] one\n")
	h.api.refuse("b", http.StatusBadRequest)
	h.run("", "logs", "example").expect(t, exitError, "a: ", "b: ", "no log could be read")

	// While it follows the first error is told, and a right that is missing ends it.
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	interrupted, interrupt := context.WithCancel(context.WithoutCancel(ctx))
	context.AfterFunc(ctx, interrupt)
	r := h.runWith(interrupted, strings.NewReader(""), "logs", "example", "-f")
	r.expect(t, exitInterrupted, "b: ")
	if strings.Count(r.errOut, "a: ") != 1 {
		t.Errorf("it says more than once what is wrong:\n%s", r.errOut)
	}
	h.api.refuse("a", http.StatusForbidden)
	h.run("", "logs", "example", "-f").expect(t, exitError)
}

func TestStatus(t *testing.T) {
	h := newHarness(t)
	soon := metav1.NewTime(time.Now().Add(20*24*time.Hour + time.Hour))
	condition := func(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
		return metav1.Condition{Type: kind, Status: status, Reason: reason, Message: message}
	}
	h.vault.Status = v1alpha1.VaultStatus{
		ObservedGeneration: 1, Version: "1.21.0", Phase: "Running",
		NodeStatuses: []v1alpha1.NodeStatus{
			{Name: "example-a", State: v1alpha1.NodeActive, Version: "1.21.0",
				Certificate: &v1alpha1.NodeCertificate{Serial: "1", NotAfter: soon}},
			{Name: "example-b", State: v1alpha1.NodeSealed, Version: "1.21.0"},
		},
		VaultStatus: v1alpha1.NodesStatus{Active: "example-a", Sealed: []string{"example-b"}},
		Storage:     &v1alpha1.StorageStatus{Version: "3.6.0"},
		Conditions: []metav1.Condition{
			condition(v1alpha1.ReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal, "Unsealed: example-b"),
			condition(v1alpha1.AvailableCondition, metav1.ConditionTrue, v1alpha1.ReasonActive, "fine"),
			condition(v1alpha1.UnsealedCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal,
				"run 'vault operator unseal' on each"),
			condition(v1alpha1.UpdatedCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal,
				"run 'vault operator unseal' on one"),
			condition(v1alpha1.StorageReadyCondition, metav1.ConditionTrue, v1alpha1.ReasonQuorum,
				"3 of 3 etcd members are ready"),
			condition(v1alpha1.TLSReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonSecretNotFound,
				"Secret x is missing\n\x1b[2Jfake line"),
			condition(v1alpha1.ConfigValidCondition, metav1.ConditionFalse, v1alpha1.ReasonSecretNotFound,
				"Secret y is missing"),
			condition(v1alpha1.SealReadyCondition, metav1.ConditionFalse, v1alpha1.ReasonCredentialsRefused, "no"),
			condition(v1alpha1.IrreconcilableCondition, metav1.ConditionFalse, "", ""),
			condition(v1alpha1.ReleaseFailedCondition, metav1.ConditionTrue, "InstallError", "no"),
		},
	}
	h.api.set("vaults", h.vault)
	r := h.run("", "status", "example")
	r.expect(t, exitSealed, "default/example, not ready", "(in 20d)", "3 of 3 etcd members are ready, version 3.6.0",
		"Unsealed (AwaitingUnseal) waits for an administrator of Vault: sealed: example-b",
		"  kubectl vault unseal example -n default\n",
		"TLSReady (SecretNotFound)", "ConfigValid (SecretNotFound)", "ReleaseFailed (InstallError)",
		"kubectl logs --previous --prefix --ignore-errors -c vault -n default -l")
	if strings.Contains(r.out, "vault operator unseal") || strings.Contains(r.out, "Updated (") ||
		strings.Contains(r.out, "Irreconcilable") ||
		strings.Contains(r.out, "\nfake") || strings.Contains(r.errOut, "error") {
		t.Error("it says more than it should")
	}
	var view overview
	if err := json.Unmarshal([]byte(h.run("", "status", "example", "-o", "json").out), &view); err != nil ||
		view.Waits[0].Command != "kubectl vault unseal example -n default" {
		t.Errorf("JSON: %v, %+v", err, view)
	}
	h.run("", "status", "example", "-o", "yaml").expect(t, exitSealed, "role: Active")
	h.run("", "status", "example", "-o", "xml").expect(t, exitError, "unknown output format")

	h.vault.Status.Conditions = []metav1.Condition{
		condition(v1alpha1.UnsealedCondition, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal, "wait"),
		condition(v1alpha1.InitializationSucceededCondition, metav1.ConditionFalse, v1alpha1.ReasonKeysLost, "lost"),
		condition(v1alpha1.UnsealKeysValidCondition, metav1.ConditionUnknown, v1alpha1.ReasonKeysNotUsed, "not used"),
	}
	h.vault.Spec.Unseal = &v1alpha1.UnsealPolicy{KeysSecretName: "keys"}
	r = h.run("", "status", "example")
	r.expect(t, exitSealed, "Unsealed (AwaitingUnseal) waits for the operator",
		"InitializationSucceeded (KeysLost) waits for an administrator of Vault: lost")
	if strings.Contains(r.out, "not used") || strings.Contains(r.out, "kubectl vault unseal") {
		t.Error("it says more than it should")
	}
	h.vault.Spec.Unseal = nil
	h.vault.Status.Conditions = []metav1.Condition{
		condition(v1alpha1.ResizedCondition, metav1.ConditionFalse, v1alpha1.ReasonRemovalRefused, "not authorized"),
	}
	h.run("", "status", "example").expect(t, exitNotReady, "Resized (RemovalRefused) waits for an administrator of Vault",
		"  kubectl describe vault example -n default\n")
	h.vault.Spec.OperatorLogin = &v1alpha1.OperatorLoginPolicy{Enabled: true}
	h.run("", "status", "example").expect(t, exitNotReady, "  kubectl vault authorize example -n default\n")
	h.vault.Spec.OperatorLogin = nil
	h.vault.Status.Conditions[0].Reason = v1alpha1.ReasonResizing
	h.run("", "status", "example").expect(t, exitNotReady, "Resized (Resizing) waits for the operator")
	h.vault.Status.Conditions = []metav1.Condition{condition(v1alpha1.ReadyCondition, metav1.ConditionTrue,
		v1alpha1.ReasonReady, "")}
	h.run("", "status", "example").expect(t, 0, "Nothing waits for anybody")
	h.vault.Generation = 2
	h.run("", "status", "example").expect(t, exitNotReady, "has not seen the newest spec")
}
