package chart

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// Each pod claims a volume, and the claim is not taken for one of etcd.
func TestAuditVolume(t *testing.T) {
	plain := release{values: `operated: true`}.render(t).vault.Spec.Template.Spec
	for values, want := range map[string]corev1.PersistentVolumeClaimSpec{
		`{operated: true, audit: {}}`:                                          claimOf("10Gi", nil),
		`{operated: true, audit: {volumeSize: "1e9", storageClassName: fast}}`: claimOf("1e9", new("fast")),
	} {
		pod := release{values: values}.render(t).vault.Spec.Template.Spec
		volumes := slices.DeleteFunc(slices.Clone(pod.Volumes), func(v corev1.Volume) bool { return v.Name != "audit" })
		mounts := slices.DeleteFunc(slices.Clone(pod.Containers[0].VolumeMounts), func(m corev1.VolumeMount) bool {
			return m.Name != "audit"
		})
		if len(volumes) != 1 || len(pod.Volumes) != len(plain.Volumes)+1 || !reflect.DeepEqual(mounts,
			[]corev1.VolumeMount{{Name: "audit", MountPath: "/vault/audit"}}) {
			t.Errorf("%s: volumes %+v, mounts %+v", values, pod.Volumes, mounts)
			continue
		}
		claim := volumes[0].Ephemeral.VolumeClaimTemplate
		if !reflect.DeepEqual(claim.Spec, want) {
			t.Errorf("%s: the claim is %+v, want %+v", values, claim.Spec, want)
		}
		vault := v1alpha1.Vault{}
		vault.Name = "example"
		if !reflect.DeepEqual(claim.Labels, vault.PodLabels()) {
			t.Errorf("%s: the claim has the labels %v", values, claim.Labels)
		}
	}
}

func claimOf(size string, class *string) corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{
		AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		StorageClassName: class,
		Resources: corev1.VolumeResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
		},
	}
}

// auditingVault writes numbered lines to an audit file, and opens it anew on SIGHUP, as
// Vault does.
const auditingVault = `umask 077; log() { exec 3>> %[1]s/audit.log; }; trap log HUP; trap 'exit 3' TERM; log; i=0; ` +
	`while true; do for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do i=$((i+1)); ` +
	`printf '%%0100d\n' $i >&3; done; sleep 0.02; done`

// rotated is the name of a file that was renamed.
var rotated = regexp.MustCompile(`^audit\.log\.[0-9]{8}T[0-9]{6}Z$`)

// TestAuditFilesAreRotated runs the pod's command, which looks at the files more often than
// in a pod, with something that writes as Vault does.
func TestAuditFilesAreRotated(t *testing.T) {
	const size = 1 << 20
	for _, shell := range shells() {
		t.Run(strings.Join(shell, " "), func(t *testing.T) {
			dir := t.TempDir()
			oldest, older := filepath.Join(dir, "audit.log.20260101T000000Z"), filepath.Join(dir, "audit.log.20260102T000000Z")
			for i, path := range []string{oldest, older, filepath.Join(dir, "small.log")} {
				if err := os.WriteFile(path, make([]byte, 300<<10-i*149<<10), 0o600); err != nil {
					t.Fatal(err)
				}
				at := time.Now().Add(time.Duration(i-3) * time.Hour)
				if err := os.Chtimes(path, at, at); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
				t.Fatal(err)
			}
			vault := commandOf(t, shell, `{operated: true, audit: {volumeSize: 1Mi}}`,
				strings.NewReplacer("/vault/tls", t.TempDir(), "/vault/audit", dir, "sleep 5", "sleep 1.1"),
				fmt.Sprintf(auditingVault, dir))
			largest := int64(0)
			poll.Eventually(t, "the oldest file is gone", time.Minute, 50*time.Millisecond, func() error {
				largest = max(largest, used(t, dir))
				_, err := os.Stat(oldest)
				if err == nil {
					return fmt.Errorf("%d bytes are used", used(t, dir))
				}
				return nil
			})
			if _, err := os.Stat(older); err != nil || largest >= size || largest < size/2 {
				t.Errorf("up to %d of %d bytes were used; the second oldest file: %v", largest, size, err)
			}
			if err := vault.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			_ = vault.Wait()
			if code := vault.ProcessState.ExitCode(); code != 3 {
				t.Errorf("the container ends with %d, want 3", code)
			}
			for _, kept := range []string{"small.log", "lost+found", "audit.log"} {
				if _, err := os.Stat(filepath.Join(dir, kept)); err != nil {
					t.Error(err)
				}
			}
			requireEveryLine(t, dir, older)
		})
	}
}

// Where others fill the disk that the volume is on, what was renamed is given up for what is
// written.
func TestAuditFilesMakeRoom(t *testing.T) {
	dir, bin := t.TempDir(), t.TempDir()
	const full = "#!/bin/sh\nprintf 'Filesystem 1024-blocks Used Available Capacity Mounted\\n" +
		"/dev/sda 1000 900 100 90%% /\\n'\n"
	if err := os.WriteFile(filepath.Join(bin, "df"), []byte(full), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	for _, name := range []string{"a.log.20260101T000000Z", "b.log.20260102T000000Z", "a.log"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	vault := commandOf(t, []string{"/bin/sh"}, `{operated: true, audit: {volumeSize: 1Mi}}`,
		strings.NewReplacer("/vault/tls", t.TempDir(), "/vault/audit", dir, "sleep 5", "sleep 0.2"),
		"trap 'exit 3' TERM; while true; do sleep 0.1; done")
	poll.Eventually(t, "only what is written is left", 20*time.Second, 50*time.Millisecond, func() error {
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != 1 || entries[0].Name() != "a.log" {
			return fmt.Errorf("there are %v: %w", entries, err)
		}
		return nil
	})
	if err := vault.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = vault.Wait()
}

// used is how many bytes the files of a directory have.
func used(t *testing.T, dir string) int64 {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var sum int64
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && !info.IsDir() { // it may be gone
			sum += info.Size()
		}
	}
	return sum
}

// requireEveryLine checks that the files hold the lines from the first to the last one, and
// only their owner may read them.
func requireEveryLine(t *testing.T, dir, before string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "audit.log*"))
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	renamed := 0
	for _, file := range files {
		if file <= before && file != filepath.Join(dir, "audit.log") {
			continue // made before
		}
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s has the mode %s", file, info.Mode())
		}
		if rotated.MatchString(filepath.Base(file)) {
			renamed++
		}
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(content)) {
			number, err := strconv.Atoi(strings.TrimSpace(line))
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, number)
		}
	}
	slices.Sort(lines)
	if renamed < 2 || len(lines) == 0 || lines[0] != 1 || lines[len(lines)-1] != len(lines) {
		t.Errorf("%d files were renamed; of %d lines the last is %v", renamed, len(lines), lines[max(0, len(lines)-1):])
	}
}
