package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"text/template"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
	"github.com/vault-operator/vault-operator/test/internal/localcluster"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

const (
	namespace = "bench-failover"
	// nodes of every Vault.
	nodes = 3
	// peers is the Vault resource whose etcd and certificates the peers use.
	peers = "peers"
	// ours has its data in etcd, and oursRaft in integrated storage. In oursLogin the operator
	// may make the active node step down.
	ours      = "ours"
	oursLogin = "ours-login"
	oursRaft  = "ours-raft"
	// oursRaft2 and oursRaft3 wait longer before another leader is elected.
	oursRaft2 = "ours-raft-2"
	oursRaft3 = "ours-raft-3"
)

// own are the specs of the Vaults that the operator runs.
var own = map[string]string{
	ours:      "storage: {etcd: {whenDeleted: Delete}}",
	oursLogin: "storage: {etcd: {whenDeleted: Delete}}, operatorLogin: {enabled: true}",
	oursRaft:  "storage: {raft: {whenDeleted: Delete}}",
	oursRaft2: "storage: {raft: {whenDeleted: Delete, performanceMultiplier: 2}}",
	oursRaft3: "storage: {raft: {whenDeleted: Delete, performanceMultiplier: 3}}",
}

// versions of Vault that upgrades go between; it begins with the first.
var versions = []string{"1.21.0", "1.21.1"}

// variant is a way for clients to find the active node of a Vault.
type variant struct {
	name, set string
	// service that clients use; empty when they send each request to every node.
	service string
	// title in the report.
	title string
	// wait is how long clients wait for a response that try again until they are served.
	// The others wait requestTimeout, and do not try again.
	wait time.Duration
}

var variants = []variant{
	{name: "floor", set: ours, title: "Vault alone"},
	{name: ours, set: ours, service: ours, title: "Vault Operator"},
	{name: "vault-helm", set: "vault-helm", service: "vault-helm", title: "vault-helm"},
	{name: "vault-helm-ready", set: "vault-helm", service: "vault-helm-ready", title: "vault-helm, ready only"},
	{name: "coreos", set: "coreos", service: "coreos", title: "CoreOS operator"},
	{name: "kubevault", set: "kubevault", service: "kubevault", title: "KubeVault"},
	{name: oursLogin, set: oursLogin, service: oursLogin, title: "Vault Operator, step-down"},
	{name: "floor-raft", set: oursRaft, title: "Vault alone, raft"},
	{name: oursRaft, set: oursRaft, service: oursRaft, title: "Vault Operator, raft"},
	{name: "vault-helm-raft", set: "vault-helm-raft", service: "vault-helm-raft", title: "vault-helm, raft"},
	{name: "vault-helm-raft-ready", set: "vault-helm-raft", service: "vault-helm-raft-ready",
		title: "vault-helm, ready only, raft"},
}

// slower are not measured unless they are chosen: they show what performanceMultiplier costs.
var slower = []variant{
	{name: oursRaft2, set: oursRaft2, service: oursRaft2, title: "Vault Operator, raft, performanceMultiplier 2"},
	{name: oursRaft3, set: oursRaft3, service: oursRaft3, title: "Vault Operator, raft, performanceMultiplier 3"},
}

// reported are the variants in the report.
var reported = slices.Concat(variants, slower)

// retrying are variants whose clients try again, to compare rules of when a node that
// does not respond is taken out of the Service. They are not in the report.
var retrying = []variant{
	{name: "ours-1s", set: ours, service: ours, wait: time.Second},
	{name: "ours-60s", set: ours, service: ours, wait: time.Minute},
}

func namesOf(list []variant) (names []string) {
	for _, v := range list {
		names = append(names, v.name)
	}
	return names
}

// set is a Vault of three nodes.
type set struct {
	name   string
	keys   vaulttest.Keys
	client *http.Client
	// unsealed is when a pod was sent the key, by its UID: with integrated storage it joins the others
	// first, and must not be sent it again meanwhile.
	unsealed sync.Map
}

// peer says that it is not the operator that runs it.
func (s *set) peer() bool { return own[s.name] == "" }

// resource is the Vault resource that the certificates belong to.
func (s *set) resource() *v1alpha1.Vault {
	name := s.name
	if s.peer() {
		name = peers
	}
	return &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
}

func (s *set) serverName() string { return s.resource().ServerName() }

func (s *set) labels() map[string]string {
	if s.peer() {
		return map[string]string{"bench": s.name}
	}
	return s.resource().PodLabels()
}

// bench is the Vaults that are compared.
type bench struct {
	client.Client
	variants []variant
	interval time.Duration
	sets     map[string]*set
	dir      string
	// sidecars stand in for those of KubeVault.
	sidecars sidecars
}

func newBench(chosen []variant, interval time.Duration) (*bench, error) {
	if os.Getenv("LOCAL_CLUSTER") == "" {
		return nil, errors.New(`signals to processes and cut cables need the local cluster: run "make bench-failover"`)
	}
	kubeconfig, err := config.GetConfig()
	if err != nil {
		return nil, err
	}
	scheme := clientgoscheme.Scheme
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	c, err := client.New(kubeconfig, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench-failover-")
	if err != nil {
		return nil, err
	}
	b := &bench{Client: c, variants: chosen, interval: interval, sets: map[string]*set{}, dir: dir}
	for _, v := range chosen {
		b.sets[v.set] = &set{name: v.set}
	}
	return b, nil
}

func (b *bench) close() { _ = os.RemoveAll(b.dir) } // it is in the temporary folder

func (b *bench) caFile(s *set) string { return filepath.Join(b.dir, s.resource().Name+"-ca.crt") }

// setUp brings up the Vaults that are not up yet.
func (b *bench) setUp(ctx context.Context) error {
	// An earlier run may have been killed while a node was cut off.
	var list corev1.NodeList
	if err := b.List(ctx, &list); err != nil {
		return err
	}
	for _, node := range list.Items {
		if err := setLink(node.Name, "join"); err != nil {
			return err
		}
	}
	if err := b.apply(); err != nil {
		return err
	}
	var wait sync.WaitGroup
	failures := make(chan error, len(b.sets))
	for _, s := range b.sets {
		wait.Go(func() { failures <- b.open(ctx, s) })
	}
	wait.Wait()
	for range b.sets {
		if err := <-failures; err != nil {
			return err
		}
	}
	if s := b.sets["kubevault"]; s != nil {
		go b.sidecars.run(ctx, b, s)
	}
	if s := b.sets[oursLogin]; s != nil {
		if err := b.awaitLogin(ctx, s); err != nil {
			return err
		}
	}
	return b.restore(ctx)
}

// awaitLogin waits until the operator may make the active node step down.
func (b *bench) awaitLogin(ctx context.Context, s *set) error {
	return poll.Until(ctx, "the operator is authorized", 6*time.Minute, time.Second, func() error {
		vault := s.resource()
		if err := b.Get(ctx, client.ObjectKeyFromObject(vault), vault); err != nil {
			return err
		}
		if !meta.IsStatusConditionTrue(vault.Status.Conditions, v1alpha1.AuthorizedCondition) {
			return errors.New(s.name + " does not say so")
		}
		return nil
	})
}

//go:embed peers.yaml
var peersTemplate string

// apply creates the objects of the Vaults. What is there stays as it is: it may
// have been upgraded.
func (b *bench) apply() error {
	manifests := []string{
		`{apiVersion: v1, kind: Namespace, metadata: {name: ` + namespace + `}}`,
		// Its own node is never initialized.
		vaultManifest(peers, 1, own[ours]),
	}
	templates, err := template.New("").Parse(peersTemplate)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(b.sets)) {
		if spec := own[name]; spec != "" {
			manifests = append(manifests, vaultManifest(name, nodes, spec))
			continue
		}
		var out bytes.Buffer
		err := templates.ExecuteTemplate(&out, name, map[string]any{"Name": name, "Namespace": namespace,
			"Version": versions[0], "ServerName": b.sets[name].serverName(), "CA": b.sets[name].resource().ClientSecretName(),
			"Raft": strings.HasSuffix(name, "-raft")})
		if err != nil {
			return err
		}
		manifests = append(manifests, out.String())
	}
	// One manifest at a time: "create" refuses those that exist.
	for _, manifest := range manifests {
		for object := range strings.SplitSeq(manifest, "\n---\n") {
			out, err := shell.TryInput(object, "kubectl create -f -")
			if err != nil && !strings.Contains(out, "AlreadyExists") {
				return fmt.Errorf("%w\n%s", err, object)
			}
		}
	}
	return nil
}

func vaultManifest(name string, nodes int, spec string) string {
	return fmt.Sprintf(`{apiVersion: vault.security.coreos.com/v1alpha1, kind: Vault, metadata: {name: %s, namespace: `+
		`%s}, spec: {nodes: %d, version: %s, %s}}`,
		name, namespace, nodes, versions[0], spec)
}

// open makes a Vault reachable for this program, and initializes it if that has
// not been done. The keys of a Vault that holds nothing are kept beside it.
func (b *bench) open(ctx context.Context, s *set) error {
	if err := b.trust(ctx, s); err != nil {
		return err
	}
	var pod corev1.Pod
	err := poll.Until(ctx, s.name+" has nodes that respond", 4*time.Minute, pace, func() error {
		pods, err := b.podsOf(ctx, s)
		if err != nil {
			return err
		}
		if len(pods) == 0 {
			return errors.New("it has no pods")
		}
		pod = pods[0]
		_, err = b.health(ctx, s, pod)
		return err
	})
	if err != nil {
		return err
	}
	key := types.NamespacedName{Namespace: namespace, Name: s.name + "-keys"}
	var secret corev1.Secret
	err = b.Get(ctx, key, &secret)
	if err == nil {
		return json.Unmarshal(secret.Data["keys"], &s.keys)
	}
	if !apierrors.IsNotFound(err) {
		return err
	}
	if err := b.initialize(ctx, s, pod); err != nil {
		return err
	}
	content, err := json.Marshal(s.keys)
	if err != nil {
		return err
	}
	return b.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name}, Data: map[string][]byte{"keys": content},
	})
}

// trust reads the CA of a Vault.
func (b *bench) trust(ctx context.Context, s *set) error {
	var pem []byte
	err := poll.Until(ctx, s.name+" has certificates", time.Minute, pace, func() error {
		var secret corev1.Secret
		err := b.Get(ctx, types.NamespacedName{Namespace: namespace, Name: s.resource().ClientSecretName()}, &secret)
		pem = secret.Data[v1alpha1.ClientCAKey]
		return err
	})
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	netns, err := localcluster.Netns(localcluster.ControlPlane)
	if err != nil {
		return err
	}
	s.client = &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: s.serverName(), MinVersion: tls.VersionTLS12},
		// From beside the control plane, which no test takes away.
		DialContext: localcluster.DialFrom(netns),
	}}
	return os.WriteFile(b.caFile(s), pem, 0o644)
}

func (b *bench) initialize(ctx context.Context, s *set, pod corev1.Pod) error {
	vault, err := s.at(pod)
	if err != nil {
		return err
	}
	keys, err := vault.Sys().InitWithContext(ctx, &vaultapi.InitRequest{SecretShares: 1, SecretThreshold: 1})
	if err != nil {
		return err
	}
	s.keys = vaulttest.Keys{UnsealKeys: keys.KeysB64, RootToken: keys.RootToken}
	var active corev1.Pod
	err = poll.Until(ctx, s.name+" is active", time.Minute, pace, func() error {
		found, err := b.tend(ctx, s)
		if err == nil && found.active == nil {
			err = errors.New("no node is")
		}
		if err == nil {
			active = *found.active
		}
		return err
	})
	if err != nil {
		return err
	}
	if vault, err = s.at(active); err != nil {
		return err
	}
	err = vault.Sys().MountWithContext(ctx, "secret", &vaultapi.MountInput{Type: "kv",
		Options: map[string]string{"version": "1"}})
	if err != nil {
		return err
	}
	if err := vault.KVv1("secret").Put(ctx, "foo", map[string]any{"value": "bar"}); err != nil || s.name != oursLogin {
		return err
	}
	_, err = vaulttest.Vault{Namespace: namespace, Name: s.name}.Plugin(s.keys.RootToken+"\n", "authorize")
	return err
}

// at returns a client of one node.
func (s *set) at(pod corev1.Pod) (*vaultapi.Client, error) {
	vault, err := vaultapi.NewClient(&vaultapi.Config{Address: addressOf(pod), HttpClient: s.client})
	if err != nil {
		return nil, err
	}
	vault.SetToken(s.keys.RootToken)
	return vault, nil
}

func addressOf(pod corev1.Pod) string { return "https://" + net.JoinHostPort(pod.Status.PodIP, "8200") }

// addressesOf returns where the nodes are, also those that are about to go.
func addressesOf(pods []corev1.Pod) (addresses []string) {
	for _, pod := range pods {
		if pod.Status.PodIP != "" {
			addresses = append(addresses, addressOf(pod))
		}
	}
	return addresses
}

func (b *bench) podsOf(ctx context.Context, s *set) ([]corev1.Pod, error) {
	var list corev1.PodList
	err := b.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels(s.labels()))
	return list.Items, err
}

// healthTimeout is how long a node may take to respond to this program.
const healthTimeout = 2 * time.Second

func (b *bench) health(ctx context.Context, s *set, pod corev1.Pod) (*vaultapi.HealthResponse, error) {
	if pod.Status.PodIP == "" {
		return nil, errors.New("pod " + pod.Name + " has no address yet")
	}
	vault, err := s.at(pod)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	return vault.Sys().HealthWithContext(ctx)
}

// state of a Vault's nodes, without those that are being deleted.
type state struct {
	active  *corev1.Pod
	standby []corev1.Pod
	// other nodes do not respond or wait to be unsealed.
	other []corev1.Pod
	// addresses of all nodes, also of those that are being deleted.
	addresses []string
}

func (s state) pods() []corev1.Pod {
	all := slices.Concat(s.standby, s.other)
	if s.active != nil {
		all = append(all, *s.active)
	}
	return all
}

func (s state) whole() bool {
	return s.active != nil && len(s.standby) == nodes-1 && len(s.other) == 0
}

// tend reads the state of the nodes of a Vault and unseals those that wait
// for it.
func (b *bench) tend(ctx context.Context, s *set) (found state, err error) {
	pods, err := b.podsOf(ctx, s)
	if err != nil {
		return found, err
	}
	found.addresses = addressesOf(pods)
	pods = slices.DeleteFunc(pods, func(pod corev1.Pod) bool { return pod.DeletionTimestamp != nil })
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, pod := range pods {
		wait.Go(func() {
			health, err := b.health(ctx, s, pod)
			if err == nil && health.Initialized && health.Sealed {
				err = s.unseal(ctx, pod) // what it is then is found the next time
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil || health.Sealed:
				found.other = append(found.other, pod)
			case health.Standby:
				found.standby = append(found.standby, pod)
			default:
				found.active = &pod
			}
		})
	}
	wait.Wait()
	return found, nil
}

func (s *set) unseal(ctx context.Context, pod corev1.Pod) error {
	if when, known := s.unsealed.Load(pod.UID); known && time.Since(when.(time.Time)) < vaulttest.JoinTime {
		return nil
	}
	vault, err := s.at(pod)
	if err != nil {
		return err
	}
	status, err := vault.Sys().UnsealWithContext(ctx, s.keys.UnsealKeys[0])
	if strings.Contains(s.name, "raft") && (err != nil || status.Sealed) {
		s.unsealed.Store(pod.UID, time.Now())
	}
	return err
}

// stuck is how long a Service of a peer may lead to a pod that is not active
// before an administrator would do something about it.
const stuck = time.Minute

// restore waits until every Vault is whole, its Services lead to the active node
// and nothing else, and the cluster and the storage are as they should be.
func (b *bench) restore(ctx context.Context) error {
	begin := time.Now()
	return poll.Until(ctx, "everything is whole", 5*time.Minute, pace, func() error {
		if err := b.healthyCluster(ctx); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(b.sets)) {
			found, err := b.tend(ctx, b.sets[name])
			if err != nil {
				return err
			}
			if !found.whole() || len(found.addresses) != nodes {
				return fmt.Errorf("%s has %d standby nodes and %d others", name, len(found.standby), len(found.other))
			}
			if err := b.vote(ctx, b.sets[name], found); err != nil {
				return err
			}
			astray, err := b.lead(ctx, b.sets[name], found)
			if err != nil && b.sets[name].peer() && time.Since(begin) > stuck {
				begin = time.Now()
				fmt.Println("stuck:", err)
				err = errors.Join(err, b.replace(ctx, found.standby, astray))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// vote says that not all nodes of a Vault with integrated storage vote: one that has joined a few seconds ago could
// elect no other leader.
func (b *bench) vote(ctx context.Context, s *set, found state) error {
	if !strings.Contains(s.name, "raft") {
		return nil
	}
	vault, err := s.at(*found.active)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	raft, err := vault.Sys().RaftAutopilotStateWithContext(ctx)
	if err == nil && (raft == nil || len(raft.Voters) != nodes) {
		err = fmt.Errorf("not all nodes of %s vote", s.name)
	}
	return err
}

// lead says which of the Services of a Vault that is whole does not lead to its active
// node alone, and where it leads.
func (b *bench) lead(ctx context.Context, s *set, found state) (endpoints []string, err error) {
	for _, v := range b.variants {
		if v.set != s.name || v.service == "" {
			continue
		}
		endpoints, err = b.endpoints(ctx, v.service)
		if err == nil && !slices.Equal(endpoints, []string{found.active.Name}) {
			err = fmt.Errorf("service %s leads to %s, and %s is active", v.service, endpoints, found.active.Name)
		}
		if err != nil {
			return endpoints, err
		}
	}
	return nil, nil
}

// replace deletes those of the pods that have one of the names: a label that
// Vault failed to take off its own pod stays on it.
// https://github.com/hashicorp/vault/issues/18117
func (b *bench) replace(ctx context.Context, pods []corev1.Pod, names []string) error {
	for _, pod := range pods {
		if slices.Contains(names, pod.Name) {
			if err := b.Delete(ctx, &pod); err != nil {
				return err
			}
		}
	}
	return nil
}

// healthyCluster says what of the cluster, of the operator or of the storage is
// not as it should be.
func (b *bench) healthyCluster(ctx context.Context) error {
	var list corev1.NodeList
	if err := b.List(ctx, &list); err != nil {
		return err
	}
	for _, node := range list.Items {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status != corev1.ConditionTrue {
				return fmt.Errorf("%s is not ready", node.Name)
			}
		}
	}
	var operator appsv1.DeploymentList
	if err := b.List(ctx, &operator, client.InNamespace("vault-operator-system")); err != nil {
		return err
	}
	for _, d := range operator.Items {
		if d.Status.ReadyReplicas != d.Status.Replicas || d.Status.UpdatedReplicas != d.Status.Replicas {
			return fmt.Errorf("%s has %d of %d replicas", d.Name, d.Status.ReadyReplicas, d.Status.Replicas)
		}
	}
	var etcd appsv1.StatefulSetList
	err := b.List(ctx, &etcd, client.InNamespace(namespace),
		client.MatchingLabels{v1alpha1.ComponentLabel: v1alpha1.EtcdComponent})
	if err != nil {
		return err
	}
	for _, s := range etcd.Items {
		if s.Status.ReadyReplicas != s.Status.Replicas {
			return fmt.Errorf("%s has %d of %d members", s.Name, s.Status.ReadyReplicas, s.Status.Replicas)
		}
	}
	return nil
}

// endpoints are the pods that a Service sends clients to.
func (b *bench) endpoints(ctx context.Context, service string) (pods []string, err error) {
	var list discoveryv1.EndpointSliceList
	err = b.List(ctx, &list, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service})
	for _, slice := range list.Items {
		for _, endpoint := range slice.Endpoints {
			if endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready {
				pods = append(pods, endpoint.TargetRef.Name)
			}
		}
	}
	return pods, err
}

func (b *bench) clusterIP(ctx context.Context, service string) (string, error) {
	var s corev1.Service
	err := b.Get(ctx, types.NamespacedName{Namespace: namespace, Name: service}, &s)
	return s.Spec.ClusterIP, err
}

// pace is the interval of checks whether something is as it is waited for.
const pace = 300 * time.Millisecond

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
