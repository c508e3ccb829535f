package backupschedule

import (
	"fmt"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed.UTC()
}

func TestDue(t *testing.T) {
	for name, tt := range map[string]struct{ schedule, zone, last, now, latest, next string }{
		"not yet": {"0 3 * * *", "", "2026-01-01T03:00:00Z", "2026-01-02T02:59:59Z", "", "2026-01-02T03:00:00Z"},
		"now": {"0 3 * * *", "", "2026-01-01T03:00:00Z", "2026-01-02T03:00:00Z",
			"2026-01-02T03:00:00Z", "2026-01-03T03:00:00Z"},
		"missed five, makes one up": {"0 3 * * *", "", "2026-01-01T03:00:00Z", "2026-01-06T12:00:00Z",
			"2026-01-06T03:00:00Z", "2026-01-07T03:00:00Z"},
		"missed a year of minutes": {"* * * * *", "", "2025-01-01T00:00:00Z", "2026-01-06T12:00:30Z",
			"2026-01-06T12:00:00Z", "2026-01-06T12:01:00Z"},
		"yearly, missed two": {"0 0 1 1 *", "", "2023-06-01T00:00:00Z", "2025-06-01T00:00:00Z",
			"2025-01-01T00:00:00Z", "2026-01-01T00:00:00Z"},
		"the clock was set back": {"0 3 * * *", "", "2026-01-02T03:00:00Z", "2026-01-02T01:00:00Z",
			"", "2026-01-02T03:00:00Z"},
		"a zone": {"0 3 * * *", "Europe/Berlin", "2026-07-01T00:00:00Z", "2026-07-01T01:30:00Z",
			"2026-07-01T01:00:00Z", "2026-07-02T01:00:00Z"},
		"an hour that summer time leaves out": {"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T12:00:00Z",
			"", "2026-03-30T00:30:00Z"},
	} {
		schedule, err := parse(tt.schedule, tt.zone)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		latest, next := Plan{schedule: schedule}.Due(at(t, tt.last), at(t, tt.now))
		want := time.Time{}
		if tt.latest != "" {
			want = at(t, tt.latest)
		}
		if !latest.Equal(want) || !next.Equal(at(t, tt.next)) {
			t.Errorf("%s: latest %s, next %s, want %s, %s", name, latest, next, tt.latest, tt.next)
		}
	}
}

// A last time that a wrong clock has noted does not keep backups from being made until it has come.
func TestLastTimeInTheFuture(t *testing.T) {
	now := at(t, "2026-01-02T10:20:00Z")
	for last, want := range map[string]string{
		"2026-01-02T10:00:00Z": "2026-01-02T10:00:00Z",
		"2026-01-02T15:00:00Z": "2026-01-02T10:20:00Z",
		"2036-01-02T03:00:00Z": "2026-01-02T10:20:00Z",
	} {
		if got := NotAfter(metav1.NewTime(at(t, last)), now); !got.Time.Equal(at(t, want)) {
			t.Errorf("%s becomes %s, want %s", last, got, want)
		}
	}
}

func TestSchedulesThatAreRefused(t *testing.T) {
	for _, wrong := range [][2]string{
		{"every day"}, {"0 0 30 2 *"}, {"* * * *"}, {"@daily", "Mars/Base"}, {"@daily", "Local"},
	} {
		if _, err := parse(wrong[0], wrong[1]); err == nil {
			t.Errorf("%q in %q is accepted", wrong[0], wrong[1])
		}
	}
}

// Many schedules of one time begin at different ones, each always at its own.
func TestJitter(t *testing.T) {
	for schedule, most := range map[string]time.Duration{"0 3 * * *": maxJitter, "*/10 * * * *": time.Minute} {
		due, starts := at(t, "2026-01-02T03:00:00Z"), map[time.Time]bool{}
		for i := range 100 {
			p, err := NewPlan(schedule, "", types.UID(fmt.Sprint("uid-", i)))
			if err != nil {
				t.Fatal(err)
			}
			begins := p.Begins(due)
			if delay := begins.Sub(due); delay < 0 || delay >= most {
				t.Errorf("%s begins %s late", schedule, delay)
			}
			starts[begins] = true
		}
		if len(starts) < 20 {
			t.Errorf("100 schedules %s begin at %d times", schedule, len(starts))
		}
	}
}

// What many schedules have missed does not begin at once when the operator starts.
func TestMissedTimesAreSpread(t *testing.T) {
	due, started := at(t, "2026-01-02T03:00:00Z"), at(t, "2026-01-02T04:00:00Z")
	starts := map[time.Time]bool{}
	for i := range 100 {
		p, err := NewPlan("0 3 * * *", "", types.UID(fmt.Sprint("uid-", i)))
		if err != nil {
			t.Fatal(err)
		}
		late := p.Late(due, started)
		if late.Before(started) || late.Sub(started) >= maxJitter {
			t.Errorf("it begins %s after the start", late.Sub(started))
		}
		starts[late] = true
		if late := p.Late(due, due.Add(-time.Minute)); !late.IsZero() {
			t.Errorf("what is not late begins at %s", late)
		}
	}
	if len(starts) < 20 {
		t.Errorf("100 schedules begin at %d times", len(starts))
	}
}

func TestExpired(t *testing.T) {
	now := at(t, "2026-01-10T00:00:00Z")
	made := func(name string, days int, phase v1alpha1.BackupPhase, stored, intact bool) *v1alpha1.VaultBackup {
		created := metav1.NewTime(now.AddDate(0, 0, -days))
		b := &v1alpha1.VaultBackup{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: created}}
		b.Status.Phase = phase
		if phase != v1alpha1.BackupRunning {
			b.Status.CompletionTime = &created
		}
		if stored {
			b.Status.Proven = &v1alpha1.BackupProof{Stored: &created}
		}
		if intact {
			b.Status.Proven.Intact = &created
		}
		return b
	}
	of := func(vault types.UID, b *v1alpha1.VaultBackup) *v1alpha1.VaultBackup {
		b.Status.Vault = &v1alpha1.BackedUpVault{UID: vault}
		return b
	}
	kept := made("b", 2, v1alpha1.BackupSucceeded, true, true)
	kept.Spec.DeletionPolicy = v1alpha1.RetainData
	restored := made("b", 2, v1alpha1.BackupSucceeded, true, true)
	restored.Status.Proven.Restored = restored.Status.Proven.Intact
	canary := made("d", 4, v1alpha1.BackupSucceeded, true, true)
	proof := canary.Status.Proven
	proof.Restored, proof.Unsealed, proof.Canary = proof.Intact, proof.Intact, proof.Intact
	const good, bad, running = v1alpha1.BackupSucceeded, v1alpha1.BackupFailed, v1alpha1.BackupRunning
	for name, tt := range map[string]struct {
		backups []*v1alpha1.VaultBackup
		count   int32
		age     time.Duration
		want    []string
	}{
		"count": {[]*v1alpha1.VaultBackup{made("a", 1, good, true, true), made("b", 2, good, true, true),
			made("c", 3, good, true, true)}, 2, 0, []string{"c"}},
		"age": {[]*v1alpha1.VaultBackup{made("a", 1, good, true, true), made("b", 9, good, true, true)},
			0, 48 * time.Hour, []string{"b"}},
		"the last one stays whatever its age": {[]*v1alpha1.VaultBackup{made("a", 9, good, true, true)}, 0, time.Hour, nil},
		"age is counted to the newest that succeeded": {[]*v1alpha1.VaultBackup{made("a", 1, bad, false, false),
			made("b", 5, good, true, true), made("c", 6, good, true, true), made("d", 9, good, true, true)},
			0, 48 * time.Hour, []string{"d"}},
		"a Vault of the same name pushes none out": {[]*v1alpha1.VaultBackup{of("new", made("a", 1, good, true, true)),
			of("new", made("b", 2, good, true, true)), of("old", made("c", 3, good, true, true)),
			of("old", made("d", 4, good, true, true))}, 1, time.Hour, []string{"b", "d"}},
		"what is to be retained stays": {[]*v1alpha1.VaultBackup{made("a", 1, good, true, true), kept,
			made("c", 3, good, true, true)}, 1, 0, []string{"c"}},
		"the last one that is intact stays": {[]*v1alpha1.VaultBackup{made("a", 1, good, true, false),
			made("b", 2, good, true, true), made("c", 3, good, true, true)}, 1, 0, []string{"c"}},
		"failures do not push backups out": {[]*v1alpha1.VaultBackup{made("a", 1, bad, false, false),
			made("b", 2, bad, false, false), made("c", 3, good, true, true)}, 1, 0, nil},
		"old failures go": {[]*v1alpha1.VaultBackup{made("a", 1, bad, false, false), made("b", 2, bad, false, false),
			made("c", 3, bad, false, false), made("d", 4, bad, false, false)}, 5, 0, []string{"d"}},
		"one that is made stays": {[]*v1alpha1.VaultBackup{made("a", 9, running, false, false),
			made("b", 10, good, true, true)}, 0, time.Hour, nil},
		"the last one that was restored stays": {[]*v1alpha1.VaultBackup{made("a", 1, good, true, true), restored,
			made("c", 3, good, true, true)}, 1, 0, []string{"c"}},
		"the last one of each level stays, whatever its age": {[]*v1alpha1.VaultBackup{made("a", 1, good, true, false),
			made("a2", 1, good, true, false), restored, made("c", 3, good, true, true), canary,
			made("e", 5, good, true, true)}, 0, time.Minute, []string{"c", "e"}},
		"nothing is set": {[]*v1alpha1.VaultBackup{made("a", 9, good, true, true), made("b", 9, good, true, true)},
			0, 0, nil},
	} {
		var retention *v1alpha1.BackupRetention
		if tt.count > 0 || tt.age > 0 {
			retention = &v1alpha1.BackupRetention{}
		}
		if tt.count > 0 {
			retention.Count = &tt.count
		}
		if tt.age > 0 {
			retention.Age = &metav1.Duration{Duration: tt.age}
		}
		var got []string
		for _, b := range expired(tt.backups, retention) {
			got = append(got, b.Name)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v expire, want %v", name, got, tt.want)
		}
	}
}
