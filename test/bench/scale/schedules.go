package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const credentialsSecret = "backup-credentials"

// backups is what happened when the schedules of all Vaults were due at the same time.
type backups struct {
	Samples []backupSample `json:"samples"`
	// MostIn10Seconds is how many backups were begun in the ten seconds with the most.
	MostIn10Seconds int `json:"mostIn10Seconds"`
	// LongestPendingSeconds is how long a backup waited for its Job at most.
	LongestPendingSeconds float64 `json:"longestPendingSeconds"`
	// Requests are those of one backup, up to its Job.
	Requests requests `json:"requests"`
	// jobs is when each Job was made, by its name: one that does not start, as none does here, is deleted after ten
	// minutes.
	jobs map[string]time.Time
}

type backupSample struct {
	Seconds    float64 `json:"seconds"`
	Backups    int     `json:"backups"`
	Jobs       int     `json:"jobs"`
	RSSMiB     float64 `json:"rssMiB"`
	CPUSeconds float64 `json:"cpuSeconds"`
}

// schedules gives each Vault a schedule, all of the same time of the day, and follows them until each has the Job of
// one backup. No Job runs, as there is no kubelet.
func (b *bench) schedules(ctx context.Context, r *result) error {
	due := time.Now().UTC().Add(time.Minute + time.Duration(len(b.fleet.vaults))*20*time.Millisecond).
		Truncate(time.Minute).Add(time.Minute)
	fmt.Printf("schedules of %s\n", due.Format("15:04"))
	for i, v := range b.fleet.vaults {
		if i%b.o.perPlace == 0 {
			if err := b.fleet.admin.Create(ctx, credentials(v.key.Namespace)); err != nil {
				return err
			}
		}
		if err := b.fleet.admin.Create(ctx, newSchedule(v, due)); err != nil {
			return err
		}
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(time.Until(due)):
	}
	r.Backups = &backups{jobs: map[string]time.Time{}}
	before := b.plane.audit.snapshot()
	ticker := time.NewTicker(b.o.sampleEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("not every backup has a Job: %w", ctx.Err())
		case <-ticker.C:
		}
		done, err := b.sampleBackups(ctx, r.Backups, due)
		if err != nil {
			return err
		}
		if done {
			r.Backups.Requests = b.plane.audit.snapshot().minus(before).withoutLease().per(len(b.fleet.vaults))
			return nil
		}
	}
}

// sampleBackups says whether each Vault has a backup with a Job. More than one each is an error.
func (b *bench) sampleBackups(ctx context.Context, found *backups, due time.Time) (done bool, err error) {
	usage, err := b.operator.usage()
	if err = errors.Join(err, b.operator.ended()); err != nil {
		return false, err
	}
	var made v1alpha1.VaultBackupList
	var jobs batchv1.JobList
	if err := errors.Join(b.fleet.admin.List(ctx, &made), b.fleet.admin.List(ctx, &jobs)); err != nil {
		return false, err
	}
	for i := range jobs.Items {
		job := &jobs.Items[i]
		found.jobs[job.Namespace+"/"+job.Name] = job.CreationTimestamp.Time
	}
	wanted := len(b.fleet.vaults)
	if len(made.Items) > wanted || len(found.jobs) > wanted {
		return false, fmt.Errorf("%d backups and %d Jobs of %d Vaults", len(made.Items), len(found.jobs), wanted)
	}
	s := backupSample{Seconds: time.Since(due).Seconds(), Backups: len(made.Items), Jobs: len(found.jobs),
		RSSMiB: usage.rssMiB, CPUSeconds: usage.cpu.Seconds()}
	fmt.Printf("%8.0f s: %d backups, %d Jobs, %.0f MiB, %.0f s of CPU\n",
		s.Seconds, s.Backups, s.Jobs, s.RSSMiB, s.CPUSeconds)
	found.Samples = append(found.Samples, s)
	var at []time.Time
	for i := range made.Items {
		of := &made.Items[i]
		if of.Completed() && of.Status.Attempts == 0 {
			return false, fmt.Errorf("the backup %s/%s has ended without a Job: %v", of.Namespace, of.Name, of.Status.Conditions)
		}
		at = append(at, of.CreationTimestamp.Time)
		if job, has := found.jobs[of.Namespace+"/"+of.Name+"-backup"]; has {
			pending := job.Sub(of.CreationTimestamp.Time)
			found.LongestPendingSeconds = max(found.LongestPendingSeconds, pending.Seconds())
		}
	}
	found.MostIn10Seconds = mostWithin(at, 10*time.Second)
	return s.Jobs == wanted, nil
}

// mostWithin is how many of the times are within a duration, where they are most.
func mostWithin(times []time.Time, d time.Duration) (most int) {
	slices.SortFunc(times, time.Time.Compare)
	first := 0
	for i, last := range times {
		for last.Sub(times[first]) >= d {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func credentials(namespace string) client.Object {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: credentialsSecret},
		Data:       map[string][]byte{"accessKeyID": []byte("backup"), "secretAccessKey": []byte("backup")},
	}
}

func newSchedule(v *vault, due time.Time) client.Object {
	return &v1alpha1.VaultBackupSchedule{
		ObjectMeta: metav1.ObjectMeta{Namespace: v.key.Namespace, Name: v.key.Name},
		Spec: v1alpha1.VaultBackupScheduleSpec{
			Vault:    v1alpha1.ObjectName(v.key.Name),
			Schedule: fmt.Sprintf("%d %d * * *", due.Minute(), due.Hour()),
			Destination: v1alpha1.BackupDestination{S3: &v1alpha1.S3Destination{
				Endpoint: "https://127.0.0.1:1", Bucket: "backups", CredentialsSecretName: credentialsSecret,
			}},
		},
	}
}

func printBackups(out io.Writer, r result) {
	fmt.Fprintf(out, "\nSchedules of %d Vaults, due at the same time: %d begun in the 10 s with the most, one waited "+
		"for its Job for %.0f s at most; %.1f requests a backup: %s.\n\n", r.Vaults, r.Backups.MostIn10Seconds,
		r.Backups.LongestPendingSeconds, r.Backups.Requests.total(), r.Backups.Requests)
	fmt.Fprint(out, "| seconds | backups | Jobs | RSS | CPU seconds |\n|---|---|---|---|---|\n")
	for _, s := range thinned(r.Backups.Samples, 15) {
		fmt.Fprintf(out, "| %.0f | %d | %d | %.0f MiB | %.0f |\n", s.Seconds, s.Backups, s.Jobs, s.RSSMiB, s.CPUSeconds)
	}
}
