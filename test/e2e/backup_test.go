//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

const (
	s3Bucket    = "backups"
	s3AccessKey = "e2e"
	s3SecretKey = "known-to-the-tests-only"
)

// TestBackup backs up a Vault on etcd and one with integrated storage into an S3 server, at once and
// by a schedule.
func TestBackup(t *testing.T) {
	requireLocalCluster(t)
	t.Parallel()
	s3 := startS3(t, newNamespace(t))
	etcd := vaulttest.Vault{Namespace: s3.Namespace, Name: "remote"}
	raft := vaulttest.Vault{Namespace: s3.Namespace, Name: "local"}
	const unattended = `, nodes: 1, operatorLogin: {enabled: true}, initialization: {shares: 1, threshold: 1, ` +
		`rootToken: Secret, allowPlaintext: true}, unseal: {keysSecretName: `
	shell.Apply(t, manifest(etcd, `{`+smallEtcd+unattended+`remote-vault-keys}}`))
	shell.Apply(t, manifest(raft, `{storage: {raft: {volumeSize: 1Gi, whenDeleted: Delete}}`+unattended+
		`local-vault-keys}}`))
	// It waits until there is something to back up.
	shell.Apply(t, s3.schedule("every-minute", etcd.Name, `schedule: "* * * * *", timeZone: Europe/Berlin, `+
		`immediate: true, retention: {count: 1}`))
	shell.Apply(t, s3.schedule("never", raft.Name, `schedule: "0 3 * * *", suspend: true`))
	root := ""
	for _, v := range []vaulttest.Vault{etcd, raft} {
		active := v.AwaitHA(t, 0).VaultStatus.Active
		root = string(keysOf(t, v)["root-token"])
		v.Do(t, active, root, "vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")
	}
	s3.secret(t, "wrong", "wrong")
	shell.Apply(t, s3.backup("refused", etcd.Name, "wrong"))
	a := newAdministrator(t, raft)
	first := s3.first(t, "every-minute")

	t.Run("of integrated storage, by kubectl vault", func(t *testing.T) {
		a.run(t, 0, root+"\n", "authorize")
		out := a.run(t, 0, "", "backup")
		requireProven(t, s3, out)
		if list := a.run(t, 0, "", "backups"); !strings.Contains(list, "stored, intact") {
			t.Errorf("the backups are:\n%s", list)
		}
	})
	t.Run("of etcd, by kubectl vault", func(t *testing.T) {
		of := administrator{etcd, a.path}
		requireProven(t, s3, of.run(t, 0, "", "backup"))
	})
	t.Run("with wrong credentials nothing is stored", func(t *testing.T) {
		b := s3.await(t, "refused")
		c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.BackupSucceededCondition)
		if b.Succeeded() || c == nil || c.Reason != "Denied" || b.Status.Proven != nil {
			t.Errorf("the status is %+v", b.Status)
		}
		if objects := s3.objects(t); slices.ContainsFunc(objects, func(key string) bool {
			return strings.Contains(key, "refused")
		}) {
			t.Errorf("the bucket has %v", objects)
		}
	})
	t.Run("what is stored is deleted where the spec says so", func(t *testing.T) {
		shell.Apply(t, s3.backup("deleted", etcd.Name, "right"))
		b := s3.await(t, "deleted")
		if !b.Succeeded() || !s3.has(t, b.Status.Location) {
			t.Fatalf("the status is %+v", b.Status)
		}
		shell.Run(t, s3.Kubectl("patch vaultbackup deleted --type=merge -p '{\"spec\": {\"deletionPolicy\": \"Delete\"}}'"))
		shell.Run(t, s3.Kubectl("delete vaultbackup deleted --timeout=2m"))
		if s3.has(t, b.Status.Location) {
			t.Errorf("the bucket has %v", s3.objects(t))
		}
	})
	t.Run("into a volume", func(t *testing.T) {
		shell.Apply(t, backupTo("filed", etcd, s3.volume(t)))
		b := s3.await(t, "filed")
		if !b.Succeeded() || !strings.HasPrefix(b.Status.Location, "pvc://backups/") || b.Status.Proven.Intact == nil {
			t.Fatalf("the status is %+v", b.Status)
		}
		shell.Run(t, s3.Kubectl("patch vaultbackup filed --type=merge -p '{\"spec\": {\"deletionPolicy\": \"Delete\"}}'"))
		shell.Run(t, s3.Kubectl("delete vaultbackup filed --timeout=2m"))
	})
	t.Run("the schedule has made the next and deleted the last", func(t *testing.T) {
		s3.follow(t, "every-minute", first)
	})
	t.Run("an upgrade waits for a backup", func(t *testing.T) { s3.upgrade(t, etcd) })
	all := shell.Run(t, s3.Kubectl("get jobs,pods,events,vaultbackups,vaultbackupschedules -o yaml")) +
		shell.Run(t, s3.Kubectl("logs -l app.kubernetes.io/component=backup --tail=-1"))
	for _, secret := range []string{s3SecretKey, root} {
		// The pod of the S3 server has it as well.
		if strings.Count(all, secret) > strings.Count(shell.Run(t, s3.Kubectl("get pod s3 -o yaml")), secret) {
			t.Error("a secret is in a Job, a pod, an event, a status or a log")
		}
	}
}

// requireProven asserts that what "kubectl vault backup" printed tells of a backup that is there.
func requireProven(t *testing.T, s3 objectStore, out string) {
	t.Helper()
	location := ""
	for field := range strings.FieldsSeq(out) {
		if strings.HasPrefix(field, "s3://") {
			location = strings.TrimSuffix(field, ",")
		}
	}
	if !strings.Contains(out, "proven: stored, intact") || !s3.has(t, location) {
		t.Errorf("kubectl vault backup printed\n%s\nand the bucket has %v", out, s3.objects(t))
	}
}

// first waits for a backup of a schedule.
func (s objectStore) first(t *testing.T, schedule string) (first *v1alpha1.VaultBackup) {
	t.Helper()
	shell.Eventually(t, "there is a backup", 2*time.Minute, func() error {
		list := s.backups(t, schedule)
		i := slices.IndexFunc(list, func(b v1alpha1.VaultBackup) bool { return b.Succeeded() })
		if i < 0 {
			return fmt.Errorf("there are %+v", list)
		}
		first = &list[i]
		return nil
	})
	return first
}

// follow waits for another backup of a schedule than the first, of which nothing is left then.
func (s objectStore) follow(t *testing.T, schedule string, first *v1alpha1.VaultBackup) {
	shell.Eventually(t, "the first backup expires", 5*time.Minute, func() error {
		list := s.backups(t, schedule)
		if slices.ContainsFunc(list, func(b v1alpha1.VaultBackup) bool { return b.UID == first.UID }) ||
			!slices.ContainsFunc(list, func(b v1alpha1.VaultBackup) bool { return b.Succeeded() }) {
			return fmt.Errorf("there are %+v", list)
		}
		return nil
	})
	shell.Run(t, s.Kubectl("patch vaultbackupschedule %s --type=merge -p '{\"spec\": {\"suspend\": true}}'", schedule))
	if s.has(t, first.Status.Location) {
		t.Errorf("of the first backup there is something: %v", s.objects(t))
	}
	list := s.backups(t, schedule)
	if newest := list[len(list)-1]; !s.has(t, s.await(t, newest.Name).Status.Location) {
		t.Errorf("the bucket has %v, and no %+v", s.objects(t), newest.Status)
	}
}

// upgrade takes a Vault to a newer version. It begins when there is a backup, and not before.
func (s objectStore) upgrade(t *testing.T, v vaulttest.Vault) {
	shell.Apply(t, s.schedule("before", v.Name, `schedule: "0 3 * * *", tokenSecretName: missing`))
	setSpec(t, v, `{"version": "1.21.1"}`)
	awaitReported(t, v, v1alpha1.IrreconcilableCondition, metav1.ConditionTrue, "", "kubectl delete vaultbackup")
	if status, err := v.Status(); err != nil || status.Version != "1.21.0" {
		t.Errorf("without a backup it runs %s, error %v", status.Version, err)
	}
	failed := s.backups(t, "before")[0].Name
	shell.Apply(t, s.schedule("before", v.Name, `schedule: "0 3 * * *"`))
	shell.Run(t, s.Kubectl("delete vaultbackup %s", failed))
	v.Await(t, "is updated", func(status v1alpha1.VaultStatus) bool {
		return status.DataVersion == "1.21.1" && status.VaultStatus.Active != ""
	})
	made := s.backups(t, "before")
	if len(made) != 1 || !made[0].Succeeded() || !s.has(t, made[0].Status.Location) {
		t.Fatalf("the backups before the upgrade are %+v", made)
	}
	events := shell.Run(t, v.Kubectl("events --for vault/%s", v.Name))
	if !strings.Contains(events, "The backup "+made[0].Name+" is made before the upgrade begins") {
		t.Errorf("the events are\n%s", events)
	}
}

// objectStore is a pod that serves as Amazon S3 does.
type objectStore struct{ vaulttest.Vault }

// startS3 starts one with a bucket, and makes the Secrets "right" and "s3-ca", which backups need.
func startS3(t *testing.T, namespace string) objectStore {
	t.Helper()
	// The Service is called as a Vault's would be, and so is its certificate.
	s := objectStore{vaulttest.Vault{Namespace: namespace, Name: "s3"}}
	ca := newUserCA(t, s.Vault)
	ca.issue(t, 24*time.Hour)
	shell.Run(t, s.Kubectl("create secret generic s3-ca --from-file=ca.crt=%s", ca.file))
	s.secret(t, "right", s3SecretKey)
	shell.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: s3, namespace: %[1]s}
spec:
  selector: {app: s3}
  ports: [{port: 443, targetPort: 8443}]
---
apiVersion: v1
kind: Pod
metadata: {name: s3, namespace: %[1]s, labels: {app: s3}}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 1000, fsGroup: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: s3
    image: localhost/versitygw:1
    imagePullPolicy: Never
    args: [--quiet, "--port=:8443", --cert=/tls/tls.crt, --key=/tls/tls.key, posix, --sidecar=/metadata, /data]
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    env:
    - {name: ROOT_ACCESS_KEY, valueFrom: {secretKeyRef: {name: right, key: accessKeyID}}}
    - {name: ROOT_SECRET_KEY, valueFrom: {secretKeyRef: {name: right, key: secretAccessKey}}}
    readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: metadata, mountPath: /metadata}
    - {name: tls, mountPath: /tls}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: metadata, emptyDir: {}}
  - name: tls
    secret:
      secretName: mine
      items: [{key: server.crt, path: tls.crt}, {key: server.key, path: tls.key}]
`, namespace))
	shell.Run(t, s.Kubectl("wait --for=condition=Ready --timeout=1m pod/s3"))
	s.reach(t, func(client *minio.Client) error {
		return client.MakeBucket(t.Context(), s3Bucket, minio.MakeBucketOptions{})
	})
	return s
}

// secret makes a Secret with credentials.
func (s objectStore) secret(t *testing.T, name, key string) {
	t.Helper()
	shell.Run(t, s.Kubectl("create secret generic %s --from-literal=accessKeyID=%s --from-literal=secretAccessKey=%s",
		name, s3AccessKey, key))
}

// reach calls the S3 server from this machine.
func (s objectStore) reach(t *testing.T, call func(*minio.Client) error) {
	t.Helper()
	port := vaulttest.FreePort(t)
	background := shell.Start(t, s.Kubectl("port-forward pod/s3 %d:8443", port))
	defer background.Stop()
	vaulttest.AwaitPort(t, port, background)
	client, err := minio.New(fmt.Sprintf("localhost:%d", port), &minio.Options{
		Creds: credentials.NewStaticV4(s3AccessKey, s3SecretKey, ""), Secure: true, Region: "us-east-1",
		Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}, // through kubectl
	})
	if err == nil {
		err = call(client)
	}
	if err != nil {
		t.Fatalf("the S3 server: %v", err)
	}
}

// objects are the keys that the bucket has.
func (s objectStore) objects(t *testing.T) (keys []string) {
	t.Helper()
	s.reach(t, func(client *minio.Client) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for object := range client.ListObjects(ctx, s3Bucket, minio.ListObjectsOptions{Recursive: true}) {
			if object.Err != nil {
				return object.Err
			}
			keys = append(keys, object.Key)
		}
		return nil
	})
	return keys
}

// has says whether a backup is there: the snapshot, or what is known of it.
func (s objectStore) has(t *testing.T, location string) bool {
	t.Helper()
	name := strings.TrimSuffix(strings.TrimPrefix(location, "s3://"+s3Bucket+"/"), ".snapshot")
	return slices.ContainsFunc(s.objects(t), func(key string) bool {
		return location != "" && (key == name+".snapshot" || key == name+".json")
	})
}

func (s objectStore) destination(credentials string) string {
	return fmt.Sprintf(`{s3: {endpoint: "https://s3.%s.svc", region: us-east-1, bucket: %s, prefix: e2e, `+
		`pathStyle: true, credentialsSecretName: %s, caSecretName: s3-ca}}`, s.Namespace, s3Bucket, credentials)
}

func (s objectStore) schedule(name, vault, spec string) string {
	return fmt.Sprintf(`
apiVersion: vault.security.coreos.com/v1alpha1
kind: VaultBackupSchedule
metadata: {name: %s, namespace: %s}
spec: {vault: %s, destination: %s, %s}`, name, s.Namespace, vault, s.destination("right"), spec)
}

func (s objectStore) backup(name, vault, credentials string) string {
	return backupTo(name, vaulttest.Vault{Namespace: s.Namespace, Name: vault}, s.destination(credentials))
}

// volume makes a claim, and returns the destination.
func (s objectStore) volume(t *testing.T) string {
	t.Helper()
	shell.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: backups, namespace: %s}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}`, s.Namespace))
	return `{persistentVolumeClaim: {claimName: backups}}`
}

func backupTo(name string, v vaulttest.Vault, destination string) string {
	return fmt.Sprintf(`
apiVersion: vault.security.coreos.com/v1alpha1
kind: VaultBackup
metadata: {name: %s, namespace: %s}
spec: {vault: %s, destination: %s}`, name, v.Namespace, v.Name, destination)
}

// backups are those of a schedule, the oldest first.
func (s objectStore) backups(t *testing.T, schedule string) []v1alpha1.VaultBackup {
	t.Helper()
	var list v1alpha1.VaultBackupList
	out := shell.Run(t, s.Kubectl("get vaultbackups -l %s=%s --sort-by=.metadata.creationTimestamp -o json",
		v1alpha1.ScheduleLabel, schedule))
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// await waits until a backup has succeeded or failed.
func (s objectStore) await(t *testing.T, name string) *v1alpha1.VaultBackup {
	t.Helper()
	b := &v1alpha1.VaultBackup{}
	shell.Eventually(t, "the backup "+name+" ends", 4*time.Minute, func() error {
		err := vaulttest.Get(s.Namespace, name, b)
		if err == nil && !b.Completed() {
			err = fmt.Errorf("the status is %+v", b.Status)
		}
		return err
	})
	return b
}
