package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// pageLimit is how many objects of a kind are read at a time, and at most where one Vault has not as many.
const pageLimit = 500

var vaultResource = v1alpha1.GroupVersion.WithResource("vaults")

// cluster is what the commands use of Kubernetes.
type cluster struct {
	namespace string
	objects   dynamic.Interface
	core      corev1client.CoreV1Interface
	// serverVersion is the version of Kubernetes, for a report.
	serverVersion func() (string, error)
	// forward makes the port of Vault in a pod reachable at an address of this machine.
	forward func(ctx context.Context, pod string) (address string, stop func(), err error)
	// inPod runs a command in a container and returns what it printed to standard output.
	inPod func(ctx context.Context, pod, container, stdin string, command ...string) (string, error)
}

func newCluster(flags *genericclioptions.ConfigFlags) (*cluster, error) {
	namespace, _, err := flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return nil, err
	}
	config, err := flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	config.QPS, config.Burst = 50, 100
	reads := rest.CopyConfig(config)
	reads.Wrap(func(transport http.RoundTripper) http.RoundTripper {
		return &retrying{RoundTripper: transport, every: retryEvery}
	})
	objects, err := dynamic.NewForConfig(reads)
	if err != nil {
		return nil, err
	}
	core, err := corev1client.NewForConfig(reads)
	if err != nil {
		return nil, err
	}
	c := &cluster{namespace: namespace, objects: objects, core: core}
	c.serverVersion = func() (string, error) {
		client, err := flags.ToDiscoveryClient()
		if err != nil {
			return "", err
		}
		version, err := client.ServerVersion()
		if err != nil {
			return "", err
		}
		return version.GitVersion, nil
	}
	c.forward = func(ctx context.Context, pod string) (string, func(), error) {
		request := core.RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward")
		return portForward(ctx, config, request.URL())
	}
	c.inPod = func(ctx context.Context, pod, container, stdin string, command ...string) (string, error) {
		request := core.RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
			VersionedParams(&corev1.PodExecOptions{
				Container: container, Command: command, Stdin: stdin != "", Stdout: true, Stderr: true,
			}, scheme.ParameterCodec)
		return execute(ctx, config, request.URL(), stdin)
	}
	return c, nil
}

// portForward forwards a free port of the loopback address.
func portForward(ctx context.Context, config *rest.Config, to *url.URL) (string, func(), error) {
	dialer, err := dialerFor(config, to)
	if err != nil {
		return "", nil, err
	}
	stopped, ready, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	ports := []string{fmt.Sprintf("0:%d", v1alpha1.ClientPort)}
	forwarder, err := portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, ports, stopped, ready,
		io.Discard, io.Discard)
	if err != nil {
		return "", nil, err
	}
	stop := sync.OnceFunc(func() { close(stopped) })
	go func() { ended <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		// The library keeps no more of the answer than its text.
		if err != nil && strings.Contains(strings.ToLower(err.Error()), "forbidden") {
			return "", nil, fmt.Errorf("%w: %w", errForbidden, err)
		}
		return "", nil, fmt.Errorf("port-forward: %w", err)
	case <-ctx.Done():
		stop()
		return "", nil, fmt.Errorf("port-forward: %w", ctx.Err())
	}
	forwarded, err := forwarder.GetPorts()
	if err != nil {
		stop()
		return "", nil, err
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(int(forwarded[0].Local))), stop, nil
}

// dialerFor dials over a websocket, and as older API servers want it if that is refused, as
// kubectl does.
func dialerFor(config *rest.Config, to *url.URL) (httpstream.Dialer, error) {
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	websocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(to, config)
	if err != nil {
		return nil, err
	}
	old := spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, to)
	return portforward.NewFallbackDialerForStreaming(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	}), nil
}

// names are the names of the Vaults in the namespace.
func (c *cluster) names(ctx context.Context) ([]string, error) {
	list, err := c.objects.Resource(vaultResource).Namespace(c.namespace).List(ctx, metav1.ListOptions{Limit: pageLimit})
	if err != nil {
		return nil, err
	}
	names := make([]string, 0, len(list.Items))
	for i := range list.Items {
		names = append(names, list.Items[i].GetName())
	}
	return names, nil
}

// eachOf calls a function with each object of a kind in the namespace.
func eachOf[T any](
	ctx context.Context, c *cluster, kind schema.GroupVersionResource, call func(*T) error,
) error {
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return c.objects.Resource(kind).Namespace(c.namespace).List(ctx, options)
	})
	pages.PageSize = pageLimit
	return pages.EachListItem(ctx, metav1.ListOptions{}, func(object runtime.Object) error {
		item := new(T)
		err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.(*unstructured.Unstructured).Object, item)
		if err != nil {
			return err
		}
		return call(item)
	})
}

func (c *cluster) vault(ctx context.Context, name string) (*v1alpha1.Vault, error) {
	object, err := c.objects.Resource(vaultResource).Namespace(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("there is no Vault %s in the namespace %s: %w", name, c.namespace, err)
	}
	if err != nil {
		return nil, err
	}
	vault := &v1alpha1.Vault{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, vault); err != nil {
		return nil, err
	}
	return vault, nil
}

// target is a Vault, and what is needed to speak to its nodes.
type target struct {
	*cluster
	vault *v1alpha1.Vault
	ca    []byte

	mu    sync.Mutex
	nodes map[types.UID]*Node
}

func (c *cluster) target(ctx context.Context, name string) (*target, error) {
	vault, err := c.vault(ctx, name)
	if err != nil {
		return nil, err
	}
	ca, err := c.readCA(ctx, vault)
	if err != nil {
		return nil, err
	}
	return &target{cluster: c, vault: vault, ca: ca, nodes: map[types.UID]*Node{}}, nil
}

// readCA reads the CA that clients verify the nodes with.
func (c *cluster) readCA(ctx context.Context, vault *v1alpha1.Vault) ([]byte, error) {
	name := vault.ClientSecretName()
	secret, err := c.core.Secrets(c.namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("the CA of Vault cannot be read: %w", err)
	}
	for _, key := range []string{v1alpha1.ClientCAKey, corev1.ServiceAccountRootCAKey} {
		if ca := secret.Data[key]; len(ca) > 0 {
			return ca, nil
		}
	}
	return nil, fmt.Errorf("the Secret %s has no key %s with the CA of Vault", name, v1alpha1.ClientCAKey)
}

// refresh reads the Vault again.
func (t *target) refresh(ctx context.Context) error {
	vault, err := t.cluster.vault(ctx, t.vault.Name)
	if err == nil {
		t.vault = vault
	}
	return err
}

// pods are those of Vault nodes that are there to stay, by name. One that has been made by hand
// with the labels of a Vault is no node.
func (t *target) pods(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := t.allPods(ctx, t.vault.PodLabels())
	return slices.DeleteFunc(pods, func(pod corev1.Pod) bool {
		return pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	}), err
}

// allPods are the pods with these labels that a controller has made, by name.
func (c *cluster) allPods(ctx context.Context, wanted map[string]string) ([]corev1.Pod, error) {
	list, err := c.core.Pods(c.namespace).List(ctx, metav1.ListOptions{
		LabelSelector: labels.SelectorFromSet(wanted).String(), Limit: pageLimit,
	})
	if err != nil {
		return nil, err
	}
	pods := slices.DeleteFunc(list.Items, func(pod corev1.Pod) bool { return !controlled(&pod) })
	slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	return pods, nil
}

func controlled(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && (owner.Kind == "ReplicaSet" || owner.Kind == "StatefulSet")
}

// errForbidden says that a right is missing, so that waiting is of no use.
var errForbidden = errors.New("you may not forward ports")

// errNotRunning is for a pod whose Vault container does not run.
var errNotRunning = errors.New("it is starting")

// connectTimeout is for how long it may take to reach a pod.
const connectTimeout = 30 * time.Second

// running says that a container runs, as Kubernetes reports it.
func running(pod *corev1.Pod, container string) bool {
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(status corev1.ContainerStatus) bool {
		return status.Name == container && status.State.Running != nil
	})
}

// node connects to the Vault node of a pod. The connection is kept until it is dropped.
func (t *target) node(ctx context.Context, pod *corev1.Pod) (*Node, error) {
	t.mu.Lock()
	node := t.nodes[pod.UID]
	t.mu.Unlock()
	if node != nil {
		return node, nil
	}
	if !running(pod, v1alpha1.VaultContainer) {
		return nil, errNotRunning
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	address, stop, err := t.forward(ctx, pod.Name)
	if err != nil {
		return nil, err
	}
	node, err = NewNode(pod.Name, address, t.vault.ServerName(), t.ca)
	if err != nil {
		stop()
		return nil, err
	}
	node.stop = stop
	t.mu.Lock()
	t.nodes[pod.UID] = node
	t.mu.Unlock()
	return node, nil
}

// drop closes the connection to a node. A port-forward does not outlive a connection that
// its pod has refused.
func (t *target) drop(pod *corev1.Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if node := t.nodes[pod.UID]; node != nil {
		node.Close()
		delete(t.nodes, pod.UID)
	}
}

func (t *target) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for uid, node := range t.nodes {
		node.Close()
		delete(t.nodes, uid)
	}
}

// seen is a pod of a Vault, and what its node says of itself.
type seen struct {
	pod  corev1.Pod
	node *Node
	seal *SealStatus
	// err says why the node did not answer.
	err error
}

func (s *seen) sealed() bool   { return s.err == nil && s.seal.Initialized && s.seal.Sealed }
func (s *seen) unsealed() bool { return s.err == nil && !s.seal.Sealed }

// look asks all nodes whether they are sealed.
func (t *target) look(ctx context.Context) ([]*seen, error) {
	pods, err := t.pods(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]*seen, len(pods))
	var wait sync.WaitGroup
	for i := range pods {
		all[i] = &seen{pod: pods[i]}
		wait.Go(func() { t.readSeal(ctx, all[i]) })
	}
	wait.Wait()
	for _, s := range all {
		if errors.Is(s.err, errForbidden) {
			return nil, s.err
		}
	}
	return all, ctx.Err()
}

// readSeal asks a node whether it is sealed, with a new connection when the old one is of no use.
func (t *target) readSeal(ctx context.Context, s *seen) {
	for range 2 {
		if s.node, s.err = t.node(ctx, &s.pod); s.err != nil {
			return
		}
		if s.seal, s.err = s.node.SealStatus(ctx); s.err == nil {
			return
		}
		t.drop(&s.pod)
	}
}

// active connects to the node that is active, as the nodes say themselves: the status may be
// of a moment ago, or of an operator that is down. When several say so it may be any of them.
func (t *target) active(ctx context.Context) (*seen, error) {
	all, err := t.look(ctx)
	if err != nil {
		return nil, err
	}
	var reasons, claims []string
	var active *seen
	sealed := 0
	for _, s := range all {
		switch {
		case s.err != nil:
			reasons = append(reasons, s.pod.Name+": "+reason(s.err))
		case s.seal.Sealed:
			sealed++
			reasons = append(reasons, s.pod.Name+" is sealed")
		default:
			switch leads, err := s.node.IsActive(ctx); {
			case err != nil:
				reasons = append(reasons, s.pod.Name+": "+reason(err))
			case leads:
				active, claims = s, append(claims, s.pod.Name)
			default:
				reasons = append(reasons, s.pod.Name+" is standby")
			}
		}
	}
	if len(claims) > 1 {
		return nil, fmt.Errorf("more than one node of Vault %s says that it is active, so nothing is sent to any: %s",
			t.vault.Name, strings.Join(claims, ", "))
	}
	if active != nil {
		return active, nil
	}
	if len(reasons) == 0 {
		reasons = []string{"there are no pods"}
	}
	code := exitError
	if sealed > 0 && sealed == len(all) {
		code = exitSealed
	}
	return nil, exit(code, "no node of Vault %s is active: %s", t.vault.Name, strings.Join(reasons, ", "))
}
