package plugin

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/restore"
)

var restoreResource = v1alpha1.GroupVersion.WithResource("vaultrestores")

type restoreOptions struct {
	into    string
	yes     bool
	dryRun  bool
	timeout time.Duration
}

func (p *plugin) restoreCommand() *cobra.Command {
	var o restoreOptions
	cmd := &cobra.Command{
		Use:   "restore NAME --into VAULT",
		Short: "Restore a backup into a new Vault",
		Long: `Make a VaultRestore of the VaultBackup NAME, and wait for it. The Vault to restore into has to be new: not
initialized, without spec.initialization, with the storage and the seal of the Vault that was backed up,
and of no lower version.

It says which keys will be needed before it does anything, and asks. Nothing that exists is replaced. The
restored Vault has the keys, the tokens and the users of the one that was backed up. To restore what is
stored when its VaultBackup is gone make a VaultRestore with spec.from.`,
		Example: `  # What will be needed, before anything is deleted
  kubectl vault restore example-x7f2k --into example --dry-run

  # Into a Vault that was deleted with its volumes, and created again
  kubectl vault restore example-x7f2k --into example

  # Then
  kubectl vault unseal example`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
			defer cancel()
			return p.restore(ctx, args[0], o)
		},
	}
	cmd.Flags().StringVar(&o.into, "into", "", "name of the Vault to restore into")
	_ = cmd.MarkFlagRequired("into")                         // the flag is there
	_ = cmd.RegisterFlagCompletionFunc("into", p.vaultNames) // the flag is there
	addYes(cmd, &o.yes)
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false,
		"Say which keys, version and seal are needed, and do nothing. The Vault may have data")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 6*time.Hour, "for how long to wait; the restore goes on afterwards")
	return cmd
}

func (p *plugin) restore(ctx context.Context, backup string, o restoreOptions) error {
	cluster, err := p.connect()
	if err != nil {
		return err
	}
	b, vault, err := cluster.restoring(ctx, backup, o.into)
	if err != nil {
		return err
	}
	if o.dryRun {
		return p.dryRunOfRestore(b, vault)
	}
	if _, message := restore.Refusal(b.Status.Vault, vault); message != "" {
		return exit(exitRefused, "nothing was changed: %s", line(message))
	}
	old := cluster.origin(ctx, b)
	if message := restore.Follows(old, vault); message != "" {
		return exit(exitRefused, "nothing was changed: %s", line(message))
	}
	fmt.Fprint(p.errOut, restorePlan(b, vault))
	if old != nil && old.UID != vault.UID && restore.Unsealed(old) {
		fmt.Fprintf(p.errOut, "\nWarning: Vault %[1]s, which was backed up, is unsealed. Two Vaults with the same data "+
			"revoke each other's leases, and change the passwords of the databases and accounts that they manage. Seal %[1]s "+
			"first, unless it manages none.\n", line(old.Name))
	}
	if err := p.confirm(ctx, o.into, o.yes); err != nil {
		return err
	}
	x := &v1alpha1.VaultRestore{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "VaultRestore"},
		// The name of the Job follows from it.
		ObjectMeta: metav1.ObjectMeta{GenerateName: o.into[:min(len(o.into), 40)] + "-", Namespace: cluster.namespace},
		Spec: v1alpha1.VaultRestoreSpec{
			Vault: v1alpha1.ObjectName(o.into), Backup: v1alpha1.ObjectName(backup),
		},
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(x)
	if err != nil {
		return err
	}
	restores := cluster.objects.Resource(restoreResource).Namespace(cluster.namespace)
	object, err := restores.Create(ctx, &unstructured.Unstructured{Object: content}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	fmt.Fprintf(p.errOut, "VaultRestore %s is made\n", line(object.GetName()))
	return p.awaitRestore(ctx, cluster, object.GetName())
}

// awaitRestore waits until a restore is completed, and tells what it waits for.
func (p *plugin) awaitRestore(ctx context.Context, c *cluster, name string) error {
	restores, last := c.objects.Resource(restoreResource).Namespace(c.namespace), ""
	for {
		object, err := restores.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		x := &v1alpha1.VaultRestore{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, x); err != nil {
			return err
		}
		said := "it does not say why"
		if c := meta.FindStatusCondition(x.Status.Conditions, v1alpha1.RestoredCondition); c != nil {
			said = line(c.Message)
		}
		switch {
		case x.Completed() && x.Status.Phase == v1alpha1.RestoreSucceeded:
			took := x.Status.CompletionTime.Sub(x.CreationTimestamp.Time)
			_, err := fmt.Fprintf(p.out, "%s is restored from %s in %s. %s\n", line(string(x.Spec.Vault)),
				line(x.Status.Location), took, said)
			return err
		case x.Completed():
			return exit(exitError, "the restore %s failed: %s", line(name), said)
		case x.Status.Phase != "" && said != last:
			fmt.Fprintf(p.errOut, "%s: %s\n", line(string(x.Status.Phase)), said)
			last = said
		}
		if err := p.wait(ctx); err != nil {
			return err
		}
	}
}

// dryRunOfRestore says what is needed to restore a backup into a Vault as it would be when it was made anew.
func (p *plugin) dryRunOfRestore(b *v1alpha1.VaultBackup, vault *v1alpha1.Vault) error {
	fmt.Fprint(p.out, restorePlan(b, vault))
	anew := vault.DeepCopy()
	anew.Status, anew.Spec.Initialization = v1alpha1.VaultStatus{}, nil
	if _, message := restore.Refusal(b.Status.Vault, anew); message != "" {
		return exit(exitRefused, "it could not be restored: %s", line(message))
	}
	if _, message := restore.Refusal(b.Status.Vault, vault); message != "" {
		fmt.Fprintf(p.out, "\nBefore it is restored: %s\n", line(message))
	}
	return nil
}

// restoring reads a backup that has succeeded, and the Vault to restore it into.
func (c *cluster) restoring(ctx context.Context, backup, into string) (*v1alpha1.VaultBackup, *v1alpha1.Vault, error) {
	object, err := c.objects.Resource(backupResource).Namespace(c.namespace).Get(ctx, backup, metav1.GetOptions{})
	if err != nil {
		return nil, nil, err
	}
	b := &v1alpha1.VaultBackup{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, b); err != nil {
		return nil, nil, err
	}
	if !b.Succeeded() {
		return nil, nil, exit(exitRefused, "the backup %s has not succeeded: choose another one", line(backup))
	}
	vault, err := c.vault(ctx, into)
	if err != nil {
		return nil, nil, err
	}
	return b, vault, nil
}

// origin is the Vault that was backed up, or nil if it is gone.
func (c *cluster) origin(ctx context.Context, b *v1alpha1.VaultBackup) *v1alpha1.Vault {
	old, err := c.vault(ctx, string(b.Spec.Vault))
	if err != nil || b.Status.Vault == nil || old.UID != b.Status.Vault.UID {
		return nil
	}
	return old
}

// restorePlan says what will be restored, and what is needed to use it.
func restorePlan(b *v1alpha1.VaultBackup, into *v1alpha1.Vault) string {
	var s strings.Builder
	write := func(format string, args ...any) { fmt.Fprintf(&s, format+"\n", args...) }
	at := b.CreationTimestamp
	if b.Status.StartTime != nil {
		at = *b.Status.StartTime
	}
	write("The backup %s of Vault %s is restored into Vault %s. What was written after %s is not in it (%s ago).",
		line(b.Name), line(string(b.Spec.Vault)), line(into.Name), at.UTC().Format(time.RFC3339),
		time.Since(at.Time).Round(time.Second))
	of := b.Status.Vault
	if of == nil {
		of = &v1alpha1.BackedUpVault{}
	}
	write("\nIts data needs:")
	write("  - Vault %s or higher; %s has %s", orNone(of.Version), line(into.Name), orNone(into.Spec.Version))
	write("  - the storage %s, and the seal %s, as %s has them", orNone(of.Storage), orNone(of.SealType), line(into.Name))
	keys := "the keys"
	if of.Threshold > 0 {
		keys = fmt.Sprintf("%d of the %d keys", of.Threshold, of.Shares)
	}
	if into.Spec.Seal == nil {
		write("  - %s of the Vault that was backed up, to unseal it. Without them the data is lost, whatever is restored.",
			keys)
	} else {
		write("  - the key in the key service that sealed it. %s of its recovery are those of the Vault that was backed up.",
			strings.ToUpper(keys[:1])+keys[1:])
	}
	return s.String()
}

// refuseWhileRestored refuses what would spoil a restore into a Vault. Whoever may not list them is let
// go on: the Job refuses to write into a Vault that is initialized.
func (c *cluster) refuseWhileRestored(ctx context.Context, vault string) error {
	err := eachOf(ctx, c, restoreResource, func(x *v1alpha1.VaultRestore) error {
		if string(x.Spec.Vault) == vault && !x.Completed() {
			return exit(exitRefused, "Vault %s is restored by VaultRestore %s, which gives it its keys: delete that first if "+
				"it is to be initialized", line(vault), line(x.Name))
		}
		return nil
	})
	if apierrors.IsForbidden(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
