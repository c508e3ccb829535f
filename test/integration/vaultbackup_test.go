//go:build integration

package integration

import (
	"cmp"
	"fmt"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/backupschedule"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// backedUp is the message of a Job's pod that has made a backup.
const backedUp = `{"size":7,"sha256":"%s","revision":3,` +
	`"storedTime":"2026-01-02T03:04:05Z","intactTime":"2026-01-02T03:04:05Z"}`

func s3Destination() v1alpha1.BackupDestination {
	return v1alpha1.BackupDestination{S3: &v1alpha1.S3Destination{
		Endpoint: "https://s3.example.com", Bucket: "backups", Prefix: "p", CredentialsSecretName: "s3",
	}}
}

// createS3Credentials makes the Secret that s3Destination names.
func createS3Credentials(t *testing.T, namespace string) {
	t.Helper()
	if err := admin.Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "s3"},
		StringData: map[string]string{"accessKeyID": "a", "secretAccessKey": "b"},
	}); err != nil {
		t.Fatal(err)
	}
}

func awaitInitialized(t *testing.T, vault *v1alpha1.Vault) {
	t.Helper()
	awaitVault(t, vault, "it is initialized", func(v *v1alpha1.Vault) error {
		if !v.Status.Initialized {
			return fmt.Errorf("it is not")
		}
		return nil
	})
}

// awaitJob waits until the operator has made a Job.
func awaitJob(t *testing.T, namespace, name string) *batchv1.Job {
	t.Helper()
	job := &batchv1.Job{}
	eventually(t, "Job "+name, func() error {
		return admin.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, job)
	})
	return job
}

// endJob plays the Job controller: the pod of a Job says something, and the Job ends.
func endJob(t *testing.T, namespace, name, message string) *batchv1.Job {
	t.Helper()
	job := awaitJob(t, namespace, name)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name + "-x", Labels: job.Spec.Template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(job, batchv1.SchemeGroupVersion.WithKind("Job"))},
		},
		Spec: job.Spec.Template.Spec,
	}
	pod.Spec.NodeName = "machine-1"
	if err := admin.Create(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	now := metav1.Now()
	pod.Status.Phase = corev1.PodSucceeded
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "backup", State: corev1.ContainerState{
		Terminated: &corev1.ContainerStateTerminated{Message: message, FinishedAt: now},
	}}}
	if err := admin.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	job.Status.StartTime, job.Status.CompletionTime, job.Status.Succeeded = &now, &now, 1
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobComplete} {
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{
			Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now,
		})
	}
	if err := admin.Status().Update(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	return job
}

func awaitBackup(t *testing.T, b *v1alpha1.VaultBackup, phase v1alpha1.BackupPhase, reason string) {
	t.Helper()
	eventually(t, fmt.Sprintf("backup %s is %s %s", b.Name, phase, reason), func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(b), b); err != nil {
			return err
		}
		c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.BackupSucceededCondition)
		if b.Status.Phase != phase || c == nil || c.Reason != reason {
			return fmt.Errorf("status %+v", b.Status)
		}
		return nil
	})
}

// refuseJobs has a quota refuse Jobs, until the function that it returns is called.
func refuseJobs(t *testing.T, namespace string) (allow func()) {
	t.Helper()
	quota := &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "no-jobs"}}
	quota.Spec.Hard = corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}
	if err := admin.Create(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	quota.Status.Hard, quota.Status.Used = quota.Spec.Hard, quota.Spec.Hard
	if err := admin.Status().Update(t.Context(), quota); err != nil {
		t.Fatal(err)
	}
	job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "x"}}
	job.Spec.Template.Spec = corev1.PodSpec{
		RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "x", Image: "x"}},
	}
	eventually(t, "Jobs are refused", func() error {
		if err := admin.Create(t.Context(), job.DeepCopy(), client.DryRunAll); !apierrors.IsForbidden(err) {
			return fmt.Errorf("error %w", err)
		}
		return nil
	})
	return func() { remove(t, quota) }
}

// A backup is made by a Job without any right of the operator, and what is stored is deleted with it.
func TestVaultBackup(t *testing.T) {
	t.Setenv("OPERATOR_IMAGE", "example.com/operator:1")
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {nodes: 1}"))
	startPod(t, vault, "a", fakevault.Active)
	awaitInitialized(t, vault)
	b := &v1alpha1.VaultBackup{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "early"},
		Spec:       v1alpha1.VaultBackupSpec{Vault: "example", Destination: s3Destination()},
	}
	if err := admin.Create(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	awaitBackup(t, b, v1alpha1.BackupFailed, v1alpha1.ReasonDestinationMissing)

	createS3Credentials(t, namespace)
	b = &v1alpha1.VaultBackup{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "first"},
		Spec: v1alpha1.VaultBackupSpec{
			Vault: "example", Destination: s3Destination(), DeletionPolicy: v1alpha1.DeleteData,
		},
	}
	allowJobs := refuseJobs(t, namespace)
	if err := admin.Create(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	awaitBackup(t, b, v1alpha1.BackupPending, v1alpha1.ReasonJobPending)
	if c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.BackupSucceededCondition); b.Status.Attempts != 0 ||
		!strings.Contains(c.Message, "no-jobs") {
		t.Errorf("status %+v", b.Status)
	}
	allowJobs()
	job := endJob(t, namespace, "first-backup", fmt.Sprintf(backedUp, strings.Repeat("0", 64)))
	pod := job.Spec.Template.Spec
	if pod.ServiceAccountName != "example-backup" || pod.AutomountServiceAccountToken == nil ||
		*pod.AutomountServiceAccountToken || pod.Containers[0].Image != "example.com/operator:1" {
		t.Errorf("the pod is %+v", pod)
	}
	awaitBackup(t, b, v1alpha1.BackupSucceeded, v1alpha1.ReasonBackupStored)
	if b.Status.Size != 7 || b.Status.Proven == nil || b.Status.Proven.Intact == nil || b.Status.Attempts != 1 {
		t.Errorf("status %+v", b.Status)
	}
	err := admin.Patch(t.Context(), b.DeepCopy(), client.RawPatch("application/merge-patch+json",
		[]byte(`{"spec":{"destination":{"s3":{"bucket":"other"}}}}`)))
	if !apierrors.IsInvalid(err) {
		t.Errorf("another destination: error %v", err)
	}
	if err := admin.Delete(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	endJob(t, namespace, "first-delete", `{}`)
	eventually(t, "the backup is gone", func() error {
		if err := admin.Get(t.Context(), client.ObjectKeyFromObject(b), b); !apierrors.IsNotFound(err) {
			return fmt.Errorf("it is there: %w", err)
		}
		return nil
	})
}

// A schedule makes a backup at once where it is to.
func TestVaultBackupSchedule(t *testing.T) {
	t.Setenv("OPERATOR_IMAGE", "example.com/operator:1")
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {nodes: 1}"))
	startPod(t, vault, "a", fakevault.Active)
	s := &v1alpha1.VaultBackupSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nightly"},
		Spec: v1alpha1.VaultBackupScheduleSpec{
			Vault: "example", Schedule: "0 3 * * *", Immediate: true, Destination: s3Destination(),
			Retention: &v1alpha1.BackupRetention{Age: &metav1.Duration{Duration: 36 * time.Hour}},
		},
	}
	if err := admin.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	short := s.DeepCopy()
	short.ObjectMeta = metav1.ObjectMeta{Namespace: namespace, Name: "short"}
	short.Spec.Retention.Age.Duration = time.Second
	if err := admin.Create(t.Context(), short); !apierrors.IsInvalid(err) {
		t.Errorf("kept for a second: error %v", err)
	}
	eventually(t, "a backup", func() error {
		var list v1alpha1.VaultBackupList
		if err := admin.List(t.Context(), &list, client.InNamespace(namespace)); err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d backups", len(list.Items))
		}
		return nil
	})
}

func TestBadBackupsAreRefusedWithTheNameOfTheField(t *testing.T) {
	namespace := newNamespace(t)
	const (
		s3      = `destination: {s3: {endpoint: "https://s3.example.com", bucket: backups, credentialsSecretName: s3}}`
		good    = `vault: example, ` + s3
		nightly = good + `, schedule: "0 3 * * *"`
	)
	for name, tt := range map[string]struct {
		kind, spec, object string
		want               []string
	}{
		"a backup":   {kind: "VaultBackup", spec: good},
		"a schedule": {kind: "VaultBackupSchedule", spec: nightly + `, proof: {schedule: "0 5 * * 0"}`},
		"a canary": {kind: "VaultBackupSchedule",
			spec: nightly + `, proof: {schedule: "0 5 * * 0", canary: {path: secret/data/my-canary.1, secretName: c}}`},
		"a restore": {kind: "VaultRestore", spec: `vault: example, backup: nightly-1`},

		"no destination": {kind: "VaultBackup", spec: `vault: example`, want: []string{"spec.destination", "Required"}},
		"two destinations": {kind: "VaultBackup", spec: `vault: example, destination: {persistentVolumeClaim: ` +
			`{claimName: c}, ` + strings.TrimPrefix(s3, "destination: {"), want: []string{"spec.destination", "exactly one of"}},
		"no Vault":   {kind: "VaultBackup", spec: s3, want: []string{"spec.vault", "Required"}},
		"plain HTTP": {kind: "VaultBackup", spec: strings.Replace(good, "https", "http", 1), want: []string{"s3.endpoint"}},
		"credentials in the URL": {kind: "VaultBackup", spec: strings.Replace(good, "//", "//me:secret@", 1),
			want: []string{"s3.endpoint"}},
		"a path in the URL": {kind: "VaultBackup", spec: strings.Replace(good, ".com", ".com/a", 1),
			want: []string{"s3.endpoint"}},
		"a bucket in capitals": {kind: "VaultBackup", spec: strings.Replace(good, "backups", "Backups", 1),
			want: []string{"s3.bucket"}},
		"a key of KMS alone": {kind: "VaultBackup", spec: strings.Replace(good, "bucket:", "kmsKeyID: k, bucket:", 1),
			want: []string{"s3.kmsKeyID", "serverSideEncryption"}},
		"a way up": {kind: "VaultBackup", spec: strings.Replace(good, "bucket:", "prefix: a/../b, bucket:", 1),
			want: []string{"s3.prefix"}},
		"a long name":       {kind: "VaultBackup", object: strings.Repeat("n", 53), spec: good, want: []string{"at most 52"}},
		"a name with a dot": {kind: "VaultBackup", object: "a.b", spec: good, want: []string{"must not contain a dot"}},

		"no schedule": {kind: "VaultBackupSchedule", spec: good, want: []string{"spec.schedule", "Required"}},
		"a time zone in the schedule": {kind: "VaultBackupSchedule", spec: good + `, schedule: "CRON_TZ=UTC 0 3 * * *"`,
			want: []string{"spec.schedule", "timeZone"}},
		"a time zone in that of proofs": {kind: "VaultBackupSchedule",
			spec: nightly + `, proof: {schedule: "TZ=UTC 0 3 * * *"}`, want: []string{"spec.proof.schedule", "timeZone"}},
		"a long name of a schedule": {kind: "VaultBackupSchedule", object: strings.Repeat("n", 41), spec: nightly,
			want: []string{"at most 40"}},
		"no retention": {kind: "VaultBackupSchedule", spec: nightly + `, retention: {}`,
			want: []string{"spec.retention", "count or age"}},
		"a retention of none": {kind: "VaultBackupSchedule", spec: nightly + `, retention: {count: 0}`,
			want: []string{"spec.retention.count"}},
		"an age in days": {kind: "VaultBackupSchedule", spec: nightly + `, retention: {age: 30d}`,
			want: []string{"spec.retention.age", "720h"}},
		"a key service": {kind: "VaultBackupSchedule", spec: nightly + keyService(`cidr: 10.1.2.3/32`) +
			` {port: 8200, namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: security}}, ` +
			`podSelector: {matchLabels: {app: root}}}, {port: 443, cidr: "2001:db8::/64"}]}`},
		"a key service of all addresses": {kind: "VaultBackupSchedule", spec: nightly + keyService(`cidr: 0.0.0.0/0`) +
			`]}`, want: []string{"spec.proof.keyService[0].cidr", "no wider than /16 (IPv4) or /48 (IPv6)"}},
		"a key service of all addresses of IPv6": {kind: "VaultBackupSchedule", spec: nightly +
			keyService(`cidr: "::/0"`) + `]}`, want: []string{"spec.proof.keyService[0].cidr", "no wider than /16"}},
		"a key service of all pods": {kind: "VaultBackupSchedule", spec: nightly + keyService(`podSelector: {}`) + `]}`,
			want: []string{"spec.proof.keyService[0]", "matchLabels must not be empty"}},
		"a key service of all pods but some": {kind: "VaultBackupSchedule", spec: nightly +
			keyService(`podSelector: {matchExpressions: [{key: a, operator: DoesNotExist}]}`) + `]}`,
			want: []string{"spec.proof.keyService[0]", "matchLabels must not be empty"}},
		"a key service of a namespace": {kind: "VaultBackupSchedule", spec: nightly +
			keyService(`namespaceSelector: {matchLabels: {a: b}}`) + `]}`,
			want: []string{"spec.proof.keyService[0]", "exactly one of cidr and podSelector"}},
		"a key service without a port": {kind: "VaultBackupSchedule", spec: nightly +
			`, proof: {schedule: "0 5 * * 0", keyService: [{cidr: 10.1.2.3/32}]}`,
			want: []string{"spec.proof.keyService[0].port", "Required"}},
		"a canary without a Secret": {kind: "VaultBackupSchedule",
			spec: nightly + `, proof: {schedule: "0 5 * * 0", canary: {path: secret/canary}}`,
			want: []string{"spec.proof.canary.secretName", "Required"}},
		"a canary with a query": {kind: "VaultBackupSchedule",
			spec: nightly + `, proof: {schedule: "0 5 * * 0", canary: {path: "secret/canary?version=1", secretName: c}}`,
			want: []string{"spec.proof.canary.path"}},
		"a canary above the root": {kind: "VaultBackupSchedule",
			spec: nightly + `, proof: {schedule: "0 5 * * 0", canary: {path: secret/../sys/seal, secretName: c}}`,
			want: []string{"spec.proof.canary.path"}},
		"a canary with the version of the API": {kind: "VaultBackupSchedule",
			spec: nightly + `, proof: {schedule: "0 5 * * 0", canary: {path: v1/secret/canary, secretName: c}}`,
			want: []string{"spec.proof.canary.path", "must not begin with v1/"}},

		"nothing to restore": {kind: "VaultRestore", spec: `vault: example`, want: []string{"spec", "exactly one of"}},
		"two to restore": {kind: "VaultRestore", spec: `vault: example, backup: b, from: {name: b, location: ` +
			strings.TrimPrefix(s3, "destination: ") + `}`,
			want: []string{"exactly one of"}},
	} {
		t.Run(name, func(t *testing.T) {
			object := parseVault(t, namespace, cmp.Or(tt.object, "nightly"), `spec: {`+tt.spec+`}`)
			object.SetKind(tt.kind)
			err := client.NewDryRunClient(strict()).Create(t.Context(), object)
			if len(tt.want) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
				t.Fatalf("error %v", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v, want %q", err, want)
				}
			}
		})
	}
}

// An upgrade waits for a backup, and does not begin when that fails. The way back waits for none.
func TestBackupBeforeUpgrade(t *testing.T) {
	t.Setenv("OPERATOR_IMAGE", "example.com/operator:1")
	namespace := newNamespace(t)
	startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, "spec: {version: 1.21.0, nodes: 1}"))
	startPod(t, vault, "a", fakevault.Active)
	awaitDataVersion(t, vault, "1.21.0")
	s := &v1alpha1.VaultBackupSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "nightly"},
		Spec: v1alpha1.VaultBackupScheduleSpec{
			Vault: "example", Schedule: "0 3 * * *", Destination: s3Destination(),
		},
	}
	if err := admin.Create(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	change(t, vault, `{"spec": {"version": "1.21.1"}}`)
	failed := awaitBackupBeforeUpgrade(t, namespace, "")
	awaitBackup(t, failed, v1alpha1.BackupFailed, v1alpha1.ReasonDestinationMissing)
	awaitVault(t, vault, "the upgrade does not begin", func(v *v1alpha1.Vault) error {
		c := meta.FindStatusCondition(v.Status.Conditions, v1alpha1.IrreconcilableCondition)
		if c == nil || !strings.Contains(c.Message, "kubectl delete vaultbackup "+failed.Name) {
			return fmt.Errorf("Irreconcilable is %+v", c)
		}
		return nil
	})
	awaitEvent(t, vault, "Normal BackupBeforeUpgrade The backup "+failed.Name)
	change(t, vault, `{"spec": {"version": "1.21.0"}}`)
	awaitImage(t, vault, "1.21.0")

	createS3Credentials(t, namespace)
	change(t, vault, `{"spec": {"version": "1.21.1"}}`)
	b := awaitBackupBeforeUpgrade(t, namespace, failed.Name)
	awaitJob(t, namespace, b.Name+"-backup")
	image := runningNow(t, vault)
	awaitQuiet(t)
	if now := runningNow(t, vault); now != image {
		t.Errorf("what runs was changed from %+v to %+v before there was a backup", image, now)
	}
	endJob(t, namespace, b.Name+"-backup", fmt.Sprintf(backedUp, strings.Repeat("0", 64)))
	awaitImage(t, vault, "1.21.1")

	change(t, s, `{"spec": {"beforeUpgrade": false}}`)
	change(t, vault, `{"spec": {"version": "1.21.2"}}`)
	awaitImage(t, vault, "1.21.2")
}

// awaitBackupBeforeUpgrade waits for a backup that an upgrade waits for. It deletes the one that failed.
func awaitBackupBeforeUpgrade(t *testing.T, namespace, failed string) *v1alpha1.VaultBackup {
	t.Helper()
	if failed != "" {
		b := &v1alpha1.VaultBackup{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: failed}}
		if err := client.IgnoreNotFound(admin.Delete(t.Context(), b)); err != nil {
			t.Fatal(err)
		}
	}
	var found *v1alpha1.VaultBackup
	eventually(t, "a backup before the upgrade", func() error {
		var list v1alpha1.VaultBackupList
		err := admin.List(t.Context(), &list, client.InNamespace(namespace),
			client.MatchingLabels{backupschedule.UpgradeLabel: "true"})
		if err != nil {
			return err
		}
		if len(list.Items) != 1 {
			return fmt.Errorf("%d backups", len(list.Items))
		}
		found = &list.Items[0]
		return nil
	})
	return found
}

// keyService begins a proof with a key service at a place.
func keyService(at string) string {
	return `, proof: {schedule: "0 5 * * 0", keyService: [{port: 443, ` + at + `},`
}
