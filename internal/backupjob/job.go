package backupjob

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/authorization"
	"github.com/vault-operator/vault-operator/internal/backup"
)

const (
	// user is that of the operator's image, which is no user of the machine.
	user = 65532
	// backoffLimit is how often a Job tries again. A pod that was evicted counts as well.
	backoffLimit = 3
	// deadline is after how many seconds a Job is given up.
	deadline = 6 * 60 * 60
	// keepJob is for how many seconds a Job is kept that has ended, for its log.
	keepJob = 24 * 60 * 60
	// grace is how many seconds a Job has to clean up when it is to end.
	grace = 75
	// tokenSeconds is for how long the token is valid by which a Job logs in. It does so at once.
	tokenSeconds = 3600
	// etcdPrefix is the path of Vault's keys in etcd, as the chart configures it.
	etcdPrefix = "vault/"
	// fileMode lets the group of the pod read what is mounted.
	fileMode int32 = 0o440
)

// jobName is the name of the Job that does something with a backup.
func jobName(b *v1alpha1.VaultBackup, action backup.Action) string {
	return b.Name + "-" + strings.ToLower(string(action))
}

// objectName is the name of a backup in the store. Another VaultBackup of the same name is another
// one there.
func objectName(b *v1alpha1.VaultBackup) string {
	id, _, _ := strings.Cut(string(b.UID), "-")
	return b.Name + "-" + id
}

// location is where a backup is.
func location(b *v1alpha1.VaultBackup) backup.Location {
	return locationIn(&b.Spec.Destination, path.Join(b.Namespace, string(b.Spec.Vault)))
}

// locationIn is what is below a path in a place for backups.
func locationIn(destination *v1alpha1.BackupDestination, below string) backup.Location {
	if s3 := destination.S3; s3 != nil {
		return backup.Location{
			S3: &backup.S3{
				Endpoint: s3.Endpoint, Region: s3.Region, Bucket: s3.Bucket, PathStyle: s3.PathStyle,
				ServerSideEncryption: s3.ServerSideEncryption, KMSKeyID: s3.KMSKeyID,
			},
			Prefix: path.Join(s3.Prefix, below),
		}
	}
	l := backup.Location{Directory: backup.ClaimDirectory, Prefix: below}
	if claim := destination.PersistentVolumeClaim; claim != nil {
		l.Prefix = path.Join(claim.Path, below)
	}
	return l
}

// Location is where a backup is, as a URL without credentials.
func Location(b *v1alpha1.VaultBackup) string {
	return urlOf(&b.Spec.Destination, location(b), objectName(b))
}

func urlOf(destination *v1alpha1.BackupDestination, at backup.Location, name string) string {
	scheme, host := "pvc", ""
	if at.S3 != nil {
		scheme, host = "s3", at.S3.Bucket
	} else if claim := destination.PersistentVolumeClaim; claim != nil {
		host = string(claim.ClaimName)
	}
	return fmt.Sprintf("%s://%s/%s", scheme, host, path.Join(at.Prefix, name)+backup.SnapshotSuffix)
}

// source is the storage of a Vault as a Job reaches it, or nil if the operator does not run it.
func source(vault *v1alpha1.Vault) *backup.Storage {
	switch {
	case vault.HasRaft():
		// The Service leads to the active node, and its certificate is valid for this name.
		return &backup.Storage{Raft: &backup.RaftStorage{
			Address:   "https://" + vault.ServerName() + ":" + strconv.Itoa(v1alpha1.ClientPort),
			AuthMount: authorization.Name, Role: authorization.BackupName,
		}}
	case vault.HasEtcd():
		etcd := &backup.EtcdStorage{Prefix: etcdPrefix}
		for i := range vault.WantedMembers() {
			etcd.Endpoints = append(etcd.Endpoints,
				fmt.Sprintf("https://%s.%s.%s.svc:2379", vault.EtcdMemberName(i), vault.EtcdName(), vault.Namespace))
		}
		return &backup.Storage{Etcd: etcd}
	}
	return nil
}

// describe is what whoever restores a backup has to know of the Vault.
func describe(vault *v1alpha1.Vault) *v1alpha1.BackedUpVault {
	d := &v1alpha1.BackedUpVault{UID: vault.UID, Version: vault.Status.DataVersion, Storage: "etcd"}
	if vault.HasRaft() {
		d.Storage = "raft"
	}
	if vault.Status.Seal != nil {
		d.SealType = vault.Status.Seal.Type
	}
	if policy := vault.Spec.Initialization; policy != nil && vault.Status.Initialization != nil {
		d.Shares, d.Threshold = policy.WantedShares(), policy.WantedThreshold()
	}
	return d
}

// newJob is the Job that does something with a backup. The Vault is nil when what is stored is
// deleted and the Vault is gone.
func (r *Reconciler) newJob(
	b *v1alpha1.VaultBackup, vault *v1alpha1.Vault, action backup.Action, image, caKey string,
) (*batchv1.Job, error) {
	task := backup.Task{Action: action, Location: location(b), Name: objectName(b)}
	d := b.Status.Vault
	if action == backup.Backup {
		d, task.Source = describe(vault), source(vault)
	}
	if d != nil {
		task.Vault = backup.Description{
			Namespace: b.Namespace, Name: string(b.Spec.Vault), UID: string(d.UID), Version: d.Version, SealType: d.SealType,
			Storage: d.Storage, Shares: int(d.Shares), Threshold: int(d.Threshold),
		}
	}
	text, err := json.Marshal(task)
	if err != nil {
		return nil, err
	}
	labels := v1alpha1.BackupLabels(string(b.Spec.Vault))
	labels[v1alpha1.BackupLabel] = b.Name
	pod := r.podSpec(string(text), image, v1alpha1.BackupAccountName(string(b.Spec.Vault)))
	mountDestination(&pod, &b.Spec.Destination)
	if vault != nil {
		asVault(&pod, &vault.Spec)
	}
	if task.Source != nil {
		mountSource(&pod, b, vault, task.Source, caKey)
	}
	job := jobFor(metav1.ObjectMeta{
		Namespace: b.Namespace, Name: jobName(b, action), Labels: labels,
		OwnerReferences: []metav1.OwnerReference{
			*metav1.NewControllerRef(b, v1alpha1.GroupVersion.WithKind("VaultBackup")),
		},
	}, pod)
	if action == backup.Backup {
		job.Annotations = map[string]string{vaultAnnotation: string(vault.UID)}
	}
	// Two pods at a time would clean up what the other one has stored.
	job.Spec.PodReplacementPolicy = new(batchv1.Failed)
	return job, nil
}

func jobFor(object metav1.ObjectMeta, pod corev1.PodSpec) *batchv1.Job {
	return &batchv1.Job{
		ObjectMeta: object,
		Spec: batchv1.JobSpec{
			BackoffLimit: new(int32(backoffLimit)), ActiveDeadlineSeconds: new(int64(deadline)),
			TTLSecondsAfterFinished: new(int32(keepJob)),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(object.Labels)}, Spec: pod,
			},
		},
	}
}

// podSpec is restricted by the Pod Security Standards.
// https://kubernetes.io/docs/concepts/security/pod-security-standards/
func (r *Reconciler) podSpec(task, image, account string) corev1.PodSpec {
	security := &corev1.PodSecurityContext{
		RunAsNonRoot:   new(true),
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	if !r.OpenShift { // which chooses them
		security.RunAsUser, security.RunAsGroup, security.FSGroup = new(int64(user)), new(int64(user)), new(int64(user))
		security.FSGroupChangePolicy = new(corev1.FSGroupChangeOnRootMismatch)
	}
	return corev1.PodSpec{
		ServiceAccountName: account, AutomountServiceAccountToken: new(false), EnableServiceLinks: new(false),
		RestartPolicy: corev1.RestartPolicyNever, SecurityContext: security,
		TerminationGracePeriodSeconds: new(int64(grace)),
		Containers: []corev1.Container{{
			Name: "backup", Image: image, Args: []string{"backup"}, ImagePullPolicy: corev1.PullIfNotPresent,
			Env: []corev1.EnvVar{{Name: backup.TaskVariable, Value: task}},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
				},
				Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("128Mi")},
			},
			SecurityContext: &corev1.SecurityContext{
				AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			},
		}},
	}
}

// asVault gives a pod what the Vault's own are given to be admitted: where registries want credentials, all nodes of
// the cluster are tainted, or a quota wants limits.
func asVault(pod *corev1.PodSpec, vault *v1alpha1.VaultSpec) {
	pod.ImagePullSecrets, pod.Tolerations = vault.ImagePullSecrets, vault.Pod.Tolerations
	resources := &pod.Containers[0].Resources
	limit, has := vault.Pod.Resources.Limits[corev1.ResourceCPU]
	if !has {
		return
	}
	resources.Limits[corev1.ResourceCPU] = limit
	if request := resources.Requests[corev1.ResourceCPU]; limit.Cmp(request) < 0 {
		resources.Requests[corev1.ResourceCPU] = limit
	}
}

// mount gives the container a volume.
func mount(pod *corev1.PodSpec, name, at string, readOnly bool, volume corev1.VolumeSource) {
	pod.Volumes = append(pod.Volumes, corev1.Volume{Name: name, VolumeSource: volume})
	container := &pod.Containers[0]
	container.VolumeMounts = append(container.VolumeMounts,
		corev1.VolumeMount{Name: name, MountPath: at, ReadOnly: readOnly})
}

// secret is a volume with keys of a Secret, each under a name.
func secret(name string, optional []string, keys ...[2]string) corev1.VolumeSource {
	projected := &corev1.ProjectedVolumeSource{DefaultMode: new(fileMode)}
	from := corev1.LocalObjectReference{Name: name}
	source := &corev1.SecretProjection{LocalObjectReference: from}
	for _, key := range keys {
		source.Items = append(source.Items, corev1.KeyToPath{Key: key[0], Path: key[1]})
	}
	projected.Sources = append(projected.Sources, corev1.VolumeProjection{Secret: source})
	for _, key := range optional {
		projected.Sources = append(projected.Sources, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: from, Items: []corev1.KeyToPath{{Key: key, Path: key}}, Optional: new(true),
		}})
	}
	return corev1.VolumeSource{Projected: projected}
}

func mountDestination(pod *corev1.PodSpec, destination *v1alpha1.BackupDestination) {
	if claim := destination.PersistentVolumeClaim; claim != nil {
		mount(pod, "backups", backup.ClaimDirectory, false, corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: string(claim.ClaimName)},
		})
	}
	s3 := destination.S3
	if s3 == nil {
		return
	}
	if name := string(s3.CredentialsSecretName); name != "" {
		mount(pod, "s3", backup.S3Directory, true, secret(name, []string{"sessionToken"},
			[2]string{"accessKeyID", "accessKeyID"}, [2]string{"secretAccessKey", "secretAccessKey"}))
	}
	if name := string(s3.CASecretName); name != "" {
		mount(pod, "s3-ca", backup.S3CADirectory, true, secret(name, nil, [2]string{"ca.crt", "ca.crt"}))
	}
}

// mountStorage mounts what is needed to reach the storage.
func mountStorage(pod *corev1.PodSpec, vault *v1alpha1.Vault, storage *backup.Storage, caKey string) {
	if storage.Etcd != nil {
		mount(pod, "etcd", backup.EtcdDirectory, true, secret(vault.EtcdClientSecretName(), nil,
			[2]string{"client.crt", "tls.crt"}, [2]string{"client.key", "tls.key"}, [2]string{"ca.crt", "ca.crt"}))
		return
	}
	mount(pod, "vault", backup.VaultDirectory, true, secret(vault.ClientSecretName(), nil, [2]string{caKey, "ca.crt"}))
}

func mountSource(
	pod *corev1.PodSpec, b *v1alpha1.VaultBackup, vault *v1alpha1.Vault, source *backup.Storage, caKey string,
) {
	mountStorage(pod, vault, source, caKey)
	if source.Etcd != nil {
		return
	}
	login := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: new(fileMode),
		Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
			Audience: vault.LoginAudience(), ExpirationSeconds: new(int64(tokenSeconds)), Path: "jwt",
		}}},
	}}
	if name := string(b.Spec.TokenSecretName); name != "" {
		login = secret(name, nil, [2]string{"token", "token"})
	}
	mount(pod, "login", backup.LoginDirectory, true, login)
}
