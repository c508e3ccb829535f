package backupjob

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// isolationDeadline is after how many seconds a Job is given up that finds out what its pod can reach.
// It takes up to 75 when its pod has started.
const isolationDeadline = 5 * 60

// Isolation is what such a Job has found out, or why that is not known.
type Isolation struct {
	// Done says that the Job has ended.
	Done bool
	// Reached says that its pod could connect to the API server, from Since to Until at least; nil when it did not say.
	Reached      *bool
	Since, Until time.Time
	// Late says that it could at first, before its NetworkPolicy took effect.
	Late bool
	// Why says what is waited for, or why nothing is known.
	Why string
}

// FindOut makes a Job that finds out whether its pod, which has the labels of the object, can connect to the API
// server, and the ServiceAccount of backups of its instance that it runs as. Both have the owner of the object. It runs
// where pods of a Vault with that spec do, and on a machine if one is named. The task is a backup.ReachTask or a
// backup.IsolationTask.
func (r *Reconciler) FindOut(
	ctx context.Context, object metav1.ObjectMeta, task string, vault *v1alpha1.VaultSpec, machine string,
) error {
	instance := object.Labels[v1alpha1.InstanceLabel]
	image, err := r.Image(ctx)
	if err != nil {
		return fmt.Errorf("finding out the image of the operator: %w", err)
	}
	account := &corev1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: object.Namespace, Name: v1alpha1.BackupAccountName(instance), Labels: object.Labels,
			OwnerReferences: object.OwnerReferences,
		},
		AutomountServiceAccountToken: new(false),
	}
	if err := r.Create(ctx, account); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	if err := r.Create(ctx, r.newIsolationJob(object, task, image, vault, machine)); !apierrors.IsAlreadyExists(err) {
		return err
	}
	return nil // it is looked at when the cache has it
}

func (r *Reconciler) newIsolationJob(
	object metav1.ObjectMeta, task, image string, vault *v1alpha1.VaultSpec, machine string,
) *batchv1.Job {
	pod := r.podSpec(task, image, v1alpha1.BackupAccountName(object.Labels[v1alpha1.InstanceLabel]))
	asVault(&pod, vault)
	pod.NodeSelector, pod.Affinity = vault.Pod.NodeSelector, vault.Pod.Affinity
	if machine != "" {
		pod.Affinity = OnMachine(machine)
	} else if resources := vault.Pod.Resources; len(resources.Requests)+len(resources.Limits) > 0 {
		// It finds a machine where the node of the Vault has room.
		pod.Containers[0].Resources = *resources.DeepCopy()
	}
	job := jobFor(object, pod)
	job.Spec.ActiveDeadlineSeconds = new(int64(isolationDeadline))
	job.Spec.BackoffLimit = new(int32(0)) // another pod may be on another machine
	return job
}

// OnMachine is the affinity of pods that run on one machine.
func OnMachine(name string) *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{{
				Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name},
			}}}},
		},
	}}
}

// IsolationOf reads what such a Job has found out.
func IsolationOf(job *batchv1.Job, pods []corev1.Pod, now time.Time) Isolation {
	switch {
	case job == nil:
		return Isolation{Why: "its Job is not there yet"}
	case ended(job, batchv1.JobComplete) && awaitsResult(&facts{Job: job, Pods: pods, Now: now}):
		return Isolation{Why: "its result is not there yet"}
	case ended(job, batchv1.JobComplete):
		result, err := resultOf(job, pods, now)
		if err != nil || result == nil || result.Reached == nil || result.Since == nil || result.Until == nil ||
			result.Reason != "" {
			return Isolation{Done: true, Why: fmt.Sprintf("the Job %s did not say what it found", job.Name)}
		}
		return Isolation{
			Done: true, Reached: result.Reached, Since: *result.Since, Until: *result.Until, Late: result.Late,
		}
	case ended(job, batchv1.JobFailed):
		_, why := whyFailed(job, pods, now)
		return Isolation{Done: true, Why: why}
	}
	return Isolation{Why: underWay(&facts{Job: job, Pods: pods, Now: now}).Message}
}
