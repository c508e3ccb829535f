package backup

import (
	"net"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
)

func reachAt(t *testing.T, action Action, address string) (Result, error) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	return Run(t.Context(), &Task{Action: action}, &Files{}, testr.New(t))
}

func TestReach(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err)
			continue
		}
		result, err := reachAt(t, Reach, listener.Addr().String())
		if err != nil || result.Reached == nil || !*result.Reached || result.Late {
			t.Errorf("%s: %+v, %v", address, result, err)
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Nothing listens, be it from the beginning or after a while: whether that is refused or dropped, no connection is made.
func TestIsolation(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes twelve seconds")
	}
	for name, open := range map[string]time.Duration{"at once": 0, "late": 1500 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			closed := make(chan error, 1)
			time.AfterFunc(open, func() { closed <- listener.Close() })
			if open == 0 {
				closed <- <-closed
			}
			result, err := reachAt(t, Isolation, listener.Addr().String())
			if err != nil || result.Reached == nil || *result.Reached || result.Late != (open > 0) {
				t.Errorf("%+v, %v", result, err)
			}
			if err := <-closed; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestIsolationWithoutAddress(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	result, err := Run(t.Context(), &Task{Action: Isolation}, &Files{}, testr.New(t))
	if err == nil || result.Reached != nil || result.Reason != Failed {
		t.Errorf("%+v, %v", result, err)
	}
}
