package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

type recoverOptions struct {
	survivor    string
	yes, dryRun bool
	giveUp      []string
	gpg         []string
	timeout     time.Duration
	output      string
}

func (p *plugin) recoverRaftCommand() *cobra.Command {
	var o recoverOptions
	cmd := &cobra.Command{
		Use:   "recover-raft NAME",
		Short: "Recover a Vault with integrated storage that has lost the volumes of most nodes",
		Long: `Recover a Vault with integrated storage from one node that still has its data, when the volumes of
most nodes are lost for good. That node is made the only member of the cluster, by Vault's
peers.json, and the others join it anew, with empty volumes.

What was written and had not reached that node is lost, also where clients were told that it is
written. It says what will be lost before it does anything, and asks. Bring the volumes back
instead if you can: nothing is lost then.

Afterwards it asks for key shares, and unseals all nodes. Who has none of them presses Enter: the
rest is "kubectl vault unseal". When it was interrupted run it again.`,
		Example: `  # What would be done, and what would be lost
  kubectl vault recover-raft example --dry-run

  # From the node that has the newest data; which one is asked of the nodes
  kubectl vault recover-raft example

  # From a node that you choose, without a question
  my-password-manager get vault-shares | kubectl vault recover-raft example --survivor=example-1 --yes`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.recoverRaft(cmd.Context(), args[0], o)
		},
	}
	cmd.Flags().StringVar(&o.survivor, "survivor", "", "Pod of the node whose data is kept: by default the one "+
		"with the newest")
	addYes(cmd, &o.yes)
	cmd.Flags().StringSliceVar(&o.giveUp, "give-up", nil, "Pods that only do not run, and whose volumes are deleted "+
		"although they are there: --yes alone does not answer for them")
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "Say what would be done, and do nothing")
	addGPG(cmd, &o.gpg)
	cmd.Flags().DurationVar(&o.timeout, "timeout", 5*time.Minute,
		"For how long to wait for nodes that start, since the last one was unsealed")
	addOutput(cmd, &o.output)
	return cmd
}

// addYes adds the flag --yes.
func addYes(cmd *cobra.Command, yes *bool) {
	cmd.Flags().BoolVar(yes, "yes", false, "Do not ask")
}

func (p *plugin) recoverRaft(ctx context.Context, name string, o recoverOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	t, err := p.target(ctx, name)
	if err != nil {
		return err
	}
	defer t.close()
	plan, err := p.planRecovery(ctx, t, o.survivor)
	if err != nil {
		return err
	}
	fmt.Fprint(p.errOut, plan)
	if o.dryRun {
		return p.recovered(plan, o.output)
	}
	if err := o.check(plan); err != nil {
		return err
	}
	if err := p.confirm(ctx, name, o.yes); err != nil {
		return err
	}
	// A node may have come back while somebody thought about it.
	again, err := p.planRecovery(ctx, t, o.survivor)
	if err != nil {
		return err
	}
	if !o.yes && again.String() != plan.String() {
		return exit(exitRefused, "the nodes have changed meanwhile, and nothing was changed: run it again")
	}
	if err := o.check(again); err != nil {
		return err
	}
	r := &recovering{plugin: p, target: t, options: o, plan: again}
	if err := r.prepare(ctx); err != nil {
		return err
	}
	if err := r.unseal(ctx); err != nil {
		return err
	}
	r.awaitStatus(ctx)
	return p.recovered(r.plan, o.output)
}

// check refuses to delete volumes without a question that are there.
func (o *recoverOptions) check(plan *recoveryPlan) error {
	for _, name := range plan.GivenUp {
		if o.yes && !slices.Contains(o.giveUp, name) {
			return exit(exitRefused, "the volume of %[1]s is there, and only its pod does not run. Have it run, or add "+
				"--give-up=%[1]s if that cannot be. Nothing was changed", name)
		}
	}
	return nil
}

// recovered prints what was done, or would be.
func (p *plugin) recovered(plan *recoveryPlan, output string) error {
	if output == "" {
		return nil
	}
	return encode(p.out, output, plan)
}

// startWait is for how long nodes that start are waited for, before something is decided.
const startWait = 30 * time.Second

// planRecovery looks at all nodes, and says what is to be done. One that is down is given time to start before its
// volume is given up.
func (p *plugin) planRecovery(ctx context.Context, t *target, survivor string) (*recoveryPlan, error) {
	for began := time.Now(); ; {
		if err := t.refresh(ctx); err != nil {
			return nil, err
		}
		if !t.vault.HasRaft() {
			return nil, exit(exitRefused, "Vault %s does not have integrated storage", t.vault.Name)
		}
		nodes, err := t.raftNodes(ctx)
		if err != nil {
			return nil, err
		}
		silent := slices.ContainsFunc(nodes, func(n raftNode) bool {
			has := n.contents(t.vault)
			return has == unknown || has == down
		})
		if !silent || time.Since(began) > startWait {
			return planRecovery(t.vault, nodes, survivor)
		}
		if err := p.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// raftNodes are the nodes that may run, by their ordinals. While fewer are wanted those that the cluster has not got
// rid of yet are among them: their data counts.
func (t *target) raftNodes(ctx context.Context) ([]raftNode, error) {
	pods, err := t.allPods(ctx, t.vault.PodLabels())
	if err != nil {
		return nil, err
	}
	seen, err := t.look(ctx)
	if err != nil {
		return nil, err
	}
	var nodes []raftNode
	for ordinal := range int(t.vault.RunningNodes()) {
		n := raftNode{name: fmt.Sprintf("%s-%d", t.vault.Name, ordinal)}
		if n.claim, err = t.claim(ctx, n.claimName()); err != nil {
			return nil, err
		}
		for i := range pods {
			if pods[i].Name == n.name {
				n.pod = &pods[i]
			}
		}
		for _, s := range seen {
			if n.pod == nil || s.pod.UID != n.pod.UID || s.err != nil {
				continue
			}
			n.seal = s.seal
			if !s.seal.Sealed {
				// One that does not tell is one without an index.
				n.leader, _ = s.node.leader(ctx)
			}
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// recovering is a run of the command that was confirmed.
type recovering struct {
	*plugin
	*target
	options recoverOptions
	plan    *recoveryPlan
}

// prepare leaves one node with data, which is a cluster of its own when it is unsealed. Each
// step can be repeated. The old volumes are gone before: together they could be a majority of
// the old cluster, beside the new one.
func (r *recovering) prepare(ctx context.Context) error {
	// A right that is missing, or a volume that cannot be written, must not be found when others are deleted.
	for _, n := range append(slices.Clone(r.plan.setAside), r.plan.survivor) {
		if _, err := r.inPod(ctx, n.name, v1alpha1.VaultContainer, "", "/bin/sh", "-c", isWritable); err != nil {
			return fmt.Errorf("%s: its volume cannot be written, and nothing was changed: %w", n.name, err)
		}
	}
	for _, n := range r.plan.replaced {
		fmt.Fprintf(r.errOut, "%s: gets an empty volume\n", n.name)
		if err := r.remove(ctx, r.cluster, n.claim, n.pod); err != nil {
			return err
		}
	}
	for _, n := range r.plan.setAside {
		if _, err := r.inPod(ctx, n.name, v1alpha1.VaultContainer, "", "/bin/sh", "-c", setAside); err != nil {
			return fmt.Errorf("%s: its data could not be set aside: %w", n.name, err)
		}
		fmt.Fprintf(r.errOut, "%s: its data is set aside in %s* of its volume\n", n.name, asidePrefix)
		if err := r.remove(ctx, r.cluster, nil, n.pod); err != nil {
			return err
		}
	}
	for _, n := range r.plan.restarted {
		if err := r.remove(ctx, r.cluster, nil, n.pod); err != nil {
			return err
		}
	}
	return r.prepareSurvivor(ctx)
}

const (
	// dataFolder is where Vault has its data in a pod, see the chart.
	dataFolder  = "/vault/data"
	asidePrefix = dataFolder + "/before-recovery-"
	peersFile   = dataFolder + "/raft/peers.json"

	// setAside moves what Vault has on its volume into a folder of its own. As long as the
	// last file is there the node says that it has data, and it is done again.
	setAside = `set -e
cd ` + dataFolder + `
[ -e vault.db ] || exit 0
folder=` + asidePrefix + `$(date -u +%Y%m%dT%H%M%SZ)
mkdir "$folder"
for file in raft node-id vault.db; do
  if [ -e "$file" ]; then mv "$file" "$folder/"; fi
done
`
	isWritable = `test -w ` + dataFolder
	readPeers  = `cat ` + peersFile + ` 2>/dev/null || true`
	writePeers = `set -e
umask 077
cat >` + peersFile + `.new
sync
mv ` + peersFile + `.new ` + peersFile + `
`
)

// nodeID is what Vault takes for the ID of a node; it makes a UUID.
var nodeID = regexp.MustCompile(`^[0-9A-Za-z._-]{1,64}$`)

// prepareSurvivor has the node that is left recover when it is unsealed. Vault reads the file
// then, and deletes it.
// https://developer.hashicorp.com/vault/docs/concepts/integrated-storage#manual-recovery-using-peersjson
func (r *recovering) prepareSurvivor(ctx context.Context) error {
	n := r.plan.survivor
	id, err := r.inPod(ctx, n.name, v1alpha1.VaultContainer, "", "cat", dataFolder+"/node-id")
	if err == nil && !nodeID.MatchString(id) {
		err = fmt.Errorf("%q is no node ID", line(id))
	}
	if err != nil {
		return fmt.Errorf("%s: its node ID could not be read: %w", n.name, err)
	}
	peers, err := json.Marshal([]any{map[string]any{
		"id": id, "address": fmt.Sprintf("%s.%s-nodes.%s.svc:8201", n.name, r.vault.Name, r.namespace), "non_voter": false,
	}})
	if err != nil {
		return err
	}
	written, err := r.inPod(ctx, n.name, v1alpha1.VaultContainer, "", "/bin/sh", "-c", readPeers)
	if err != nil {
		return fmt.Errorf("%s: %s could not be read: %w", n.name, peersFile, err)
	}
	// Another restart would make it forget key shares that it has got.
	if written == string(peers) && n.seal.Sealed && n.seal.Type == "shamir" {
		return nil
	}
	if _, err := r.inPod(ctx, n.name, v1alpha1.VaultContainer, string(peers), "/bin/sh", "-c", writePeers); err != nil {
		return fmt.Errorf("%s: %s could not be written: %w", n.name, peersFile, err)
	}
	fmt.Fprintf(r.errOut, "%s: is the only member of the cluster when it is unsealed, and restarts\n", n.name)
	return r.remove(ctx, r.cluster, nil, n.pod)
}

// unseal unseals all nodes, or waits until they have unsealed themselves.
func (r *recovering) unseal(ctx context.Context) error {
	if r.plan.survivor.seal.Type != "shamir" {
		return r.awaitUnsealed(ctx)
	}
	u := &unsealing{
		plugin: r.plugin, target: r.target, secrets: r.secrets(r.options.gpg), told: map[types.UID]*told{},
		options: unsealOptions{gpg: r.options.gpg, timeout: r.options.timeout}, moved: time.Now(), initialized: true,
	}
	defer u.secrets.close()
	err := u.run(ctx)
	if coded := (*exitCode)(nil); errors.As(err, &coded) && (coded.code == exitSealed || coded.code == exitDenied) {
		fmt.Fprintf(r.errOut, "%[1]s leads when it is unsealed, and the others join it then. Go on with: "+
			"kubectl vault unseal %[2]s -n %[3]s\n", r.plan.Survivor, r.vault.Name, r.namespace)
	}
	return err
}

// awaitUnsealed waits for nodes that unseal themselves.
func (r *recovering) awaitUnsealed(ctx context.Context) error {
	unsealed, moved := 0, time.Now()
	for {
		all, err := r.look(ctx)
		if err != nil {
			return err
		}
		now := 0
		for _, s := range all {
			if s.unsealed() && s.seal.Initialized {
				now++
			}
		}
		if now > unsealed {
			unsealed, moved = now, time.Now()
		}
		if wanted := int(r.vault.RunningNodes()); unsealed >= wanted {
			return nil
		} else if time.Since(moved) > r.options.timeout {
			return exit(exitSealed, "%d of %d nodes have unsealed themselves in time: kubectl vault logs %s -n %s",
				unsealed, wanted, r.vault.Name, r.namespace)
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
}

// awaitStatus waits until the operator has seen that the data is there again.
func (r *recovering) awaitStatus(ctx context.Context) {
	for began := time.Now(); time.Since(began) < time.Minute; {
		if err := r.refresh(ctx); err == nil && !volumesLost(r.vault) {
			fmt.Fprintf(r.errOut, "Vault %s is recovered from %s\n", r.vault.Name, r.plan.Survivor)
			return
		}
		if r.wait(ctx) != nil {
			return
		}
	}
	fmt.Fprintf(r.errOut, "Vault %[1]s is recovered from %[2]s. The operator cannot know it, since another node "+
		"was active before the others had joined. Have it forget the lost volumes: kubectl patch vault %[1]s -n %[3]s "+
		"--subresource=status --type=merge -p '{\"status\":{\"storage\":null}}'\n",
		r.vault.Name, r.plan.Survivor, r.namespace)
}

func volumesLost(vault *v1alpha1.Vault) bool {
	ready := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.StorageReadyCondition)
	return ready != nil && ready.Reason == v1alpha1.ReasonVolumesLost
}

// String says what is done and what is lost.
func (plan *recoveryPlan) String() string {
	var b strings.Builder
	write := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	write("Vault %s is recovered from %s, which %s.", plan.Vault, plan.Survivor, plan.survivor.newest())
	write("\nLost for good:")
	write("  - what was written and had not reached %s, also where clients were told that it is written. "+
		"Nobody can tell how much that is: seconds if it was unsealed until the others were lost, and all that was written "+
		"since if it was sealed or down before.", plan.Survivor)
	for _, n := range plan.replaced {
		if n.claim == nil {
			continue
		}
		if slices.Contains(plan.GivenUp, n.name) {
			write("  - the volume of %s, WHICH IS THERE: its claim %s is deleted. Only the pod does not run: %s. "+
				"Stop here, and have it run, unless that cannot be.", n.name, n.claim.Name, line(n.whyDown()))
			continue
		}
		write("  - the volume of %s: its claim %s is deleted. If the volume may come back stop here, and bring it back.",
			n.name, n.claim.Name)
	}
	write("\nThen:")
	for _, n := range plan.setAside {
		write("  - %s %s, which is set aside on its volume; it joins with none", n.name, n.newest())
	}
	for _, n := range slices.Concat(plan.replaced, plan.restarted, plan.empty) {
		write("  - %s joins with an empty volume", n.name)
	}
	write("  - all nodes are sealed, and have to be unsealed, %s first. Until then nothing is served.", plan.Survivor)
	return b.String()
}
