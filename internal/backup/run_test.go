package backup

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/go-logr/logr/testr"
	"github.com/minio/minio-go/v7"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// fakeVault is an active node that has a snapshot, and takes one.
type fakeVault struct {
	*httptest.Server
	mu       sync.Mutex
	snapshot []byte
	// status is that of all responses, if it is not 0.
	status int
	// sealed and cluster are what it says after a restore.
	taken  []byte
	logins int
}

const clientToken = "hvs.not-a-token-of-anything"

func newFakeVault(t *testing.T, snapshot []byte) *fakeVault {
	t.Helper()
	v := &fakeVault{snapshot: snapshot}
	v.Server = httptest.NewTLSServer(v)
	t.Cleanup(v.Close)
	return v
}

func (v *fakeVault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.status != 0:
		w.WriteHeader(v.status)
		_, _ = fmt.Fprintf(w, `{"errors": ["no, %s"]}`, r.Header.Get("X-Vault-Token"))
	case r.URL.Path == "/v1/auth/vault-operator/login":
		v.logins++
		_, _ = fmt.Fprintf(w, `{"auth": {"client_token": %q, "lease_duration": 600}}`, clientToken)
	case r.URL.Path == "/v1/sys/seal-status":
		_, _ = fmt.Fprintf(w, `{"type": "shamir", "initialized": true, "sealed": %t, "cluster_id": "new"}`, v.taken != nil)
	case r.Header.Get("X-Vault-Token") != clientToken:
		w.WriteHeader(http.StatusForbidden)
	case r.URL.Path == "/v1/sys/storage/raft/snapshot" && r.Method == http.MethodGet:
		_, _ = w.Write(v.snapshot)
	case r.URL.Path == "/v1/sys/storage/raft/snapshot-force" && r.Method == http.MethodPut:
		v.taken = body
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

// setup is a task with a directory, and the files of a Job.
func setup(t *testing.T, vault *fakeVault) (*Task, *Files) {
	t.Helper()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vault.Certificate().Raw})
	files := &Files{Vault: t.TempDir(), Login: t.TempDir(), Scratch: t.TempDir()}
	for name, content := range map[string][]byte{
		filepath.Join(files.Vault, "ca.crt"): ca, filepath.Join(files.Login, "jwt"): []byte("a.jwt.of-the-job\n"),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Task{
		Action: Backup, Name: "nightly-1", Location: Location{Directory: t.TempDir(), Prefix: "default/example"},
		Source: &Storage{Raft: &RaftStorage{Address: vault.URL, AuthMount: "vault-operator", Role: "backup"}},
		Vault:  Description{Namespace: "default", Name: "example", UID: "1-2-3", Storage: "raft", Shares: 5, Threshold: 3},
	}, files
}

func do(t *testing.T, task *Task, files *Files, action Action) Result {
	t.Helper()
	copied := *task
	copied.Action = action
	result, err := Run(t.Context(), &copied, files, testr.New(t))
	if (err != nil) != (result.Reason != "") {
		t.Fatalf("%s: %v, and the result has the reason %q", action, err, result.Reason)
	}
	text, err := json.Marshal(result)
	if err != nil || len(text) > 3000 || strings.Contains(string(text), clientToken) {
		t.Fatalf("%s: the result is %s, %v", action, text, err)
	}
	return result
}

// names are those of the files in the location.
func names(t *testing.T, task *Task) string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(task.Location.Directory, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			found = append(found, filepath.Base(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(found, " ")
}

func TestBackupAndRestore(t *testing.T) {
	content := raftSnapshot(t, raftFiles(strings.Repeat("state ", 100_000)))
	vault := newFakeVault(t, content)
	task, files := setup(t, vault)
	made := do(t, task, files, Backup)
	if made.Reason != "" || made.Size != int64(len(content)) || made.Revision != 4711 || made.StoredTime == nil ||
		made.IntactTime == nil || made.RestoredTime != nil {
		t.Fatalf("the backup: %+v", made)
	}
	if got := names(t, task); got != "nightly-1.json nightly-1.snapshot" {
		t.Errorf("the directory has %s", got)
	}
	if again := do(t, task, files, Backup); again.SHA256 != made.SHA256 || vault.logins != 1 {
		t.Errorf("the same again: %+v, %d logins", again, vault.logins)
	}
	task.Want = made.SHA256
	if result := do(t, task, files, Verify); result.Reason != "" || result.IntactTime == nil || result.Revision != 4711 {
		t.Errorf("verifying: %+v", result)
	}
	restored := do(t, task, files, Restore)
	if restored.Reason != "" || restored.RestoredTime == nil || string(vault.taken) != string(content) {
		t.Errorf("restoring: %+v, %d bytes", restored, len(vault.taken))
	}
	task.Want = strings.Repeat("0", 64)
	vault.taken = nil
	for _, action := range []Action{Verify, Restore} {
		if result := do(t, task, files, action); result.Reason != DigestMismatch || vault.taken != nil {
			t.Errorf("%s of another digest: %+v", action, result)
		}
	}
	task.Vault.UID = "another"
	for _, action := range []Action{Backup, Delete} {
		if result := do(t, task, files, action); result.Reason != Refused {
			t.Errorf("%s of another Vault: %+v", action, result)
		}
	}
	task.Vault.UID = "1-2-3"
	for range 2 {
		if result := do(t, task, files, Delete); result.Reason != "" || names(t, task) != "" {
			t.Errorf("deleting: %+v, and there is %s", result, names(t, task))
		}
	}
	if result := do(t, task, files, Verify); result.Reason != NotFound {
		t.Errorf("verifying nothing: %+v", result)
	}
}

func TestBackupFails(t *testing.T) {
	whole := raftFiles(strings.Repeat("state ", 100_000))
	for name, c := range map[string]struct {
		change func(*testing.T, *fakeVault, *Task, *Files)
		want   Reason
	}{
		"cut off": {func(_ *testing.T, v *fakeVault, _ *Task, _ *Files) { v.snapshot = v.snapshot[:1000] }, Incomplete},
		"not active any more": {func(t *testing.T, v *fakeVault, _ *Task, _ *Files) {
			v.snapshot = raftSnapshot(t, whole[:3])
		}, Incomplete},
		"standby":       {func(_ *testing.T, v *fakeVault, _ *Task, _ *Files) { v.status = 307 }, Unreachable},
		"sealed":        {func(_ *testing.T, v *fakeVault, _ *Task, _ *Files) { v.status = 503 }, Unreachable},
		"forbidden":     {func(_ *testing.T, v *fakeVault, _ *Task, _ *Files) { v.status = 403 }, Denied},
		"login refused": {func(_ *testing.T, v *fakeVault, _ *Task, _ *Files) { v.status = 400 }, Denied},
		"no token": {func(t *testing.T, _ *fakeVault, _ *Task, f *Files) {
			f.Login = t.TempDir()
		}, Denied},
		"gone": {func(_ *testing.T, v *fakeVault, _ *Task, _ *Files) { v.Close() }, Unreachable},
		"no volume": {func(_ *testing.T, _ *fakeVault, task *Task, _ *Files) {
			task.Location.Directory += "/missing"
		}, BucketMissing},
		"a prefix that leads out": {func(_ *testing.T, _ *fakeVault, task *Task, _ *Files) {
			task.Location.Prefix = "../elsewhere"
		}, Refused},
		"a name that leads out": {func(_ *testing.T, _ *fakeVault, task *Task, _ *Files) {
			task.Name = "../elsewhere"
		}, Failed},
		"a link that leads out": {func(t *testing.T, _ *fakeVault, task *Task, _ *Files) {
			if err := os.Symlink(t.TempDir(), filepath.Join(task.Location.Directory, "default")); err != nil {
				t.Fatal(err)
			}
		}, Failed},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newFakeVault(t, raftSnapshot(t, whole))
			task, files := setup(t, vault)
			c.change(t, vault, task, files)
			result := do(t, task, files, Backup)
			if result.Reason != c.want || result.Message == "" || result.StoredTime != nil {
				t.Errorf("the result is %+v, want the reason %s", result, c.want)
			}
			t.Log(result.Message)
			if _, err := os.Stat(task.Location.Directory); err == nil && name != "a link that leads out" {
				if got := names(t, task); got != "" {
					t.Errorf("the directory has %s", got)
				}
			}
		})
	}
}

// TestChangedBackup changes what is in the store after a backup.
func TestChangedBackup(t *testing.T) {
	for name, c := range map[string]struct {
		change func(content []byte) []byte
		want   Reason
	}{
		"truncated": {func(content []byte) []byte { return content[:len(content)-10] }, DigestMismatch},
		"flipped":   {func(content []byte) []byte { content[len(content)/2] ^= 1; return content }, DigestMismatch},
		"longer":    {func(content []byte) []byte { return append(content, 0) }, DigestMismatch},
		"gone":      {func([]byte) []byte { return nil }, NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newFakeVault(t, raftSnapshot(t, raftFiles(strings.Repeat("state ", 100_000))))
			task, files := setup(t, vault)
			do(t, task, files, Backup)
			path := filepath.Join(task.Location.Directory, task.Location.Prefix, task.Name+snapshotSuffix)
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if content = c.change(content); content == nil {
				err = os.Remove(path)
			} else {
				err = os.WriteFile(path, content, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, action := range []Action{Verify, Restore} {
				if result := do(t, task, files, action); result.Reason != c.want || vault.taken != nil {
					t.Errorf("%s: %+v, want the reason %s", action, result, c.want)
				}
			}
		})
	}
}

// TestRecordOfOthers has in the place of NAME.json what this operator did not write.
func TestRecordOfOthers(t *testing.T) {
	task, files := setup(t, newFakeVault(t, nil))
	dir := filepath.Join(task.Location.Directory, task.Location.Prefix)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "{}", "[]", `{"vault": {"uid": "1-2-3"}}`} {
		if err := os.WriteFile(filepath.Join(dir, task.Name+recordSuffix), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, action := range []Action{Backup, Verify, Restore, Delete} {
			if result := do(t, task, files, action); result.Reason != Refused {
				t.Errorf("%s with %q: %+v", action, content, result)
			}
		}
	}
}

func TestReasons(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Reason
	}{
		{errors.New("anything"), Failed},
		{context.DeadlineExceeded, Unreachable},
		{errStalled, Unreachable},
		{&os.PathError{Err: syscall.ENOSPC}, NoSpace},
		{rpctypes.ErrNoSpace, NoSpace},
		{rpctypes.ErrNoLeader, Unreachable},
		{minio.ErrorResponse{Code: "NoSuchBucket", StatusCode: 404}, BucketMissing},
		{minio.ErrorResponse{Code: "NoSuchKey", StatusCode: 404}, NotFound},
		{minio.ErrorResponse{Code: "SignatureDoesNotMatch", StatusCode: 403}, Denied},
		{minio.ErrorResponse{Code: "QuotaExceeded", StatusCode: 403}, NoSpace},
		{minio.ErrorResponse{Code: "507 Insufficient Storage", StatusCode: 507}, NoSpace},
		{minio.ErrorResponse{Code: "InternalError", StatusCode: 500}, Unreachable},
		{fail(Refused, nil, "no"), Refused},
		{fail("", fail(Refused, nil, "no"), "outer"), Refused},
		{fail("", errors.Join(minio.ErrorResponse{Code: "AccessDenied", StatusCode: 403}, nil), "outer"), Denied},
		{fail(Incomplete, io.ErrUnexpectedEOF, "outer"), Incomplete},
	} {
		var result Result
		result.explain(c.err)
		if result.Reason != c.want || result.Message == "" {
			t.Errorf("%v: %+v, want the reason %s", c.err, result, c.want)
		}
	}
}

func TestMessagesTellNoSecrets(t *testing.T) {
	response := minio.ErrorResponse{
		Code: "SignatureDoesNotMatch", StatusCode: 403, Message: "you sent AKIASECRET", Resource: "/AKIASECRET",
	}
	var result Result
	result.explain(fail("", response, "The backup cannot be uploaded"))
	if strings.Contains(result.Message, "AKIA") || !strings.Contains(result.Message, "SignatureDoesNotMatch") {
		t.Errorf("the message is %q", result.Message)
	}
	result.explain(minio.ErrorResponse{Code: "evil\nAKIASECRET", StatusCode: 400})
	if strings.Contains(result.Message, "AKIA") {
		t.Errorf("the message is %q", result.Message)
	}
}
