package operator

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// A connection to an API server that is gone without a word must be given up
// soon: requests that time out alone leave it in use.
func TestDeadConnectionsAreNoticed(t *testing.T) {
	setDeployedEnvironment(t)
	apiServer := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("asked by %s", r.Proto)
		}
	}))
	apiServer.EnableHTTP2 = true
	apiServer.StartTLS()
	t.Cleanup(apiServer.Close)
	cable := newCable(t, apiServer.Listener.Addr().String())
	httpClient, err := rest.HTTPClientFor(&rest.Config{Host: "https://" + cable.address,
		TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	send := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+cable.address, nil)
		if err != nil {
			return err
		}
		response, err := httpClient.Do(request)
		if err == nil {
			_ = response.Body.Close()
		}
		return err
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	cable.cut()
	begin := time.Now()
	if err := send(); err == nil {
		t.Fatal("the connection was not cut")
	}
	for send() != nil {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("the dead connection is still in use")
		}
	}
	t.Logf("it was noticed after %s", time.Since(begin))
}

// setDeployedEnvironment sets what the operator is deployed with.
func setDeployedEnvironment(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("../../config/manager/manager.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var deployment appsv1.Deployment
	if err := yaml.UnmarshalStrict(text, &deployment); err != nil {
		t.Fatal(err)
	}
	for _, variable := range deployment.Spec.Template.Spec.Containers[0].Env {
		if strings.HasPrefix(variable.Name, "HTTP2_") {
			t.Setenv(variable.Name, variable.Value)
		}
	}
}

// cable leads connections to a server. Those that were there when it was cut
// stay open and carry nothing any more, and new ones work: another host has
// taken over.
type cable struct {
	address string

	mu   sync.Mutex
	dead chan struct{}
}

func newCable(t *testing.T, to string) *cable {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	c := &cable{address: listener.Addr().String(), dead: make(chan struct{})}
	go func() {
		for {
			near, err := listener.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				_ = near.Close()
				continue
			}
			t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
			c.mu.Lock()
			dead := c.dead
			c.mu.Unlock()
			go carry(near, far, dead)
			go carry(far, near, dead)
		}
	}()
	return c
}

func carry(from, to net.Conn, dead chan struct{}) {
	buffer := make([]byte, 32*1024)
	for {
		count, err := from.Read(buffer)
		select {
		case <-dead:
			_, _ = io.Copy(io.Discard, from)
			return
		default:
		}
		if _, writeErr := to.Write(buffer[:count]); err != nil || writeErr != nil {
			_ = to.Close()
			return
		}
	}
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.dead)
	c.dead = make(chan struct{})
}
