//go:build integration

package integration

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/etcd"
	"github.com/vault-operator/vault-operator/internal/members"
)

// realEtcd is a cluster of etcd processes with the certificates of a Vault.
type realEtcd struct {
	vault  *v1alpha1.Vault
	client *http.Client
	ips    []string
	files  []string
}

// startEtcd starts as many members as the Vault wants, each with an address of its own, and makes
// their pods. Its quota is 128 MiB.
func startEtcd(t *testing.T, vault *v1alpha1.Vault) *realEtcd {
	t.Helper()
	dir := t.TempDir()
	secret := get(t, vault.Namespace, vault.EtcdServerSecretName(), &corev1.Secret{})
	for name, content := range secret.Data {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config, err := certs.EtcdClient(t.Context(), admin, vault)
	if err != nil {
		t.Fatal(err)
	}
	e := &realEtcd{vault: vault, client: &http.Client{Transport: &http.Transport{TLSClientConfig: config}}}
	t.Cleanup(e.client.CloseIdleConnections)
	var cluster []string
	for i := range vault.WantedMembers() {
		status := serveMember(t, false) // for an address that nobody else has
		ip := strings.Replace(status.PodIP, "127.83.", "127.84.", 1)
		e.ips = append(e.ips, ip)
		cluster = append(cluster, fmt.Sprintf("%s=http://%s:2380", vault.EtcdMemberName(i), ip))
	}
	for i, ip := range e.ips {
		name := vault.EtcdMemberName(i)
		data := filepath.Join(dir, name)
		e.files = append(e.files, filepath.Join(data, "member", "snap", "db"))
		cmd := exec.Command(filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "etcd"),
			"--name="+name, "--data-dir="+data, "--initial-cluster="+strings.Join(cluster, ","),
			"--listen-client-urls=https://"+ip+":2379", "--advertise-client-urls=https://"+ip+":2379",
			"--listen-peer-urls=http://"+ip+":2380", "--initial-advertise-peer-urls=http://"+ip+":2380",
			"--client-cert-auth", "--trusted-ca-file="+filepath.Join(dir, "ca.crt"),
			"--cert-file="+filepath.Join(dir, v1alpha1.ServerCertKey), "--key-file="+filepath.Join(dir, v1alpha1.ServerKeyKey),
			"--listen-metrics-urls=http://"+ip+":2381", "--quota-backend-bytes=134217728", "--unsafe-no-fsync",
			"--heartbeat-interval=500", "--election-timeout=5000", "--log-level=error")
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		status := isReady(corev1.ConditionTrue)
		status.PodIP, status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
		status.ContainerStatuses = []corev1.ContainerStatus{{
			Name: "etcd", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		}}
		makeMember(t, vault, i, "a", status)
	}
	observeSet(t, vault, "a", "a")
	return e
}

// do makes a request of etcd's JSON API to the first member.
func (e *realEtcd) do(t *testing.T, path string, body map[string]any) (map[string]any, error) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+e.ips[0]+":2379/v3/"+path,
		bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	response, err := e.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var result map[string]any
	if err := json.NewDecoder(response.Body).Decode(&result); err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%d: %v", response.StatusCode, result["message"])
	}
	return result, nil
}

func (e *realEtcd) put(t *testing.T, key string, size int) error {
	t.Helper()
	value := make([]byte, size)
	_, _ = rand.Read(value)
	_, err := e.do(t, "kv/put", map[string]any{"key": []byte(key), "value": value})
	return err
}

// forget deletes a key, or those to the end of the range, and has etcd forget them.
func (e *realEtcd) forget(t *testing.T, key, end string) {
	t.Helper()
	result, err := e.do(t, "kv/deleterange", map[string]any{"key": []byte(key), "range_end": []byte(end)})
	if err != nil {
		t.Fatal(err)
	}
	revision := result["header"].(map[string]any)["revision"]
	if _, err := e.do(t, "kv/compaction", map[string]any{"revision": revision, "physical": true}); err != nil {
		t.Fatal(err)
	}
}

// leader is the number of the member that leads.
func (e *realEtcd) leader(t *testing.T, look func(int) (etcd.Report, error)) int {
	t.Helper()
	leader := -1
	eventually(t, "one leads", func() error {
		for i := range e.ips {
			report, err := look(i)
			if err != nil {
				return err
			}
			if report.Leader {
				leader = i
				return nil
			}
		}
		return fmt.Errorf("nobody leads")
	})
	return leader
}

// A database that has grown to its quota and was emptied then becomes small again, one member
// after the other and the leader at the end, and etcd takes writes again.
func TestDefragmentation(t *testing.T) {
	namespace := newNamespace(t)
	o := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, ""))
	o.kill()
	e := startEtcd(t, vault)
	alarms := etcd.NewAlarms(admin)
	look := func(i int) (etcd.Report, error) {
		return alarms.Look(t.Context(), get(t, namespace, vault.EtcdMemberName(i), &corev1.Pod{}))
	}
	e.leader(t, look)

	var err error
	for i := 0; err == nil && i < 200; i++ {
		err = e.put(t, fmt.Sprintf("key-%d", i), mebibyte)
	}
	if err == nil || !strings.Contains(err.Error(), "database space exceeded") {
		t.Fatalf("the database does not fill: %v", err)
	}
	clock := clocktesting.NewFakePassiveClock(time.Now())
	recorder := record.NewFakeRecorder(10)
	d := &members.Defragmenter{
		Client: admin, APIReader: admin, Look: alarms.Look, Recorder: recorder, Clock: clock, Members: &members.Reconciler{},
	}
	request := reconcile.Request{NamespacedName: client.ObjectKeyFromObject(vault)}
	step := func() {
		t.Helper()
		for range 2 { // the second one is too early
			if _, err := d.Reconcile(t.Context(), request); err != nil {
				t.Fatal(err)
			}
		}
		clock.SetTime(clock.Now().Add(2 * time.Minute))
	}
	step() // the first look is too early as well
	step() // all is in use
	if len(recorder.Events) > 0 {
		t.Fatalf("%s", <-recorder.Events)
	}

	// Everything goes: from "key-" to "key.".
	e.forget(t, "key-", "key.")
	first := e.leader(t, look)
	if err := e.put(t, "more", 1); err == nil {
		t.Fatal("etcd takes writes before it is defragmented")
	}
	// Some members tell that all is in use until they write again, and nothing but the operator has
	// them do so.
	var order []string
	eventually(t, "the members that do not lead are defragmented", func() error {
		step()
		if len(recorder.Events) > 0 {
			order = append(order, defragmented(t, recorder))
		}
		if len(order) < 2 {
			return fmt.Errorf("so far %v", order)
		}
		return nil
	})
	eventually(t, "the leader hands over", func() error {
		if report, err := look(first); err != nil || report.Leader || !report.HasLeader {
			step()
			return fmt.Errorf("%+v %w", report, err)
		}
		return nil
	})
	step()
	order = append(order, defragmented(t, recorder))
	if want := vault.EtcdMemberName(first); order[2] != want || slices.Contains(order[:2], want) {
		t.Errorf("defragmented in the order %v, and %s led", order, want)
	}
	for _, file := range e.files {
		if info, err := os.Stat(file); err != nil || info.Size() > 20*mebibyte {
			t.Errorf("%s: %+v %v", file, info, err)
		}
	}
	step()
	if len(recorder.Events) != 1 {
		t.Fatalf("%d events", len(recorder.Events))
	}
	if event := <-recorder.Events; !strings.HasPrefix(event, "Normal AlarmDisarmed ") {
		t.Errorf("event %q", event)
	}
	if err := e.put(t, "more", 1); err != nil {
		t.Errorf("etcd takes no writes: %v", err)
	}
	clock.SetTime(clock.Now().Add(5 * time.Minute))
	step()
	if len(recorder.Events) > 0 {
		t.Errorf("when all is well: %s", <-recorder.Events)
	}
}

// mebibyte is 1 MiB.
const mebibyte = 1 << 20

// defragmented is the member that the next event is about.
func defragmented(t *testing.T, recorder *record.FakeRecorder) string {
	t.Helper()
	if len(recorder.Events) != 1 {
		t.Fatalf("%d events", len(recorder.Events))
	}
	event := <-recorder.Events
	_, rest, found := strings.Cut(event, "Normal Defragmented The database of member ")
	if !found {
		t.Fatalf("event %q", event)
	}
	t.Log(event)
	return strings.Fields(rest)[0]
}
