//go:build e2e

package e2e

import (
	"crypto/tls"
	"net"
	"net/http"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/test/internal/hammer"
	"github.com/vault-operator/vault-operator/test/internal/localcluster"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// clients use the Vault through its Service.
type clients struct {
	*hammer.Client
}

// longTimeout is for clients that must not fail: a small machine is busy when pods start
// and when everybody makes requests of the API server at once.
const longTimeout = "-timeout=3s"

// start starts clients on a node of the cluster, for at most as long as limit.
func (f *fixture) start(t *testing.T, node string, limit time.Duration, flags ...string) *clients {
	t.Helper()
	address := net.JoinHostPort(shell.Run(t, f.Kubectl("get service %s -o jsonpath='{.spec.clusterIP}'", f.Name)), "8200")
	netns := netnsOf(t, node)
	dial := localcluster.DialFrom(netns)
	// It follows the EndpointSlices a second or more later.
	shell.Eventually(t, "the kube-proxy of "+node+" knows where the Service leads", time.Minute, func() error {
		conn, err := dial(t.Context(), "tcp", address)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	client, err := hammer.Start(t.Context(), hammer.Options{
		Netns: netns, Addresses: "https://" + address,
		ServerName: f.Name + "." + f.Namespace + ".svc", CA: f.ca, Token: f.keys.RootToken,
		// More requests would keep a small machine busy that has pods to start meanwhile.
		Flags: append([]string{"-limit=" + limit.String(), "-interval=100ms"}, flags...),
	})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	return &clients{client}
}

// nodeClient is a client of one node, which needs no process for each of many requests.
func nodeClient(t *testing.T, v vaulttest.Vault, pod, token string) *vaultapi.Client {
	t.Helper()
	var of corev1.Pod
	if err := vaulttest.Get(v.Namespace, pod, &of); err != nil {
		t.Fatal(err)
	}
	config := vaultapi.DefaultConfig()
	config.Address, config.MaxRetries = "https://"+net.JoinHostPort(of.Status.PodIP, "8200"), 0
	config.HttpClient.Transport = &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // in the network of the cluster on this machine
		DialContext:     localcluster.DialFrom(netnsOf(t, of.Spec.NodeName)),
	}
	client, err := vaultapi.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	client.SetToken(token)
	return client
}

// stop ends the clients, and fails the test when an acknowledged write is lost.
func (c *clients) stop(t *testing.T) hammer.Report {
	t.Helper()
	r, err := c.Stop()
	if err != nil {
		t.Fatalf("hammer: %v", err)
	}
	t.Logf("writes %+v, reads %+v", r.Writes, r.Reads)
	if len(r.Lost) > 0 {
		t.Errorf("%d acknowledged writes are lost, for example %s", len(r.Lost), r.Lost[0])
	}
	return r
}

// underLoad runs fn, with the name of the active pod, while clients use the Vault, and
// restores it.
func (f *fixture) underLoad(t *testing.T, fn func(active string), flags ...string) hammer.Report {
	t.Helper()
	active := f.AwaitHA(t, f.nodes-1).VaultStatus.Active
	// From a node of the cluster that stays, by its kube-proxy.
	node := shell.Run(t, "kubectl get nodes -o name | grep -v "+f.nodeOf(t, active)+" | head -1 | cut -d/ -f2")
	c := f.start(t, node, 10*time.Minute, flags...)
	fn(active)
	f.restore(t)
	return c.stop(t)
}

// outageBesideOthers is for how long clients may not be served by one handover, in a test that others run beside
// on the same CPUs. At rest that takes a second or two, which the benchmarks measure.
const outageBesideOthers = 45 * time.Second

// requireOutage fails the test when clients were not served for longer than the bound.
func requireOutage(t *testing.T, r hammer.Report, bound time.Duration) {
	t.Helper()
	if outage := max(r.Writes.Outage, r.Reads.Outage); outage > bound {
		t.Errorf("clients were not served for %s, want at most %s", outage, bound)
	}
}

// requireOneHandover fails the test when requests failed at any other time than in one
// handover.
func requireOneHandover(t *testing.T, r hammer.Report) {
	t.Helper()
	requireOutage(t, r, handover)
	for _, o := range []hammer.Outcome{r.Writes, r.Reads} {
		if between := o.LastFailed.Sub(o.FirstFailed); between > handover {
			t.Errorf("%d of %d requests failed within %s, want all within one handover of %s; the last one with: %s",
				o.Failed, o.Requests, between, handover, o.LastError)
		}
	}
}

// requireNoFailure fails the test when a request was not served.
func requireNoFailure(t *testing.T, r hammer.Report) {
	t.Helper()
	for _, o := range []hammer.Outcome{r.Writes, r.Reads} {
		if o.Failed > 0 {
			t.Errorf("%d of %d requests failed, the last one with: %s", o.Failed, o.Requests, o.LastError)
		}
	}
}
