package backup

import (
	"net"
	"testing"

	"github.com/go-logr/logr/testr"
)

func isolationAt(t *testing.T, address string) (Result, error) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", host)
	t.Setenv("KUBERNETES_SERVICE_PORT", port)
	return Run(t.Context(), &Task{Action: Isolation}, &Files{}, testr.New(t))
}

func TestIsolationThatIsNone(t *testing.T) {
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err)
			continue
		}
		result, err := isolationAt(t, listener.Addr().String())
		if err != nil || result.Reached == nil || !*result.Reached {
			t.Errorf("%s: %+v, %v", address, result, err)
		}
		if err := listener.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Nothing listens: be it refused or dropped, no connection is made.
func TestIsolation(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes ten seconds")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	result, err := isolationAt(t, listener.Addr().String())
	if err != nil || result.Reached == nil || *result.Reached {
		t.Errorf("%+v, %v", result, err)
	}
}

func TestIsolationWithoutAddress(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	result, err := Run(t.Context(), &Task{Action: Isolation}, &Files{}, testr.New(t))
	if err == nil || result.Reached != nil || result.Reason != Failed {
		t.Errorf("%+v, %v", result, err)
	}
}
