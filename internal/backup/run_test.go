package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/minio/minio-go/v7"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sys/unix"
)

// fakeVault is an active node that has a snapshot, and takes one.
type fakeVault struct {
	*httptest.Server
	mu       sync.Mutex
	snapshot []byte
	// status is that of all responses, if it is not 0.
	status int
	// empty says that it is not initialized, and sealed that it was and is not unsealed yet.
	empty, sealed bool
	// taken is the snapshot that it took, fails is how often it takes none, and unused how often it takes one and
	// seals itself without the data.
	taken  []byte
	fails  int
	unused int
	// keyService says that it unseals itself, and has recovery keys.
	keyService bool
	// otherKey says that the key service seals with another key than that of the snapshot.
	otherKey bool
	version  string
	logins   int
}

const clientToken = "hvs.not-a-token-of-anything"

func newFakeVault(t *testing.T, snapshot []byte) *fakeVault {
	t.Helper()
	v := &fakeVault{snapshot: snapshot, version: "1.21.0"}
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
		cluster := "made"
		if v.taken != nil {
			cluster = "backed-up"
		}
		_, _ = fmt.Fprintf(w, `{"type": "shamir", "initialized": %t, "sealed": %t, "cluster_id": %q, "n": 7, "t": 4, `+
			`"recovery_seal": %t, "version": %q}`, !v.empty, v.sealed, cluster, v.keyService, v.version)
	case r.URL.Path == "/v1/sys/init" && v.empty:
		v.empty, v.sealed = false, !v.keyService
		_, _ = fmt.Fprintf(w, `{"keys_base64": ["a-key"], "root_token": %q}`, clientToken)
	case r.URL.Path == "/v1/sys/unseal" && v.taken != nil:
		w.WriteHeader(http.StatusBadRequest)
	case r.URL.Path == "/v1/sys/unseal" && strings.Contains(string(body), "a-key"):
		v.sealed = false
		_, _ = fmt.Fprint(w, `{"type": "shamir", "initialized": true, "sealed": false}`)
	case r.URL.Path == "/v1/auth/token/lookup-self" && !v.sealed:
		w.WriteHeader(http.StatusOK)
		_, _ = fmt.Fprint(w, `{}`)
	case r.URL.Path == "/v1/sys/storage/raft/snapshot-force" && v.fails > 0:
		v.fails--
		w.WriteHeader(http.StatusInternalServerError)
	case r.Header.Get("X-Vault-Token") != clientToken:
		w.WriteHeader(http.StatusForbidden)
	case r.URL.Path == "/v1/sys/storage/raft/snapshot" && r.Method == http.MethodGet:
		_, _ = w.Write(v.snapshot)
	case r.URL.Path == "/v1/sys/storage/raft/snapshot" && r.Method == http.MethodPut && v.otherKey:
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprint(w, `{"errors": ["could not verify hash file, possibly the snapshot is using another key"]}`)
	case v.keyService && r.URL.Path == "/v1/sys/storage/raft/snapshot" && r.Method == http.MethodPut,
		!v.keyService && r.URL.Path == "/v1/sys/storage/raft/snapshot-force" && r.Method == http.MethodPut:
		w.WriteHeader(http.StatusNoContent)
		v.sealed = !v.keyService
		if v.unused == 0 {
			v.taken = body
		} else {
			v.unused--
		}
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
	// What the store tells of a backup that nobody has seen may be of an older one.
	vault.snapshot = raftSnapshot(t, raftFiles(strings.Repeat("newer ", 100_000)))
	again := do(t, task, files, Backup)
	if again.SHA256 == made.SHA256 || again.Size != int64(len(vault.snapshot)) || vault.logins != 2 {
		t.Errorf("the same again: %+v, %d logins", again, vault.logins)
	}
	made = again
	task.Want = made.SHA256
	if made.IntactTime == nil || made.Revision != 4711 {
		t.Errorf("the backup: %+v", made)
	}
	if made.Vault == nil || made.Vault.Shares != 7 || made.Vault.Threshold != 4 {
		t.Errorf("the backup tells of %+v", made.Vault)
	}
	task.Want = strings.Repeat("0", 64)
	into := newFakeVault(t, nil)
	into.empty = true
	restoring, intoFiles := intoVault(t, task, files, into)
	if result := do(t, restoring, intoFiles, Restore); result.Reason != DigestMismatch || !into.empty {
		t.Errorf("restoring another digest: %+v", result)
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
	if result := do(t, restoring, intoFiles, Restore); result.Reason != NotFound || !into.empty {
		t.Errorf("restoring nothing: %+v", result)
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
		"a full volume": {func(t *testing.T, v *fakeVault, task *Task, _ *Files) {
			if err := unix.Mount("none", task.Location.Directory, "tmpfs", 0, "size=64k"); err != nil {
				t.Skipf("a full volume takes root: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(task.Location.Directory, unix.MNT_DETACH) })
			much := make([]byte, 1<<20) // which cannot be compressed
			_, _ = rand.NewChaCha8([32]byte{}).Read(much)
			v.snapshot = raftSnapshot(t, raftFiles(string(much)))
		}, NoSpace},
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

// intoVault is a task that restores into a Vault.
func intoVault(t *testing.T, task *Task, files *Files, vault *fakeVault) (*Task, *Files) {
	t.Helper()
	restoring, empty := *task, *files
	_, fresh := setup(t, vault)
	empty.Vault, empty.Login = fresh.Vault, t.TempDir()
	restoring.Source = &Storage{Raft: &RaftStorage{Address: vault.URL}}
	restoring.Vault = Description{Namespace: "default", Name: "example", UID: "another"}
	return &restoring, &empty
}

// TestRestoreIntoRaft restores into nodes that take the snapshot, or do not.
func TestRestoreIntoRaft(t *testing.T) {
	content := raftSnapshot(t, raftFiles(strings.Repeat("state ", 100_000)))
	from := newFakeVault(t, content)
	task, files := setup(t, from)
	task.Vault.Version, task.Vault.SealType = "1.21.0", "shamir"
	task.Want = do(t, task, files, Backup).SHA256
	for name, c := range map[string]struct {
		change func(*fakeVault, *Task)
		want   Reason
		empty  bool
	}{
		"empty":                     {func(*fakeVault, *Task) {}, "", false},
		"after a second try":        {func(v *fakeVault, _ *Task) { v.fails = 1 }, "", false},
		"not at all":                {func(v *fakeVault, _ *Task) { v.fails = maxTakes }, Unreachable, false},
		"it could not be used once": {func(v *fakeVault, _ *Task) { v.unused = 1 }, "", false},
		"it cannot be used":         {func(v *fakeVault, _ *Task) { v.unused = maxTakes }, Failed, false},
		"with a key service":        {func(v *fakeVault, _ *Task) { v.keyService = true }, "", false},
		"with another key":          {func(v *fakeVault, _ *Task) { v.keyService, v.otherKey = true, true }, Failed, false},
		"a node of a lower version": {func(v *fakeVault, _ *Task) { v.version = "1.20.9" }, Refused, true},
		"initialized":               {func(v *fakeVault, _ *Task) { v.empty = false }, Refused, false},
		"a lower version":           {func(_ *fakeVault, task *Task) { task.Vault.Version = "1.20.9" }, Refused, true},
		"a higher version":          {func(_ *fakeVault, task *Task) { task.Vault.Version = "1.21.1" }, "", false},
		"another seal":              {func(_ *fakeVault, task *Task) { task.Vault.SealType = "transit" }, Refused, true},
		"another storage": {func(_ *fakeVault, task *Task) {
			task.Source = &Storage{Etcd: &EtcdStorage{Endpoints: []string{"https://127.0.0.1:1"}, Prefix: "vault/"}}
		}, Failed, true}, // it has no certificate for etcd
		"no node": {func(v *fakeVault, _ *Task) { v.Close() }, Unreachable, true},
	} {
		t.Run(name, func(t *testing.T) {
			into := newFakeVault(t, nil)
			into.empty = true
			restoring, files := intoVault(t, task, files, into)
			c.change(into, restoring)
			result := do(t, restoring, files, Restore)
			if result.Reason != c.want || (string(into.taken) == string(content)) != (c.want == "") || into.empty != c.empty {
				t.Errorf("%+v, it took %d bytes, and is empty: %t", result, len(into.taken), into.empty)
			}
			if c.want == "" && (result.RestoredTime == nil || result.Vault == nil || result.Vault.Threshold != 4) {
				t.Errorf("%+v", result)
			}
			t.Log(result.Message)
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
			path := filepath.Join(task.Location.Directory, task.Location.Prefix, task.Name+SnapshotSuffix)
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
			if result := do(t, task, files, Restore); result.Reason != c.want || vault.taken != nil {
				t.Errorf("%+v, want the reason %s", result, c.want)
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
	for _, content := range []string{"", "{}", "[]", `{"vault": {"uid": "1-2-3"}}`,
		// The termination message of a Job has 4 KiB.
		`{"vault": {"uid": "1-2-3", "name": "` + strings.Repeat("x", 5000) + `"}, "result": {"sha256": "1"}}`} {
		if err := os.WriteFile(filepath.Join(dir, task.Name+recordSuffix), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, action := range []Action{Backup, Restore, Delete} {
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

// TestWhatMoves checks that a Job gives up only when nothing moves: neither while a slow server takes parts that
// were read before, nor while Vault uses a snapshot that it has.
func TestWhatMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var gaveUp atomic.Bool
		j := &job{alive: time.AfterFunc(stallAfter, func() { gaveUp.Store(true) })}
		r, err := j.newReading(bytes.NewReader(raftSnapshot(t, raftFiles("state"))), formatRaft)
		if err != nil {
			t.Fatal(err)
		}
		defer r.check.close()
		for range 3 {
			time.Sleep(stallAfter - time.Second)
			if n, err := (progress{r}).Read(make([]byte, 10)); n != 10 || err != nil {
				t.Errorf("progress: %d, %v", n, err)
			}
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Fatal(err)
		}
		time.Sleep(stallAfter + takeTimeout - time.Second)
		if gaveUp.Load() {
			t.Error("gave up although something moved")
		}
		time.Sleep(2 * time.Second)
		if !gaveUp.Load() {
			t.Error("did not give up although nothing moved")
		}
	})
}
