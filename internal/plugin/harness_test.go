package plugin

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
)

// TestMain is the plugin itself where a test needs a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv(beThePlugin) != "" {
		os.Exit(Main("test"))
	}
	os.Exit(m.Run())
}

const beThePlugin = "BE_KUBECTL_VAULT"

// process is the plugin as a process of its own.
func (h *harness) process(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], append([]string{"--server", h.api.URL, "--namespace", "default"}, args...)...)
	cmd.Env = append(os.Environ(), beThePlugin+"=yes")
	return cmd
}

const serverName = "example.default.svc"

// fakeAPI is an API server that has the objects of one Vault, and forwards ports to where
// its nodes really are.
type fakeAPI struct {
	*httptest.Server
	t testing.TB

	mu sync.Mutex
	// objects by kind, such as "pods".
	objects map[string][]any
	logs    map[string]string
	// refused are the answers to who asks for the log of a pod, if that is refused.
	refused map[string]int
	// nodes are the addresses of Vault nodes, by pod.
	nodes map[string]string
	// forbidden says that ports may not be forwarded.
	forbidden bool
	// created makes an object of what is posted.
	created  func(io.Reader) any
	received []string
}

func newFakeAPI(t testing.TB, ca []byte) *fakeAPI {
	t.Helper()
	a := &fakeAPI{t: t, objects: map[string][]any{}, logs: map[string]string{}, nodes: map[string]string{}}
	a.Server = httptest.NewUnstartedServer(a)
	a.Config.ErrorLog = log.New(io.Discard, "", 0)
	a.Start()
	t.Cleanup(a.Close)
	a.set("secrets", &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: "example-default-vault-client-tls", Namespace: "default"},
		Data:       map[string][]byte{v1alpha1.ClientCAKey: ca},
	})
	return a
}

func (a *fakeAPI) set(kind string, objects ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.objects[kind] = objects
}

// refuse has the log of a pod refused. A request of an earlier command may still be served.
func (a *fakeAPI) refuse(pod string, code int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.refused == nil {
		a.refused = map[string]int{}
	}
	a.refused[pod] = code
}

// requests are those of a kind that were made.
func (a *fakeAPI) requests() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.received)
}

func (a *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.received = append(a.received, r.Method+" "+r.URL.Path)
	a.mu.Unlock()
	if r.URL.Path == "/version" {
		_ = json.NewEncoder(w).Encode(version.Info{GitVersion: "v1.2.3"})
		return
	}
	_, path, found := strings.Cut(r.URL.Path, "/namespaces/default/")
	parts := strings.Split(path, "/")
	switch {
	case !found:
		http.NotFound(w, r)
	case r.Method == http.MethodPost && len(parts) == 1 && a.created != nil:
		object := a.created(r.Body)
		a.set(parts[0], object)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(object)
	case len(parts) == 3 && parts[2] == "portforward":
		a.forward(w, r, parts[1])
	case len(parts) == 3 && parts[2] == "log":
		a.mu.Lock()
		defer a.mu.Unlock()
		if code := a.refused[parts[1]]; code != 0 {
			http.Error(w, "no log", code)
			return
		}
		_, _ = io.WriteString(w, a.logs[parts[1]+"/"+r.URL.Query().Get("container")])
	default:
		a.get(w, r, parts)
	}
}

func (a *fakeAPI) get(w http.ResponseWriter, r *http.Request, parts []string) {
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	items := []any{}
	for _, object := range a.objects[parts[0]] {
		text, _ := json.Marshal(object)
		var meta metav1.PartialObjectMetadata
		_ = json.Unmarshal(text, &meta)
		if len(parts) == 2 && meta.Name == parts[1] {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(text)
			return
		}
		if selector.Matches(labels.Set(meta.Labels)) {
			items = append(items, json.RawMessage(text))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if len(parts) == 2 {
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
			Status:   "Failure", Reason: metav1.StatusReasonNotFound, Code: 404, Message: parts[1] + " not found",
		})
		return
	}
	kind := "List"
	if parts[0] == "pods" {
		kind = "PodList" // a typed client takes no other
	}
	// As the API server does, in pages where that is asked for.
	meta := map[string]any{}
	from, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	items = items[min(from, len(items)):]
	if limit, _ := strconv.Atoi(r.URL.Query().Get("limit")); limit > 0 && len(items) > limit {
		items, meta["continue"] = items[:limit], strconv.Itoa(from+limit)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "v1", "kind": kind, "metadata": meta, "items": items})
}

// forward forwards to a node as a kubelet does. It knows the old protocol only, so that the
// plugin has to fall back to it.
func (a *fakeAPI) forward(w http.ResponseWriter, r *http.Request, pod string) {
	if r.Method != http.MethodPost || a.forbidden {
		http.Error(w, `pods "a" is forbidden`, http.StatusForbidden)
		return
	}
	if _, err := httpstream.Handshake(r, w, []string{portforward.PortForwardProtocolV1Name}); err != nil {
		return
	}
	a.mu.Lock()
	address := a.nodes[pod]
	a.mu.Unlock()
	streams := make(chan httpstream.Stream)
	conn := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(stream httpstream.Stream, _ <-chan struct{}) error {
		streams <- stream
		return nil
	})
	if conn == nil {
		return
	}
	defer conn.Close()
	errorStreams := map[string]httpstream.Stream{}
	for {
		select {
		case <-conn.CloseChan():
			return
		case stream := <-streams:
			id := stream.Headers().Get(corev1.PortForwardRequestIDHeader)
			if stream.Headers().Get(corev1.StreamType) == corev1.StreamTypeError {
				errorStreams[id] = stream
				continue
			}
			go pipe(stream, errorStreams[id], address)
		}
	}
}

func pipe(stream, errorStream httpstream.Stream, address string) {
	defer errorStream.Close()
	defer stream.Close()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		fmt.Fprint(errorStream, err)
		return
	}
	defer conn.Close()
	go func() {
		_, _ = io.Copy(conn, stream)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(stream, conn)
}

// harness is a Vault named example in a fake cluster.
type harness struct {
	t   *testing.T
	api *fakeAPI
	ca  certs.KeyPair
	// server is the certificate of the nodes.
	server certs.KeyPair
	vault  *v1alpha1.Vault
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	t.Setenv("KUBECONFIG", os.DevNull)
	ca, err := certs.NewCA("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	server, err := certs.Sign(ca, "vault", usage, []string{serverName}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{t: t, api: newFakeAPI(t, ca.Cert), ca: ca, server: server, vault: &v1alpha1.Vault{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Vault"},
		ObjectMeta: metav1.ObjectMeta{Name: "example", Namespace: "default", Generation: 1},
		Status:     v1alpha1.VaultStatus{ObservedGeneration: 1},
	}}
	h.api.set("vaults", h.vault)
	return h
}

// pods makes pods with these names, whose Vault runs at these addresses. One without an
// address is starting.
func (h *harness) pods(addresses map[string]string) {
	h.t.Helper()
	nodes := int32(len(addresses))
	vault := h.vault.DeepCopy()
	if vault.Spec.Nodes == nil {
		vault.Spec.Nodes = &nodes
	}
	h.api.set("vaults", vault)
	var pods []any
	controller := true
	for name, address := range addresses {
		state := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
		if address == "" {
			state = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}
		}
		pods = append(pods, &corev1.Pod{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid of " + name),
				Labels: vault.PodLabels(), OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1",
					Kind: "ReplicaSet", Name: "example", Controller: &controller}}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: v1alpha1.VaultContainer,
				State: state}}},
		})
	}
	h.api.set("pods", pods...)
	h.api.mu.Lock()
	h.api.nodes = addresses
	h.api.mu.Unlock()
}

// serve makes a fake node that is verified, and returns its address.
func (h *harness) serve(handler http.Handler) string {
	h.t.Helper()
	return serveTLS(h.t, handler, h.server)
}

func serveTLS(t *testing.T, handler http.Handler, pair certs.KeyPair) string {
	t.Helper()
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

// result is what the plugin printed, and its exit code.
type result struct {
	out, errOut string
	code        int
}

// run runs the plugin with what is typed into its standard input.
func (h *harness) run(input string, args ...string) result {
	h.t.Helper()
	return h.runWith(h.t.Context(), strings.NewReader(input), args...)
}

func (h *harness) runWith(ctx context.Context, in io.Reader, args ...string) result {
	h.t.Helper()
	var out, errOut safeBuffer
	p := newPlugin(genericiooptions.IOStreams{In: in, Out: &out, ErrOut: &errOut}, "test")
	p.pause = 20 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	code := p.run(ctx, append([]string{"--server", h.api.URL, "--namespace", "default"}, args...))
	r := result{out.String(), errOut.String(), code}
	h.t.Logf("kubectl vault %s: code %d\n%s%s", strings.Join(args, " "), r.code, r.out, r.errOut)
	return r
}

// safeBuffer is written by several.
type safeBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// expect fails unless the code is as wanted and all texts were printed.
func (r result) expect(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("the code is %d, want %d", r.code, code)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.errOut, text) {
			t.Errorf("%q was not printed", text)
		}
	}
}

func genericStreams() genericiooptions.IOStreams {
	return genericiooptions.IOStreams{In: strings.NewReader(""), Out: io.Discard, ErrOut: io.Discard}
}

func testContext(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	timer := time.AfterFunc(30*time.Second, stop)
	return ctx, func() { timer.Stop(); stop() }
}
