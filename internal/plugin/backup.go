package plugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

var (
	backupResource   = v1alpha1.GroupVersion.WithResource("vaultbackups")
	scheduleResource = v1alpha1.GroupVersion.WithResource("vaultbackupschedules")
)

func (p *plugin) backupCommand() *cobra.Command {
	var schedule, claim, path string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "backup NAME",
		Short: "Back a Vault up now",
		Long: `Make a VaultBackup of a Vault and wait for it. It is stored where the VaultBackupSchedule of the
Vault says, or on a volume. Nothing deletes it but you.`,
		Example: `  kubectl vault backup example
  kubectl vault backup example --claim backups`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return p.backup(ctx, args[0], schedule, claim, path)
		},
	}
	cmd.Flags().StringVar(&schedule, "schedule", "", "name of the VaultBackupSchedule whose destination is used, "+
		"where the Vault has several")
	cmd.Flags().StringVar(&claim, "claim", "", "name of a PersistentVolumeClaim to store it on")
	cmd.Flags().StringVar(&path, "path", "", "directory in that volume")
	cmd.Flags().DurationVar(&timeout, "timeout", time.Hour, "for how long to wait")
	cmd.MarkFlagsMutuallyExclusive("schedule", "claim")
	return cmd
}

func (p *plugin) backup(ctx context.Context, name, schedule, claim, path string) error {
	cluster, err := p.connect()
	if err != nil {
		return err
	}
	if path != "" && claim == "" {
		return errors.New("--path is a directory in the volume of --claim, which is not given")
	}
	if _, err := cluster.vault(ctx, name); err != nil {
		return err
	}
	spec := v1alpha1.VaultBackupSpec{Vault: v1alpha1.ObjectName(name)}
	if claim != "" {
		spec.Destination.PersistentVolumeClaim = &v1alpha1.ClaimDestination{
			ClaimName: v1alpha1.ObjectName(claim), Path: path,
		}
	} else if err := cluster.destination(ctx, name, schedule, &spec); err != nil {
		return err
	}
	b := &v1alpha1.VaultBackup{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "VaultBackup"},
		ObjectMeta: metav1.ObjectMeta{GenerateName: name + "-", Namespace: cluster.namespace},
		Spec:       spec,
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(b)
	if err != nil {
		return err
	}
	backups := cluster.objects.Resource(backupResource).Namespace(cluster.namespace)
	object, err := backups.Create(ctx, &unstructured.Unstructured{Object: content}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	fmt.Fprintf(p.errOut, "VaultBackup %s is made\n", line(object.GetName()))
	for {
		if object, err = backups.Get(ctx, object.GetName(), metav1.GetOptions{}); err != nil {
			return err
		}
		b := &v1alpha1.VaultBackup{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, b); err != nil {
			return err
		}
		if b.Completed() {
			return p.printBackup(b)
		}
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
}

func (p *plugin) printBackup(b *v1alpha1.VaultBackup) error {
	if b.Succeeded() {
		_, err := fmt.Fprintf(p.out, "%s: %s, %s, proven: %s\n", line(b.Name), line(b.Status.Location), sizeOf(b), levels(b))
		return err
	}
	why := "it does not say why"
	if c := meta.FindStatusCondition(b.Status.Conditions, v1alpha1.BackupSucceededCondition); c != nil {
		why = c.Reason + ": " + c.Message
	}
	return exit(exitError, "the backup %s failed (%s)", line(b.Name), line(why))
}

// destination takes over where a schedule of the Vault stores its backups.
func (c *cluster) destination(ctx context.Context, vault, name string, spec *v1alpha1.VaultBackupSpec) error {
	var found []string
	err := eachOf(ctx, c, scheduleResource, func(s *v1alpha1.VaultBackupSchedule) error {
		if string(s.Spec.Vault) == vault && (name == "" || s.Name == name) {
			found = append(found, s.Name)
			spec.Destination, spec.TokenSecretName = s.Spec.Destination, s.Spec.TokenSecretName
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch len(found) {
	case 1:
		return nil
	case 0:
		return exit(exitRefused, "Vault %s has no such VaultBackupSchedule that says where to store it: make one, or use "+
			"--claim", vault)
	}
	return exit(exitRefused, "Vault %s has several VaultBackupSchedules: choose one by --schedule: %s", vault,
		line(strings.Join(found, ", ")))
}

func (p *plugin) backupsCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "backups NAME",
		Short:             "List the backups of a Vault",
		Example:           "  kubectl vault backups example",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.backups(cmd.Context(), args[0]) },
	}
}

func (p *plugin) backups(ctx context.Context, name string) error {
	cluster, err := p.connect()
	if err != nil {
		return err
	}
	var backups []v1alpha1.VaultBackup
	err = eachOf(ctx, cluster, backupResource, func(b *v1alpha1.VaultBackup) error {
		if string(b.Spec.Vault) == name {
			backups = append(backups, *b)
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(backups, func(a, b v1alpha1.VaultBackup) int {
		return b.CreationTimestamp.Compare(a.CreationTimestamp.Time)
	})
	w := printers.GetNewTabWriter(p.out)
	fmt.Fprintln(w, "NAME\tTIME\tPHASE\tSIZE\tPROVEN\tLOCATION")
	for i := range backups {
		b := &backups[i]
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", line(b.Name), b.CreationTimestamp.UTC().Format(time.RFC3339),
			orNone(string(b.Status.Phase)), sizeOf(b), levels(b), orNone(b.Status.Location))
	}
	return w.Flush()
}

func sizeOf(b *v1alpha1.VaultBackup) string {
	if b.Status.Size == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MiB", float64(b.Status.Size)/(1<<20))
}

// levels are how far a backup is proven.
func levels(b *v1alpha1.VaultBackup) string {
	var proven []string
	if p := b.Status.Proven; p != nil {
		for _, level := range p.Levels() {
			if level.Time != nil {
				proven = append(proven, level.Name)
			}
		}
	}
	if len(proven) == 0 {
		return "-"
	}
	return strings.Join(proven, ", ")
}
