package plugin

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// An API server that restarts ends no command that has begun, and repeats nothing that it may have done.
func TestRetries(t *testing.T) {
	var asked, failures atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		switch failures.Add(-1) {
		case 1:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 0:
			panic(http.ErrAbortHandler) // the connection ends
		}
	}))
	defer server.Close()
	client := &http.Client{Transport: &retrying{
		RoundTripper: &http.Transport{DisableKeepAlives: true}, every: time.Millisecond,
	}}
	for _, tt := range []struct {
		what, method string
		failures     int32
		ok           bool
		asked        int32
	}{
		{"the first request", http.MethodGet, 2, false, 1},
		{"one that is served", http.MethodGet, 0, true, 1},
		{"one that is repeated", http.MethodGet, 2, true, 3},
		{"a write", http.MethodPost, 2, false, 1},
	} {
		asked.Store(0)
		failures.Store(tt.failures)
		request, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		ok := err == nil && response.StatusCode == http.StatusOK
		if err == nil {
			_ = response.Body.Close()
		}
		if ok != tt.ok || asked.Load() != tt.asked {
			t.Errorf("%s: %v, asked %d times, error %v", tt.what, ok, asked.Load(), err)
		}
	}
}
