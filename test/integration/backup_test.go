//go:build integration

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr/testr"
	"github.com/minio/minio-go/v7"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vault-operator/vault-operator/internal/backup"
	"github.com/vault-operator/vault-operator/test/internal/backuptest"
)

func newMachine(t *testing.T) *backuptest.Machine {
	t.Helper()
	return backuptest.New(t, os.Getenv("KUBEBUILDER_ASSETS"), t.TempDir())
}

// backupTask backs the storage up into a bucket.
func backupTask(source *backup.Storage, location backup.Location) *backup.Task {
	return &backup.Task{
		Action: backup.Backup, Name: "nightly", Source: source, Location: location,
		Vault: backup.Description{Namespace: "default", Name: "example", UID: "0-1-2"},
	}
}

// run does a task with another action.
func run(
	ctx context.Context, t *testing.T, task *backup.Task, files *backup.Files, action backup.Action,
) backup.Result {
	t.Helper()
	copied := *task
	copied.Action = action
	result, err := backup.Run(ctx, &copied, files, testr.New(t))
	if (err != nil) != (result.Reason != "") {
		t.Fatalf("%s: %v, and the result has the reason %q", action, err, result.Reason)
	}
	t.Logf("%s: %q %s", action, result.Reason, result.Message)
	return result
}

// fill writes keys as Vault has them, with some that were changed, and some deleted. One value has
// more than fits into a transaction with others.
func fill(t *testing.T, etcd *backuptest.Etcd, keys int) {
	t.Helper()
	put := func(key, value string, options ...clientv3.OpOption) {
		if _, err := etcd.Put(t.Context(), key, value, options...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range keys {
		put(fmt.Sprintf("/vault/logical/%d", i), strings.Repeat(strconv.Itoa(i), 1+i%300))
	}
	for i := range keys / 10 {
		put(fmt.Sprintf("/vault/logical/%d", i*7%keys), "changed")
		if _, err := etcd.Delete(t.Context(), fmt.Sprintf("/vault/logical/%d", i*11%keys)); err != nil {
			t.Fatal(err)
		}
	}
	put("/vault/core/keyring", "encrypted")
	put("/vault/core/seal-config", `{"type": "shamir", "secret_shares": 5, "secret_threshold": 3}`)
	put("/vault/core/large", strings.Repeat("x", 1_200_000))
	put("/vault/core/empty", "")
	lease, err := etcd.Grant(t.Context(), 600)
	if err != nil {
		t.Fatal(err)
	}
	put("/vault/core/lock/5e1f", "held", clientv3.WithLease(lease.ID))
	put("/vault/core/lock/left", "without a lease")
	put("/vault-other/key", "of somebody else")
}

// dump is what a restore has to give.
func dump(t *testing.T, etcd *backuptest.Etcd) map[string]string {
	t.Helper()
	response, err := etcd.Get(t.Context(), "/", clientv3.WithFromKey())
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, kv := range response.Kvs {
		if strings.HasPrefix(string(kv.Key), "/vault/") && !strings.HasPrefix(string(kv.Key), "/vault/core/lock") {
			all[string(kv.Key)] = string(kv.Value)
		}
	}
	return all
}

// objects are what the bucket has: objects, and uploads that are not complete.
func objects(t *testing.T, s3 *backuptest.S3) []string {
	t.Helper()
	all := []string{}
	recursive := minio.ListObjectsOptions{Recursive: true}
	for object := range s3.ListObjects(context.Background(), backuptest.Bucket, recursive) {
		if object.Err != nil {
			t.Fatal(object.Err)
		}
		all = append(all, object.Key)
	}
	for upload := range s3.ListIncompleteUploads(context.Background(), backuptest.Bucket, "", true) {
		if upload.Err != nil {
			t.Fatal(upload.Err)
		}
		all = append(all, "incomplete "+upload.Key)
	}
	return all
}

func TestBackupOfEtcd(t *testing.T) {
	t.Parallel()
	machine := newMachine(t)
	etcd, s3 := machine.StartEtcd(), machine.StartS3()
	fill(t, etcd, 2000)
	want := dump(t, etcd)
	head, err := etcd.Get(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	files := machine.Files()
	task := backupTask(etcd.Storage(), s3.Location())
	// The first endpoint does not respond.
	task.Source.Etcd.Endpoints = append([]string{"https://127.0.0.1:1"}, task.Source.Etcd.Endpoints...)
	made := run(t.Context(), t, task, files, backup.Backup)
	if made.Reason != "" || made.Revision != head.Header.Revision || made.StoredTime == nil || made.IntactTime == nil {
		t.Fatalf("the backup: %+v, want the revision %d", made, head.Header.Revision)
	}
	if v := made.Vault; v == nil || v.Shares != 5 || v.Threshold != 3 {
		t.Errorf("the backup is of %+v", v)
	}
	prefix := "vaults/example/nightly"
	if got := objects(t, s3); !slices.Equal(got, []string{prefix + ".json", prefix + ".snapshot"}) {
		t.Fatalf("the bucket has %v", got)
	}
	task.Want = made.SHA256
	into := machine.StartEtcd()
	task.Source = into.Storage()
	task.Want = strings.Repeat("0", 64)
	if result := run(t.Context(), t, task, files, backup.Restore); result.Reason != backup.DigestMismatch {
		t.Errorf("restoring another digest: %+v", result)
	}
	task.Want = made.SHA256
	if result := run(t.Context(), t, task, files, backup.Restore); result.Reason != "" || result.RestoredTime == nil {
		t.Fatalf("restoring: %+v", result)
	}
	if got := dump(t, into); !maps.Equal(got, want) {
		t.Errorf("%d keys were restored of %d, or others", len(got), len(want))
	}
	if locks, err := into.Get(t.Context(), "/vault/core/lock", clientv3.WithPrefix()); err != nil || locks.Count != 0 {
		t.Errorf("locks were restored: %v, %v", locks, err)
	}
	if result := run(t.Context(), t, task, files, backup.Restore); result.Reason != "" {
		t.Errorf("restoring again: %+v", result)
	}
	task.Source = etcd.Storage()
	if result := run(t.Context(), t, task, files, backup.Restore); result.Reason != backup.Refused {
		t.Errorf("restoring over what is there: %+v", result)
	}
	if leftover, err := os.ReadDir(files.Scratch); err != nil || len(leftover) > 0 {
		t.Errorf("the scratch directory has %v, %v", leftover, err)
	}
	task.Vault.UID = "another"
	if result := run(t.Context(), t, task, files, backup.Delete); result.Reason != backup.Refused {
		t.Errorf("deleting as another: %+v", result)
	}
	task.Vault.UID = "0-1-2"
	for range 2 {
		if result := run(t.Context(), t, task, files, backup.Delete); result.Reason != "" || result.Message != "" {
			t.Errorf("deleting: %+v", result)
		}
	}
	if got := objects(t, s3); len(got) > 0 {
		t.Errorf("the bucket has %v", got)
	}
}

// readyToRestore backs up an etcd with as many keys into a directory. It returns the task that restores it into another
// one, which is empty, and what is to be there then.
func readyToRestore(t *testing.T, keys int) (
	task *backup.Task, files *backup.Files, into *backuptest.Etcd, want map[string]string,
) {
	t.Helper()
	machine := newMachine(t)
	etcd := machine.StartEtcd()
	into = machine.StartEtcd()
	fill(t, etcd, keys)
	files = machine.Files()
	task = backupTask(etcd.Storage(), backup.Location{Directory: t.TempDir()})
	if made := run(t.Context(), t, task, files, backup.Backup); made.Reason != "" {
		t.Fatalf("the backup: %+v", made)
	}
	task.Source = into.Storage()
	return task, files, into, dump(t, etcd)
}

// TestRestoreThatWasCut ends a restore in the middle, and starts it again.
func TestRestoreThatWasCut(t *testing.T) {
	t.Parallel()
	task, files, into, want := readyToRestore(t, 20_000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var watching sync.WaitGroup
	watching.Go(func() {
		for range into.Watch(ctx, "/vault/", clientv3.WithPrefix()) {
			cancel() // at the first key
		}
	})
	if cut := run(ctx, t, task, files, backup.Restore); cut.Reason == "" {
		t.Fatalf("the restore was not cut: %+v", cut)
	}
	watching.Wait()
	if part := dump(t, into); len(part) == 0 || len(part) == len(want) || part["/vault/core/keyring"] != "" {
		t.Fatalf("the restore that was cut has written %d of %d keys, and the keyring: %q", len(part), len(want),
			part["/vault/core/keyring"])
	}
	// What another restore has left is removed.
	if _, err := into.Put(t.Context(), "vault-operator/restore", `{"name": "other", "sha256": "0"}`); err != nil {
		t.Fatal(err)
	}
	if _, err := into.Put(t.Context(), "/vault/logical/of-another", "left"); err != nil {
		t.Fatal(err)
	}
	if result := run(t.Context(), t, task, files, backup.Restore); result.Reason != "" {
		t.Fatalf("going on: %+v", result)
	}
	if got := dump(t, into); !maps.Equal(got, want) {
		t.Errorf("%d keys were restored of %d, or others", len(got), len(want))
	}
}

// TestRestoreIsNotMixed initializes Vault while it is restored.
func TestRestoreIsNotMixed(t *testing.T) {
	t.Parallel()
	task, files, into, _ := readyToRestore(t, 20_000)
	ctx, cancel := context.WithCancel(t.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		<-into.Watch(ctx, "/vault/logical/", clientv3.WithPrefix())
		if _, err := into.Put(ctx, "/vault/core/keyring", "of somebody"); err != nil {
			t.Error(err)
		}
	})
	if result := run(t.Context(), t, task, files, backup.Restore); result.Reason != backup.Refused {
		t.Errorf("the restore: %+v", result)
	}
	cancel()
	watching.Wait()
	if got := dump(t, into)["/vault/core/keyring"]; got != "of somebody" {
		t.Errorf("the keyring is %q", got)
	}
}

// TestSecondPodOfARestore has another pod of a Job begin while the first one still writes, which Kubernetes has lost
// sight of. The first must not write its old values after those of the second.
func TestSecondPodOfARestore(t *testing.T) {
	t.Parallel()
	task, files, into, want := readyToRestore(t, 20_000)
	var second backup.Result
	var watching sync.WaitGroup
	watching.Go(func() {
		<-into.Watch(t.Context(), "/vault/logical/", clientv3.WithPrefix())
		second = run(t.Context(), t, task, files, backup.Restore)
	})
	if first := run(t.Context(), t, task, files, backup.Restore); first.Reason != backup.Refused {
		t.Errorf("the first pod: %+v", first)
	}
	watching.Wait()
	if second.Reason != "" {
		t.Errorf("the second pod: %+v", second)
	}
	if got := dump(t, into); !maps.Equal(got, want) {
		t.Errorf("%d keys were restored of %d, or others", len(got), len(want))
	}
}

// faults are what a proxy before the S3 server does to a request. It returns whether it answered.
type faults func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool

// startProxy runs a proxy before the S3 server.
func startProxy(t *testing.T, machine *backuptest.Machine, s3 *backuptest.S3, inject faults) backup.Location {
	t.Helper()
	forward := &httputil.ReverseProxy{
		Transport: s3.Transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			host := r.In.Host
			r.SetURL(s3.URL)
			r.Out.Host = host // it is signed
		},
		ErrorLog:     nil,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	proxy := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !inject(w, r, forward) {
			forward.ServeHTTP(w, r)
		}
	}))
	proxy.TLS = machine.TLS()
	proxy.StartTLS()
	t.Cleanup(proxy.Close)
	location := s3.Location()
	location.S3.Endpoint = proxy.URL
	return location
}

func isPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}

func readsSnapshot(r *http.Request) bool {
	return r.Method == http.MethodGet && path.Ext(r.URL.Path) == ".snapshot" && r.Header.Get("Range") == ""
}

// changeBody passes a response on with another body.
func changeBody(w http.ResponseWriter, r *http.Request, forward http.Handler, change func([]byte) []byte, length bool) {
	recorder := httptest.NewRecorder()
	forward.ServeHTTP(recorder, r)
	body := change(recorder.Body.Bytes())
	maps.Copy(w.Header(), recorder.Header())
	if length {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	}
	w.WriteHeader(recorder.Code)
	_, _ = w.Write(body)
}

func status(code int, name string) faults {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !isPart(r) {
			return false
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(code)
		_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", name)
		return true
	}
}

func TestBackupFaults(t *testing.T) {
	t.Parallel()
	machine := newMachine(t)
	etcd, s3 := machine.StartEtcd(), machine.StartS3()
	fill(t, etcd, 500)
	for i := range 40 { // more than one part
		key := fmt.Sprintf("/vault/logical/large/%d", i)
		if _, err := etcd.Put(t.Context(), key, strings.Repeat("y", 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	var failures atomic.Int32
	none := func(http.ResponseWriter, *http.Request, http.Handler) bool { return false }
	cases := map[string]struct {
		inject faults
		change func(t *testing.T, task *backup.Task, files *backup.Files)
		want   backup.Reason
	}{
		"nothing": {inject: none},
		"two parts are refused once": {inject: func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool {
			return isPart(r) && failures.Add(1) <= 2 && status(http.StatusInternalServerError, "InternalError")(w, r, forward)
		}},
		"slow": {inject: func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if isPart(r) {
				time.Sleep(time.Second)
			}
			return false
		}},
		"parts are never taken": {inject: status(http.StatusInternalServerError, "InternalError"), want: backup.Unreachable},
		"full": {inject: status(http.StatusInsufficientStorage, "InsufficientStorage"),
			want: backup.NoSpace},
		"over quota": {inject: status(http.StatusForbidden, "QuotaExceeded"), want: backup.NoSpace},
		"truncated":  {inject: truncate, want: backup.DigestMismatch},
		"cut off while it is read": {inject: func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool {
			if !readsSnapshot(r) {
				return false
			}
			changeBody(w, r, forward, func(body []byte) []byte { return body[:len(body)/2] }, false)
			return true
		}, want: backup.DigestMismatch},
		"changed": {inject: func(w http.ResponseWriter, r *http.Request, forward http.Handler) bool {
			if !readsSnapshot(r) {
				return false
			}
			changeBody(w, r, forward, func(body []byte) []byte {
				body = bytes.Clone(body)
				body[len(body)/2] ^= 1
				return body
			}, true)
			return true
		}, want: backup.DigestMismatch},
		"wrong credentials": {inject: none, change: func(t *testing.T, _ *backup.Task, files *backup.Files) {
			write(t, files.S3, "secretAccessKey", "wrong")
		}, want: backup.Denied},
		"no such user": {inject: none, change: func(t *testing.T, _ *backup.Task, files *backup.Files) {
			write(t, files.S3, "accessKeyID", "nobody")
		}, want: backup.Denied},
		"no bucket": {inject: none, change: func(_ *testing.T, task *backup.Task, _ *backup.Files) {
			task.Location.S3.Bucket = "missing"
		}, want: backup.BucketMissing},
		"another CA": {inject: none, change: func(t *testing.T, _ *backup.Task, files *backup.Files) {
			files.S3CA = newMachine(t).Files().S3CA
		}, want: backup.Unreachable},
		"no server": {inject: none, change: func(_ *testing.T, task *backup.Task, _ *backup.Files) {
			task.Location.S3.Endpoint = "https://127.0.0.1:1"
		}, want: backup.Unreachable},
		"no etcd": {inject: none, change: func(_ *testing.T, task *backup.Task, _ *backup.Files) {
			task.Source.Etcd.Endpoints = []string{"https://127.0.0.1:1"}
		}, want: backup.Unreachable},
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		c := cases[name]
		t.Run(name, func(t *testing.T) {
			files := machine.Files()
			task := backupTask(etcd.Storage(), startProxy(t, machine, s3, c.inject))
			if c.change != nil {
				c.change(t, task, files)
			}
			result := run(t.Context(), t, task, files, backup.Backup)
			if result.Reason != c.want || (result.StoredTime == nil) != (c.want != "") {
				t.Errorf("the result is %+v, want the reason %q", result, c.want)
			}
			text, err := json.Marshal(result)
			if err != nil || strings.Contains(string(text), backuptest.SecretAccessKey) ||
				strings.Contains(string(text), backuptest.AccessKeyID) {
				t.Errorf("the result is %s, %v", text, err)
			}
			if c.want == "" {
				if result := run(t.Context(), t, task, files, backup.Delete); result.Reason != "" {
					t.Errorf("deleting: %+v", result)
				}
			}
			if got := objects(t, s3); len(got) > 0 {
				t.Errorf("the bucket has %v", got)
			}
		})
	}
}

// truncate returns half of a snapshot, as if that were all.
func truncate(w http.ResponseWriter, r *http.Request, forward http.Handler) bool {
	if !readsSnapshot(r) {
		return false
	}
	changeBody(w, r, forward, func(body []byte) []byte { return body[:len(body)/2] }, true)
	return true
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestBackupThatWasStopped stops the Job in the middle of an upload.
func TestBackupThatWasStopped(t *testing.T) {
	t.Parallel()
	machine := newMachine(t)
	etcd, s3 := machine.StartEtcd(), machine.StartS3()
	fill(t, etcd, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	files := machine.Files()
	task := backupTask(etcd.Storage(), startProxy(t, machine, s3,
		func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if isPart(r) {
				cancel()
			}
			return false
		}))
	if result := run(ctx, t, task, files, backup.Backup); result.Reason == "" {
		t.Errorf("the backup was not stopped: %+v", result)
	}
	if got := objects(t, s3); len(got) > 0 {
		t.Errorf("the bucket has %v", got)
	}
	if result := run(t.Context(), t, task, files, backup.Backup); result.Reason != "" {
		t.Errorf("the next backup: %+v", result)
	}
}

// TestBackupInBucketWithVersions deletes a backup from a bucket that keeps what is deleted, and makes one there
// that cannot be proven.
func TestBackupInBucketWithVersions(t *testing.T) {
	t.Parallel()
	machine := newMachine(t)
	etcd, s3 := machine.StartEtcd(), machine.StartS3()
	fill(t, etcd, 100)
	const bucket = "locked"
	err := s3.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{ObjectLocking: true})
	if err == nil {
		mode, days, unit := minio.Compliance, uint(1), minio.Days
		err = s3.SetBucketObjectLockConfig(t.Context(), bucket, &mode, &days, &unit)
	}
	if err != nil {
		t.Fatal(err)
	}
	files := machine.Files()
	task := backupTask(etcd.Storage(), s3.Location())
	task.Location.S3.Bucket = bucket
	if result := run(t.Context(), t, task, files, backup.Backup); result.Reason != "" {
		t.Fatalf("the backup: %+v", result)
	}
	result := run(t.Context(), t, task, files, backup.Delete)
	if result.Reason != "" || !strings.Contains(result.Message, "nightly.snapshot") {
		t.Errorf("deleting: %+v", result)
	}
	if result := run(t.Context(), t, task, files, backup.Restore); result.Reason != backup.NotFound {
		t.Errorf("restoring what is deleted: %+v", result)
	}
	failing := backupTask(etcd.Storage(), startProxy(t, machine, s3, truncate))
	failing.Location.S3.Bucket, failing.Name = bucket, "failing"
	if result := run(t.Context(), t, failing, files, backup.Backup); result.Reason != backup.DigestMismatch ||
		result.StoredTime != nil {
		t.Errorf("a backup that is not as it was sent: %+v", result)
	}
	failing.Location.S3.Endpoint = task.Location.S3.Endpoint
	if result := run(t.Context(), t, failing, files, backup.Restore); result.Reason != backup.NotFound {
		t.Errorf("restoring a backup that failed: %+v", result)
	}
}

// TestServerSideEncryption checks that the S3 server is asked to encrypt each object when it is begun. The server of
// the tests has no encryption, and leaves it at that.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/specifying-kms-encryption.html
func TestServerSideEncryption(t *testing.T) {
	t.Parallel()
	machine := newMachine(t)
	etcd, s3 := machine.StartEtcd(), machine.StartS3()
	fill(t, etcd, 100)
	for encryption, keyID := range map[string]string{"": "", "AES256": "", "aws:kms": "alias/backups"} {
		var begun atomic.Int32
		location := startProxy(t, machine, s3, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.Method == http.MethodPost && r.URL.Query().Has("uploads") || r.Method == http.MethodPut && !isPart(r) {
				begun.Add(1)
				if r.Header.Get("X-Amz-Server-Side-Encryption") != encryption ||
					r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != keyID {
					t.Errorf("%q: %s %s has the headers %v", encryption, r.Method, r.URL, r.Header)
				}
			}
			return false
		})
		location.S3.ServerSideEncryption, location.S3.KMSKeyID = encryption, keyID
		task := backupTask(etcd.Storage(), location)
		task.Name = "encrypted" + strings.ReplaceAll(encryption, ":", "-")
		if result := run(t.Context(), t, task, machine.Files(), backup.Backup); result.Reason != "" {
			t.Errorf("%q: %+v", encryption, result)
		}
		if n := begun.Load(); n != 2 { // the snapshot, and what is known of it
			t.Errorf("%q: %d objects were begun", encryption, n)
		}
	}
}

// TestBackupOfRaft backs up a real Vault, restores into a new one of three nodes, and reads what was
// written.
func TestBackupOfRaft(t *testing.T) {
	t.Parallel()
	machine := newMachine(t)
	vault, s3 := machine.StartVault(5, 3), machine.StartS3()
	ctx := t.Context()
	const policy = `path "secret/*" { capabilities = ["read"] }`
	const at = "sys/policies/acl/backed-up"
	if err := vault.Write(ctx, vault.RootToken, at, map[string]string{"policy": policy}); err != nil {
		t.Fatal(err)
	}
	files := machine.Files()
	write(t, files.Login, "token", vault.RootToken+"\n")
	task := backupTask(vault.Storage(), s3.Location())
	made := run(ctx, t, task, files, backup.Backup)
	if made.Reason != "" || made.Revision == 0 || made.IntactTime == nil || made.Vault.Threshold != 3 {
		t.Fatalf("the backup: %+v", made)
	}
	vault.Stop()
	nodes := machine.StartNodes(3)
	task.Source, task.Want, files.Login = nodes[0].Storage(), made.SHA256, t.TempDir()
	result := run(ctx, t, task, files, backup.Restore)
	if result.Reason != "" || result.RestoredTime == nil || result.Vault.Threshold != 3 {
		t.Fatalf("restoring: %+v", result)
	}
	if result := run(ctx, t, task, files, backup.Restore); result.Reason != backup.Refused {
		t.Errorf("restoring again: %+v", result)
	}
	// They have to start again, as the operator has them do.
	for _, node := range nodes {
		node.Restart()
	}
	for _, node := range nodes {
		node.AwaitUnsealed(t, vault.Keys, vault.RootToken)
	}
	eventually(t, "one node is active, with what was written and all peers", func() error {
		active := 0
		for _, node := range nodes {
			var got struct{ Policy string }
			err := node.Read(ctx, vault.RootToken, at, &got)
			if backuptest.IsStandby(err) {
				continue
			}
			if err != nil || got.Policy != policy {
				return errors.Join(err, fmt.Errorf("the policy is %q", got.Policy))
			}
			active++
			peers, err := node.Peers(ctx, vault.RootToken)
			if err != nil || len(peers) != len(nodes) {
				return errors.Join(err, fmt.Errorf("the peers are %+v", peers))
			}
		}
		if active != 1 {
			return fmt.Errorf("%d nodes are active", active)
		}
		return nil
	})
}
