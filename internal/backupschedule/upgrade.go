package backupschedule

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/postrender"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/manifests"
	"github.com/vault-operator/vault-operator/internal/workload"
)

// eventBeforeUpgrade is the reason of the event of a backup that an upgrade waits for.
const eventBeforeUpgrade = "BackupBeforeUpgrade"

// UpgradeLabel is on backups that were made before an upgrade; its value is "true".
const UpgradeLabel = "vault.security.coreos.com/before-upgrade"

// UpgradeGate returns a post-renderer that changes nothing. It refuses manifests with another image
// of Vault or of its etcd until a backup was made for that, where a schedule says so.
func UpgradeGate(c client.Client, recorder record.EventRecorder, vault client.ObjectKey) postrender.PostRenderer {
	return manifests.Gate(c, vault, func(ctx context.Context, vault *v1alpha1.Vault, rendered manifests.Manifests) error {
		if !vault.Status.Initialized {
			return nil
		}
		changes, err := changesOf(ctx, c, vault, rendered)
		if err != nil || len(changes) == 0 {
			return err
		}
		schedule, err := scheduleOf(ctx, c, vault)
		if err != nil || schedule == nil {
			return err
		}
		wanted := newBackup(schedule, nameFor(schedule, vault, changes))
		wanted.Labels[UpgradeLabel] = "true"
		var b v1alpha1.VaultBackup
		err = c.Get(ctx, client.ObjectKeyFromObject(wanted), &b)
		if apierrors.IsNotFound(err) {
			err = c.Create(ctx, wanted)
			if err == nil {
				recorder.Eventf(vault, corev1.EventTypeNormal, eventBeforeUpgrade,
					"The backup %s is made before the upgrade begins", wanted.Name)
			}
			if err == nil || apierrors.IsAlreadyExists(err) {
				return refusal(schedule, wanted)
			}
		}
		if err != nil {
			return fmt.Errorf("the backup before the upgrade: %w", err)
		}
		return refusal(schedule, &b)
	})
}

// refusal is why the upgrade does not begin, or nil.
func refusal(s *v1alpha1.VaultBackupSchedule, b *v1alpha1.VaultBackup) error {
	c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.BackupSucceededCondition)
	switch {
	case b.DeletionTimestamp != nil:
		return fmt.Errorf("the upgrade waits until the backup %s is gone, which was made for it and deleted; then "+
			"another one is made", b.Name)
	case b.Succeeded():
		return nil
	case !b.Completed():
		return fmt.Errorf("the upgrade waits for the backup %s, as VaultBackupSchedule %s says", b.Name, s.Name)
	}
	why := ""
	if c != nil {
		why = fmt.Sprintf(" (%s: %s)", c.Reason, c.Message)
	}
	return fmt.Errorf("the upgrade does not begin, because the backup before it failed. To try again: kubectl delete "+
		"vaultbackup %[1]s -n %[2]s; to go on without set spec.beforeUpgrade to false in VaultBackupSchedule %[3]s%[4]s",
		b.Name, b.Namespace, s.Name, why)
}

// changesOf are the images that another release has, each with the generation that the one
// before was rendered of, so that the same change at another time is another one.
func changesOf(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault, rendered manifests.Manifests,
) ([]string, error) {
	var changes []string
	add := func(living, wanted *workload.Workload) {
		have, want := images(&living.Template.Spec), images(&wanted.Template.Spec)
		if have != want {
			changes = append(changes, living.Generation()+" "+have+" "+want)
		}
	}
	wanted, err := workload.Rendered(rendered, vault)
	if err != nil {
		return nil, err
	}
	living, err := workload.Get(ctx, reader, vault)
	if err != nil {
		return nil, err
	}
	// The way back to the version that the data is of changes no data. Another image of the same version may.
	if wanted != nil && living != nil &&
		(vault.Spec.Version != vault.Status.DataVersion || vault.Spec.Version == living.Version()) {
		add(living, wanted)
	}
	wantedSet, livingSet := &appsv1.StatefulSet{}, &appsv1.StatefulSet{}
	found, err := rendered.Find("StatefulSet", vault.EtcdName(), wantedSet)
	if err != nil || !found {
		return changes, err
	}
	err = reader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: vault.EtcdName()}, livingSet)
	if err == nil {
		add(workload.Of(livingSet), workload.Of(wantedSet))
	}
	return changes, client.IgnoreNotFound(err)
}

// images are those of Vault's or etcd's container.
func images(pod *corev1.PodSpec) string {
	var all []string
	for _, container := range pod.Containers {
		if container.Name == v1alpha1.VaultContainer || container.Name == v1alpha1.EtcdComponent {
			all = append(all, container.Image)
		}
	}
	return strings.Join(all, " ")
}

// scheduleOf is the schedule that has a backup made before upgrades, the first by its name, or nil.
func scheduleOf(
	ctx context.Context, reader client.Reader, vault *v1alpha1.Vault,
) (*v1alpha1.VaultBackupSchedule, error) {
	var list v1alpha1.VaultBackupScheduleList
	if err := reader.List(ctx, &list, client.InNamespace(vault.Namespace)); err != nil {
		return nil, fmt.Errorf("listing the schedules of backups: %w", err)
	}
	slices.SortFunc(list.Items, func(a, b v1alpha1.VaultBackupSchedule) int { return strings.Compare(a.Name, b.Name) })
	for i := range list.Items {
		if s := &list.Items[i]; string(s.Spec.Vault) == vault.Name && s.BacksUpBeforeUpgrade() {
			return s, nil
		}
	}
	return nil, nil
}

// nameFor is the name of the backup before a change.
func nameFor(s *v1alpha1.VaultBackupSchedule, vault *v1alpha1.Vault, changes []string) string {
	sum := sha256.Sum256([]byte(string(vault.UID) + "\n" + strings.Join(changes, "\n")))
	return s.Name + "-" + hex.EncodeToString(sum[:5])
}

// ToVault maps a schedule, or a backup that was made before an upgrade, to its Vault.
func ToVault(_ context.Context, object client.Object) []reconcile.Request {
	var vault v1alpha1.ObjectName
	switch o := object.(type) {
	case *v1alpha1.VaultBackup:
		if o.Labels[UpgradeLabel] == "" || o.DeletionTimestamp == nil && !o.Completed() {
			return nil
		}
		vault = o.Spec.Vault
	case *v1alpha1.VaultBackupSchedule:
		vault = o.Spec.Vault
	}
	key := types.NamespacedName{Namespace: object.GetNamespace(), Name: string(vault)}
	return []reconcile.Request{{NamespacedName: key}}
}
