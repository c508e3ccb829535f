//go:build integration

package integration

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// auditLog is the API server's record of the operators' requests.
type auditLog struct {
	path string

	mu       sync.Mutex
	offset   int64
	requests []request
}

// request is one of an operator.
type request struct {
	Verb      string
	URI       string `json:"requestURI"`
	ObjectRef struct{ APIGroup, Resource, Subresource, Namespace, Name string }
	Response  struct{ Code int } `json:"responseStatus"`
}

func (r request) String() string {
	if r.ObjectRef.Resource == "" {
		return fmt.Sprintf("%s %s: %d", r.Verb, r.URI, r.Response.Code)
	}
	resource := r.ObjectRef.Resource
	if r.ObjectRef.Subresource != "" {
		resource += "/" + r.ObjectRef.Subresource
	}
	return fmt.Sprintf("%s %s %s: %d", r.Verb, resource, r.ObjectRef.Name, r.Response.Code)
}

// all returns every request so far, but for watches.
func (a *auditLog) all(t *testing.T) []request {
	t.Helper()
	return slices.DeleteFunc(a.everything(t), func(r request) bool { return r.Verb == "watch" })
}

// everything returns every request so far. A watch is there when it has begun.
func (a *auditLog) everything(t *testing.T) []request {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	file, err := os.Open(a.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	more, err := io.ReadAll(io.NewSectionReader(file, a.offset, 1<<40))
	if err != nil {
		t.Fatal(err)
	}
	// The last line may not be complete yet.
	for {
		line, rest, complete := bytes.Cut(more, []byte("\n"))
		if !complete {
			return slices.Clone(a.requests)
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		a.requests = append(a.requests, r)
		a.offset += int64(len(line)) + 1
		more = rest
	}
}

// writes returns the requests that were meant to change something in the
// namespace; events are left out.
func writes(t *testing.T, namespace string) []request {
	t.Helper()
	return slices.DeleteFunc(audit.all(t), func(r request) bool {
		return r.Verb == "get" || r.Verb == "list" || r.ObjectRef.Namespace != namespace || r.ObjectRef.Resource == "events"
	})
}

// awaitQuiet waits until the operator has made no request for a while: it is
// at rest.
func awaitQuiet(t *testing.T) {
	t.Helper()
	const silence = 2 * time.Second
	count, since := -1, time.Now()
	poll.Eventually(t, "the operator is at rest", timeout, 200*time.Millisecond, func() error {
		all := audit.all(t)
		if len(all) != count {
			count, since = len(all), time.Now()
		}
		if time.Since(since) < silence {
			return fmt.Errorf("its last requests are %v", all[max(0, len(all)-20):])
		}
		return nil
	})
}
