package backup

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/testr"
)

// pipes is a network of one server, without a machine: the times of a test are those of a clock that does not wait.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	conn, open := <-p
	if !open {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (p pipes) Close() error   { return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{} }

func (p pipes) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	p <- far
	return near, nil
}

// hangingS3 is a server of one object that hangs at a request until the test has ended.
type hangingS3 struct {
	at string
	// content is that of the object.
	content string
	ended   chan struct{}
}

func (h hangingS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	hang := func(here bool) {
		if here {
			<-h.ended
			panic(http.ErrAbortHandler)
		}
	}
	isRecord := strings.HasSuffix(r.URL.Path, recordSuffix)
	content := h.content
	if isRecord {
		content = fmt.Sprintf(`{"format": %q, "vault": {"uid": "u"}, "result": {"size": %d, "sha256": "x"}}`, formatRaft,
			len(h.content))
	}
	switch {
	case r.Method == http.MethodPost && r.URL.Query().Has("uploads"):
		hang(h.at == "upload")
		_, _ = io.WriteString(w, `<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>`)
	case r.Method == http.MethodPut:
		hang(h.at == "part")
		_, _ = io.Copy(io.Discard, r.Body)
		hang(h.at == "response")
		w.Header().Set("ETag", `"e"`)
	case r.Method == http.MethodDelete:
		hang(h.at == "removal")
		w.WriteHeader(http.StatusNoContent)
	case strings.Trim(r.URL.Path, "/") == "bucket": // it is there
	case h.content == "":
		http.NotFound(w, r)
	case r.Method == http.MethodHead, r.Method == http.MethodGet:
		hang(h.at == "record")
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		w.Header().Set("Last-Modified", "Sun, 04 Jan 2026 12:00:00 GMT")
		w.Header().Set("ETag", `"e"`)
		w.Header().Set("X-Amz-Meta-Vault-Uid", "u")
		if r.Method == http.MethodHead {
			return
		}
		_, _ = io.WriteString(w, content[:len(content)/2])
		w.(http.Flusher).Flush()
		hang(h.at == "content" && !isRecord)
		_, _ = io.WriteString(w, content[len(content)/2:])
	}
}

// An endpoint that does not go on, wherever that is, ends the Job, and not its deadline after hours.
func TestEndpointThatHangs(t *testing.T) {
	certificates := httptest.NewUnstartedServer(nil)
	certificates.StartTLS()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificates.Certificate().Raw})
	config := certificates.TLS
	certificates.Close()
	files := &Files{S3: t.TempDir(), S3CA: t.TempDir()}
	for path, content := range map[string][]byte{
		filepath.Join(files.S3CA, "ca.crt"): ca, filepath.Join(files.S3, "accessKeyID"): []byte("id"),
		filepath.Join(files.S3, "secretAccessKey"): []byte("key"),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	snapshot := string(raftSnapshot(t, raftFiles(strings.Repeat("state", 1<<20))))
	upload := func(ctx context.Context, j *job) error {
		sent, err := j.newReading(strings.NewReader(snapshot), formatRaft)
		if err != nil {
			return err
		}
		defer sent.check.close()
		_, err = j.store.put(ctx, "b.snapshot", "u", sent)
		return err
	}
	readBack := func(ctx context.Context, j *job) error {
		record, stored, err := j.wanted(ctx)
		if err != nil {
			return err
		}
		return j.prove(ctx, stored, record.Format, record.Result.Size, record.Result.SHA256)
	}
	for at, tt := range map[string]struct {
		do      func(context.Context, *job) error
		content string
		// within is how long it may take, with what is tried to clean up.
		within time.Duration
	}{
		"connection": {readBack, snapshot, stallAfter},
		"record":     {readBack, snapshot, stallAfter},
		"content":    {readBack, snapshot, stallAfter},
		"removal":    {func(ctx context.Context, j *job) error { return j.delete(ctx) }, snapshot, stallAfter},
		"upload":     {upload, "", stallAfter + cleanTimeout},
		"part":       {upload, "", stallAfter + takeTimeout + cleanTimeout},
		"response":   {upload, "", stallAfter + takeTimeout + cleanTimeout},
	} {
		t.Run(at, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network, ended := make(pipes), make(chan struct{})
				server := &http.Server{Handler: hangingS3{at, tt.content, ended}, TLSConfig: config.Clone()}
				served := make(chan struct{})
				go func() {
					defer close(served)
					if at == "connection" { // it is accepted, and that is all
						var conns []net.Conn
						for conn := range network {
							conns = append(conns, conn)
						}
						for _, conn := range conns {
							_ = conn.Close()
						}
						return
					}
					_ = server.ServeTLS(network, "", "")
				}()
				start := time.Now()
				task := &Task{
					Location: Location{S3: &S3{
						Endpoint: "https://example.com", Region: "r", Bucket: "bucket", PathStyle: true,
					}},
					Name: "b", Vault: Description{UID: "u"},
				}
				onPipes := *files
				onPipes.dial = network.dial
				do := func(ctx context.Context, j *job) (err error) {
					if j.store, err = openStore(&j.task.Location, j.files); err != nil {
						return err
					}
					return tt.do(ctx, j)
				}
				result, err := runWith(t.Context(), task, &onPipes, testr.New(t), do)
				took := time.Since(start)
				if err == nil || result.Reason != Unreachable || took > tt.within+time.Second || took < 10*time.Second {
					t.Errorf("after %s: %+v, %v", took, result, err)
				}
				close(network)
				close(ended)
				_ = server.Close()
				<-served
			})
		})
	}
}
