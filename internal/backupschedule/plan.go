package backupschedule

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/robfig/cron/v3"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const (
	// maxJitter is by how much a backup begins later than its time at most, and jitterPart of the
	// time to the next one.
	maxJitter  = 10 * time.Minute
	jitterPart = 10
	// keptFailures is how many backups that failed retention keeps.
	keptFailures = 3
)

// parse reads when backups are due.
func parse(spec *v1alpha1.VaultBackupScheduleSpec) (cron.Schedule, error) {
	zone := spec.TimeZone
	if zone == "" {
		zone = "UTC"
	}
	if zone == "Local" {
		return nil, fmt.Errorf("timeZone %q is that of the operator: name one", zone)
	}
	if _, err := time.LoadLocation(zone); err != nil {
		return nil, fmt.Errorf("timeZone %q is not known: %w", zone, err)
	}
	schedule, err := cron.ParseStandard("CRON_TZ=" + zone + " " + spec.Schedule)
	if err != nil {
		return nil, fmt.Errorf("schedule %q: %w", spec.Schedule, err)
	}
	if schedule.Next(time.Unix(0, 0)).IsZero() {
		return nil, fmt.Errorf("schedule %q is never due", spec.Schedule)
	}
	return schedule, nil
}

// plan is when backups of a schedule are made.
type plan struct {
	schedule cron.Schedule
	// share is which part of the greatest delay is this schedule's, from 0 to 1.
	share float64
}

func newPlan(schedule cron.Schedule, uid types.UID) plan {
	hash := sha256.Sum256([]byte(uid))
	return plan{schedule, float64(binary.BigEndian.Uint32(hash[:])) / (1 << 32)}
}

// begins is when the backup that is due at a time begins.
func (p plan) begins(due time.Time) time.Time {
	gap := p.schedule.Next(due).Sub(due)
	return due.Add(time.Duration(p.share * float64(min(maxJitter, gap/jitterPart))).Truncate(time.Second))
}

// due returns the latest time after the last one of which the backup has to have begun by now, or
// zero, and the next one that has not. A last one that is far in the future was noted by a clock that was
// wrong, and does not count.
func (p plan) due(last, now time.Time) (latest, next time.Time) {
	if last.After(p.schedule.Next(p.schedule.Next(now))) {
		last = now
	}
	from := last
	// The latest one is looked for in the shortest of these times, so that not all that were
	// missed are counted.
	for _, window := range []time.Duration{time.Hour, 25 * time.Hour, 32 * 24 * time.Hour, 367 * 24 * time.Hour} {
		start := now.Add(-window)
		if start.Before(last) {
			break
		}
		if first := p.schedule.Next(start); !p.begins(first).After(now) {
			from = start
			break
		}
	}
	for at := p.schedule.Next(from); !at.IsZero(); at = p.schedule.Next(at) {
		if p.begins(at).After(now) {
			return latest, at
		}
		latest = at
	}
	return latest, time.Time{}
}

// nameAt is the name of the backup that is due at a time. It is the same whoever makes it.
func nameAt(schedule string, due time.Time) string {
	return fmt.Sprintf("%s-%d", schedule, due.Unix()/60)
}

// level is how far a backup is proven.
func level(b *v1alpha1.VaultBackup) int {
	switch proof := b.Status.Proven; {
	case !b.Succeeded() || proof == nil || proof.Stored == nil:
		return 0
	case proof.Intact == nil:
		return 1
	}
	return 2
}

func newestFirst(a, b *v1alpha1.VaultBackup) int {
	return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
}

// provenBest is the newest of those that are proven best, or nil. The newest is the first.
func provenBest(backups []*v1alpha1.VaultBackup) (best *v1alpha1.VaultBackup) {
	for _, b := range backups {
		if b.DeletionTimestamp == nil && level(b) > 0 && (best == nil || level(b) > level(best)) {
			best = b
		}
	}
	return best
}

// expired are the backups of a schedule that retention deletes. The newest of those that are proven
// best stays in any case.
func expired(
	backups []*v1alpha1.VaultBackup, retention *v1alpha1.BackupRetention, now time.Time,
) (gone []*v1alpha1.VaultBackup) {
	if retention == nil {
		return nil
	}
	backups = slices.Clone(backups)
	slices.SortStableFunc(backups, newestFirst)
	best := provenBest(backups)
	good, bad := 0, 0
	for _, b := range backups {
		if !b.Completed() || b.DeletionTimestamp != nil {
			continue
		}
		beyond := retention.Age != nil && now.Sub(b.CreationTimestamp.Time) > retention.Age.Duration
		if b.Succeeded() {
			good++
			beyond = beyond || retention.Count != nil && good > int(*retention.Count)
		} else {
			bad++
			beyond = beyond || bad > keptFailures
		}
		// Who has set deletionPolicy to Retain wants to keep it.
		if beyond && b != best && b.Spec.DeletionPolicy != v1alpha1.RetainData {
			gone = append(gone, b)
		}
	}
	return gone
}
