package backupschedule

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"time"
	_ "time/tzdata" // the image may have no zones

	"github.com/robfig/cron/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// parse reads when backups are due, or proofs.
func parse(text, zone string) (cron.Schedule, error) {
	if zone == "" {
		zone = "UTC"
	}
	if zone == "Local" {
		return nil, fmt.Errorf("timeZone %q is that of the operator: name one", zone)
	}
	if _, err := time.LoadLocation(zone); err != nil {
		return nil, fmt.Errorf("timeZone %q is not known: %w", zone, err)
	}
	schedule, err := cron.ParseStandard("CRON_TZ=" + zone + " " + text)
	if err != nil {
		return nil, fmt.Errorf("schedule %q: %w", text, err)
	}
	if schedule.Next(time.Unix(0, 0)).IsZero() {
		return nil, fmt.Errorf("schedule %q is never due", text)
	}
	return schedule, nil
}

// Plan is when backups of a schedule are made, or proofs.
type Plan struct {
	schedule cron.Schedule
	// share is which part of the greatest delay is this schedule's, from 0 to 1.
	share float64
}

// NewPlan returns the plan of what is done at the times of a text in the format of cron, for the
// VaultBackupSchedule with an UID.
func NewPlan(text, zone string, uid types.UID) (Plan, error) {
	schedule, err := parse(text, zone)
	if err != nil {
		return Plan{}, err
	}
	hash := sha256.Sum256([]byte(uid))
	return Plan{schedule, float64(binary.BigEndian.Uint32(hash[:])) / (1 << 32)}, nil
}

// Begins is when what is due at a time begins.
func (p Plan) Begins(due time.Time) time.Time { return due.Add(p.delay(due)) }

func (p Plan) delay(due time.Time) time.Duration {
	gap := p.schedule.Next(due).Sub(due)
	return time.Duration(p.share * float64(min(maxJitter, gap/jitterPart))).Truncate(time.Second)
}

// Late is when that begins which had to begin before the operator started, or zero if nothing had: as long after the
// start as it would have begun after its time, so that what was missed of many schedules does not begin at once.
func (p Plan) Late(due, started time.Time) time.Time {
	if due.IsZero() || !p.Begins(due).Before(started) {
		return time.Time{}
	}
	return started.Add(p.delay(due))
}

// Start is when a controller began to look, which is when its replica became the leader.
type Start struct {
	once sync.Once
	at   time.Time
}

// At is the time of the first call.
func (s *Start) At(now time.Time) time.Time {
	s.once.Do(func() { s.at = now })
	return s.at
}

// Due returns the latest time after the last one of which what is due has to have begun by now, or
// zero, and the next one that has not.
func (p Plan) Due(last, now time.Time) (latest, next time.Time) {
	if last.After(now) {
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
		if first := p.schedule.Next(start); !p.Begins(first).After(now) {
			from = start
			break
		}
	}
	for at := p.schedule.Next(from); !at.IsZero(); at = p.schedule.Next(at) {
		if p.Begins(at).After(now) {
			return latest, at
		}
		latest = at
	}
	return latest, time.Time{}
}

// NotAfter is the last time of which something was done, or now if a clock that was wrong has noted a later one.
// That is to be written down, since otherwise nothing were due until that time has come. What is done twice
// because of that has the same name.
func NotAfter(last metav1.Time, now time.Time) metav1.Time {
	if last.After(now) {
		return metav1.NewTime(now).Rfc3339Copy()
	}
	return last
}

// nameAt is the name of the backup that is due at a time. It is the same whoever makes it.
func nameAt(schedule string, due time.Time) string {
	return fmt.Sprintf("%s-%d", schedule, due.Unix()/60)
}

// level is how far a backup is proven: how many levels were shown, up to the first one that was not.
func level(b *v1alpha1.VaultBackup) int {
	if !b.Succeeded() || b.Status.Proven == nil {
		return 0
	}
	levels := b.Status.Proven.Levels()
	for i := range levels {
		if levels[i].Time == nil {
			return i
		}
	}
	return len(levels)
}

func newestFirst(a, b *v1alpha1.VaultBackup) int {
	return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
}

// lastOfEachLevel are the newest backup that is proven at all, and for each further level the newest that is proven so
// far. The newest of those that are given is the first.
func lastOfEachLevel(backups []*v1alpha1.VaultBackup) (last []*v1alpha1.VaultBackup) {
	highest := 0
	for _, b := range backups {
		if b.DeletionTimestamp == nil && level(b) > highest {
			highest = level(b)
			last = append(last, b)
		}
	}
	return last
}

// expired are the backups of a schedule that retention deletes. The last one that is proven at each level stays in
// any case. A Vault that was deleted and made again has backups of its own, which push out none of those of the one
// before.
func expired(backups []*v1alpha1.VaultBackup, retention *v1alpha1.BackupRetention) (gone []*v1alpha1.VaultBackup) {
	if retention == nil {
		return nil
	}
	ofVault := map[types.UID][]*v1alpha1.VaultBackup{}
	for _, b := range backups {
		var vault types.UID
		if b.Status.Vault != nil {
			vault = b.Status.Vault.UID
		}
		ofVault[vault] = append(ofVault[vault], b)
	}
	for _, of := range ofVault {
		gone = append(gone, expiredOfVault(of, retention)...)
	}
	slices.SortStableFunc(gone, newestFirst)
	return gone
}

// expiredOfVault are those of one Vault, whose backups it sorts.
func expiredOfVault(
	backups []*v1alpha1.VaultBackup, retention *v1alpha1.BackupRetention,
) (gone []*v1alpha1.VaultBackup) {
	slices.SortStableFunc(backups, newestFirst)
	last := lastOfEachLevel(backups)
	newest := slices.IndexFunc(backups, (*v1alpha1.VaultBackup).Succeeded)
	good, bad := 0, 0
	for _, b := range backups {
		if !b.Completed() || b.DeletionTimestamp != nil {
			continue
		}
		// Both times are the API server's, and a leader whose clock is wrong deletes nothing for that.
		beyond := retention.Age != nil && newest >= 0 &&
			backups[newest].CreationTimestamp.Sub(b.CreationTimestamp.Time) > retention.Age.Duration
		if b.Succeeded() {
			good++
			beyond = beyond || retention.Count != nil && good > int(*retention.Count)
		} else {
			bad++
			beyond = beyond || bad > keptFailures
		}
		// Who has set deletionPolicy to Retain wants to keep it.
		if beyond && !slices.Contains(last, b) && b.Spec.DeletionPolicy != v1alpha1.RetainData {
			gone = append(gone, b)
		}
	}
	return gone
}
