package plugin

import (
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// retryFor is for how long a request to the API server is repeated that it did not serve, and retryEvery how often.
	retryFor   = 30 * time.Second
	retryEvery = time.Second
)

// retrying repeats reads that an API server did not serve which has served one before: while it restarts a command
// that waits for something goes on. Nothing else is repeated, since it may have been done.
type retrying struct {
	http.RoundTripper
	every  time.Duration
	served atomic.Bool
}

func (r *retrying) RoundTrip(request *http.Request) (*http.Response, error) {
	for began := time.Now(); ; {
		response, err := r.RoundTripper.RoundTrip(request)
		failed := err != nil || response.StatusCode >= http.StatusInternalServerError
		if !failed {
			r.served.Store(true)
		}
		if !failed || request.Method != http.MethodGet || !r.served.Load() || time.Since(began) > retryFor {
			return response, err
		}
		if err == nil {
			_ = response.Body.Close() // another one is read
		}
		select {
		case <-request.Context().Done():
			return nil, request.Context().Err()
		case <-time.After(r.every):
		}
	}
}
