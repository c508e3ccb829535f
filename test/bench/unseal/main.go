// Command unseal measures how soon a Vault serves again after all of its nodes were lost at
// once: one that unseals itself by a transit secrets engine, and one that an administrator
// unseals by "kubectl vault unseal".
package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/internal/testing/poll"
	"github.com/vault-operator/vault-operator/test/internal/localcluster"
	"github.com/vault-operator/vault-operator/test/internal/program"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

const (
	namespace = "bench-unseal"
	nodes     = 3
	// clients is the node of the cluster that requests come from: only nodes know Services.
	clients = "node-1"
	// pace is how often a node, or the Service, is asked.
	pace = 20 * time.Millisecond
	// patience is for how long a Vault may take.
	patience = 5 * time.Minute
)

// console ends the measurement at the first failure.
type console struct{}

func (console) Helper()             {}
func (console) Logf(string, ...any) {}
func (console) Cleanup(func())      {}
func (console) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "unseal: "+format+"\n", args...)
	os.Exit(1)
}

func main() {
	repetitions := flag.Int("n", 5, "how often all nodes are lost")
	flag.Parse()
	var t console
	netns, err := localcluster.Netns(clients)
	if err != nil {
		t.Fatalf("%v", err)
	}
	b := &bench{Client: http.Client{Timeout: time.Second, Transport: &http.Transport{
		DialContext:       localcluster.DialFrom(netns),
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}}}
	shell.Run(t, "kubectl create namespace "+namespace+" --dry-run=client -o yaml | kubectl apply -f -")
	b.prepare(t)
	defer os.RemoveAll(filepath.Dir(b.plugin))
	var vault, endpoint, service, started, shares []time.Duration
	for range *repetitions {
		r := b.losePower(t)
		vault = append(vault, r.active.Sub(r.started))
		endpoint = append(endpoint, r.listed.Sub(r.active))
		service = append(service, r.served.Sub(r.active))
		started = append(started, r.served.Sub(r.started))
		shares = append(shares, b.giveShares(t))
	}
	shell.Run(t, "kubectl delete namespace "+namespace)
	fmt.Printf("\n%-72s %8s %8s %8s\n", "", "min", "median", "max")
	row("auto-unseal: last container started (whole seconds) until one is active", vault)
	row("auto-unseal: one is active until it is an endpoint of the Service", endpoint)
	row("auto-unseal: one is active until the Service leads there", service)
	row("auto-unseal: both", started)
	row("kubectl vault unseal of 3 nodes with 3 shares", shares)
}

// bench has a Vault that unseals itself, and one that does not.
type bench struct {
	http.Client
	auto, shamir vaulttest.Vault
	keys         vaulttest.Keys
	plugin       string
}

func (b *bench) prepare(t console) {
	root := vaulttest.Vault{Namespace: namespace, Name: "root"}
	b.auto = vaulttest.Vault{Namespace: namespace, Name: "auto"}
	b.shamir = vaulttest.Vault{Namespace: namespace, Name: "shamir"}
	apply(t, root, 1, "")
	rootKeys := root.InitAndUnseal(t, 1)
	root.Do(t, root.AwaitHA(t, 0).VaultStatus.Active, rootKeys.RootToken, `set -eo pipefail
vault secrets enable transit
vault write -f transit/keys/auto
vault policy write unseal-auto - <<POLICY
path "transit/encrypt/auto" { capabilities = ["update"] }
path "transit/decrypt/auto" { capabilities = ["update"] }
POLICY
vault token create -orphan -period=24h -policy=unseal-auto -field=token | `+
		root.Kubectl("create secret generic transit-token --from-file=token=/dev/stdin"))
	apply(t, b.auto, nodes, `, seal: {transit: {address: "https://root.`+namespace+`.svc:8200", keyName: auto, `+
		`caSecretName: root-default-vault-client-tls, credentialsSecretName: transit-token}}`)
	apply(t, b.shamir, nodes, "")
	env, stop := b.auto.Forward(t, b.auto.AwaitSealed(t, nodes).VaultStatus.Sealed[0])
	shell.Run(t, "vault operator init -recovery-shares=1 -recovery-threshold=1 >/dev/null", env...)
	stop()
	b.auto.AwaitHA(t, nodes-1)
	b.keys = b.shamir.InitAndUnseal(t, nodes)
	var err error
	if b.plugin, err = program.Path("cmd/kubectl-vault"); err != nil {
		t.Fatalf("%v", err)
	}
}

func apply(t console, v vaulttest.Vault, nodes int, more string) {
	shell.Apply(t, fmt.Sprintf(`{apiVersion: vault.security.coreos.com/v1alpha1, kind: Vault, metadata: {name: %s, `+
		`namespace: %s}, spec: {nodes: %d, storage: {etcd: {whenDeleted: Delete}}%s}}`, v.Name, v.Namespace, nodes, more))
}

// lose takes all nodes of a Vault away without a warning, and returns their names.
func lose(t console, v vaulttest.Vault) []string {
	before := names(pods(t, v))
	shell.Run(t, v.Kubectl("delete pod --force --grace-period=0 %s 2>/dev/null", strings.Join(before, " ")))
	return before
}

// recovery is when what happened after all nodes were lost.
type recovery struct {
	// started is when the last container was started, to the second.
	started time.Time
	// active is when a node said that it is active, listed when it was an endpoint of the Service, and
	// served when kube-proxy led there.
	active, listed, served time.Time
}

// losePower measures the Vault that unseals itself.
func (b *bench) losePower(t console) recovery {
	service := shell.Run(t, b.auto.Kubectl("get service %s -o jsonpath='{.spec.clusterIP}'", b.auto.Name))
	before := lose(t, b.auto)
	var r recovery
	var once sync.Once
	active := make(chan struct{})
	probed := map[string]bool{}
	poll.Eventually(t, "a node is active", patience, 5*pace, func() error {
		for _, pod := range pods(t, b.auto) {
			address := pod.Status.PodIP
			if address == "" || probed[address] || slices.Contains(before, pod.Name) {
				continue
			}
			probed[address] = true
			go func() {
				b.await(address, active)
				once.Do(func() {
					r.active = time.Now()
					close(active)
				})
			}()
		}
		select {
		case <-active:
			return nil
		default:
			return fmt.Errorf("none of %d is", len(probed))
		}
	})
	// The nodes that are lost may have served for a moment more, but none does by now.
	listed := make(chan time.Time, 1)
	go func() {
		poll.Eventually(t, "a node is an endpoint", patience, pace, func() error { return b.endpoint(before) })
		listed <- time.Now()
	}()
	b.await(service, nil)
	r.served = time.Now()
	r.listed = <-listed
	b.auto.AwaitHA(t, nodes-1)
	for _, pod := range pods(t, b.auto) {
		for _, container := range pod.Status.ContainerStatuses {
			if running := container.State.Running; running != nil && running.StartedAt.After(r.started) {
				r.started = running.StartedAt.Time
			}
		}
	}
	if r.started.After(r.active) {
		r.started = r.active // another node was active before the last one had started
	}
	return r
}

// await asks an address until an active node responds, or until another has.
func (b *bench) await(address string, another <-chan struct{}) {
	for {
		response, err := b.Get("https://" + net.JoinHostPort(address, "8200") + "/v1/sys/health")
		if err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case <-another:
			return
		case <-time.After(pace):
		}
	}
}

// endpoint says whether the Service has an endpoint that was not there before.
func (b *bench) endpoint(before []string) error {
	names, err := b.auto.Endpoints()
	if err == nil && !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(before, name) }) {
		err = errors.New("there is none")
	}
	return err
}

// giveShares measures the Vault that an administrator unseals.
func (b *bench) giveShares(t console) time.Duration {
	before := lose(t, b.shamir)
	for _, name := range b.shamir.AwaitSealed(t, nodes).VaultStatus.Sealed {
		if slices.Contains(before, name) {
			t.Fatalf("%s is sealed, and was lost", name)
		}
	}
	begin := time.Now()
	out, err := shell.TryInput(strings.Join(b.keys.UnsealKeys[:3], "\n")+"\n",
		b.plugin+" unseal "+b.shamir.Name+" -n "+namespace)
	took := time.Since(begin)
	if err != nil {
		t.Fatalf("kubectl vault unseal: %v\n%s", err, out)
	}
	b.shamir.AwaitHA(t, nodes-1)
	return took
}

func pods(t console, v vaulttest.Vault) []corev1.Pod {
	var list corev1.PodList
	out := shell.Run(t, v.Kubectl("get pods -l app.kubernetes.io/instance=%s,app.kubernetes.io/component=server -o json",
		v.Name))
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v", err)
	}
	return list.Items
}

func names(pods []corev1.Pod) []string {
	var result []string
	for _, pod := range pods {
		result = append(result, pod.Name)
	}
	return result
}

func row(what string, values []time.Duration) {
	slices.Sort(values)
	for i := range values {
		values[i] = values[i].Round(10 * time.Millisecond)
	}
	fmt.Printf("%-72s %8s %8s %8s\n", what, values[0], values[len(values)/2], values[len(values)-1])
}
