package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// opening is for how long a node that has got all key shares may stay sealed: with storage
// of its own it first gets the data from the active node.
const opening = time.Minute

// retry is how long after a failure a node is given the shares again.
const retry = 10 * time.Second

type unsealOptions struct {
	gpg     []string
	migrate bool
	timeout time.Duration
}

func (p *plugin) unsealCommand() *cobra.Command {
	var o unsealOptions
	cmd := &cobra.Command{
		Use:   "unseal NAME",
		Short: "Unseal all nodes of a Vault",
		Long: `Unseal all nodes of a Vault. Each key share is asked for once and sent to every sealed node.
While nodes start, or a rollout replaces them one by one, it waits for them and unseals
them as well, so that an upgrade needs one run.

Key shares that others have given count: who holds one share gives it, presses Enter
instead of the next one, and the next administrator runs the command. The code 2 tells that nodes
are still sealed.`,
		Example: `  # Asks for key shares without echo
  kubectl vault unseal example

  # Key shares from a password manager, one a line
  my-password-manager get vault-shares | kubectl vault unseal example

  # Key shares that "init --pgp-keys" has encrypted to my key, as base64 or as gpg writes it
  kubectl vault unseal example --gpg share-1.b64,share-2.b64

  # In a seal migration, with the key shares of the old seal
  kubectl vault unseal example --migrate`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.unseal(cmd.Context(), args[0], o) },
	}
	addGPG(cmd, &o.gpg)
	cmd.Flags().BoolVar(&o.migrate, "migrate", false,
		"Migrate to another seal, with the key shares of the old one: only nodes that wait for that get them")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 5*time.Minute,
		"For how long to wait for nodes that start, since the last one was unsealed")
	return cmd
}

// addGPG adds the flag --gpg.
func addGPG(cmd *cobra.Command, files *[]string) {
	cmd.Flags().StringSliceVar(files, "gpg", nil,
		"Files with key shares that gpg decrypts; those that are missing are asked for")
}

func (p *plugin) unseal(ctx context.Context, name string, o unsealOptions) error {
	t, err := p.target(ctx, name)
	if err != nil {
		return err
	}
	defer t.close()
	if err := refuseCopy(t.vault); err != nil {
		return err
	}
	u := &unsealing{plugin: p, target: t, options: o, secrets: p.secrets(o.gpg), told: map[types.UID]*told{},
		moved: time.Now()}
	defer u.secrets.close()
	return u.run(ctx)
}

// refuseCopy refuses to do something with what was restored to prove a backup: once unsealed by hand it would revoke
// the leases of the Vault that was backed up.
func refuseCopy(vault *v1alpha1.Vault) error {
	if !vault.OfProof() {
		return nil
	}
	return exit(exitRefused, "Vault %s was restored to prove a backup, and is deleted soon: the operator unseals it, if "+
		"anybody does", vault.Name)
}

// told is what a node was told.
type told struct {
	// shares is how many of the key shares the node has got, and progress how many it said
	// to have then. One that has less was restarted.
	shares, progress int
	// complete is when the node had got as many as it needs.
	complete time.Time
	// failure is what Vault answered instead of taking a share, and failed when: it may be
	// the storage's.
	failure string
	failed  time.Time
}

// unsealing is a run of the command.
type unsealing struct {
	*plugin
	*target
	options unsealOptions
	secrets *secrets
	// shares are those that were given in this run.
	shares []string
	told   map[types.UID]*told
	// unsealed is how many nodes are, and moved when that rose or a share was given.
	unsealed int
	moved    time.Time
	// initialized says that a node is that does not answer yet.
	initialized bool
	// waitsFor is what was last printed.
	waitsFor string
}

func (u *unsealing) run(ctx context.Context) error {
	for {
		if err := u.refresh(ctx); err != nil {
			return err
		}
		all, err := u.look(ctx)
		if err != nil {
			return err
		}
		if err := u.check(all); err != nil {
			return err
		}
		if err := u.give(ctx, all); err != nil {
			return err
		}
		if lacking := u.lacking(all); lacking > 0 {
			err := u.another(ctx, lacking)
			if errors.Is(err, io.EOF) {
				return exit(exitSealed, "%d more key share(s) needed; still sealed: %s", lacking, strings.Join(sealedOf(all), ", "))
			}
			if err != nil {
				return err
			}
			continue
		}
		done, err := u.missing(all)
		if done || err != nil {
			return err
		}
		if err := u.wait(ctx); err != nil {
			return err
		}
	}
}

// check fails when keys are of no use.
func (u *unsealing) check(all []*seen) error {
	initialized, responded := u.initialized, false
	if a, b := disagree(all); a != nil {
		return exit(exitRefused, "%s says that %d of %d key shares unseal it, and %s that %d of %d do: they are not of one "+
			"Vault, or the keys were changed after one was sealed. Delete the pod of that one",
			a.pod.Name, a.seal.T, a.seal.N, b.pod.Name, b.seal.T, b.seal.N)
	}
	for _, s := range all {
		responded = responded || s.err == nil
		initialized = initialized || s.err == nil && s.seal.Initialized
		if s.sealed() && s.seal.Type != "shamir" && !s.seal.Migration && !u.options.migrate && !u.hasBothSeals(s) {
			return exit(exitRefused, "%[1]s unseals itself by %[2]s, and is not sent keys: its log says why it is sealed. "+
				"If somebody has sealed it, delete its pod: kubectl delete pod %[1]s -n %[3]s",
				s.pod.Name, line(s.seal.Type), u.namespace)
		}
		if u.migrates(s) && !u.options.migrate {
			return exit(exitRefused,
				"%s is to be migrated to another seal: run this again with --migrate, "+
					"and give the key shares of the old seal", s.pod.Name)
		}
	}
	if responded && !initialized {
		return exit(exitRefused, "Vault %s is not initialized: run 'kubectl vault init %[1]s -n %s'", u.vault.Name,
			u.namespace)
	}
	return nil
}

// migrates says that a sealed node waits for the key shares of the old seal. With
// spec.sealMigration it has to be one of the newest pod template: one of the old seal that was
// started after the data was moved would move it back.
func (u *unsealing) migrates(s *seen) bool {
	return s.sealed() && s.seal.Migration && (u.vault.Spec.SealMigration == nil || u.hasBothSeals(s))
}

// hasBothSeals says that a node was started with the old seal beside the new one: then it does
// not unseal itself, not even after the data was moved.
func (u *unsealing) hasBothSeals(s *seen) bool {
	return u.vault.Spec.SealMigration != nil && slices.Contains(u.vault.Status.UpdatedNodes, s.pod.Name)
}

// disagree returns two sealed nodes that are not unsealed by the same key shares, if there are.
func disagree(all []*seen) (a, b *seen) {
	for _, s := range all {
		switch {
		case !s.sealed():
		case a == nil:
			a = s
		case s.seal.T != a.seal.T || s.seal.N != a.seal.N:
			return a, s
		}
	}
	return nil, nil
}

// give sends each sealed node the key shares that it has not got yet.
func (u *unsealing) give(ctx context.Context, all []*seen) error {
	var wait sync.WaitGroup
	errs := make([]error, len(all))
	for i, s := range all {
		if !s.sealed() || s.seal.Migration != u.options.migrate || s.seal.Migration && !u.migrates(s) {
			continue
		}
		node := u.told[s.pod.UID]
		if node == nil {
			node = &told{}
			u.told[s.pod.UID] = node
		}
		switch {
		case time.Since(node.complete) < opening, time.Since(node.failed) < retry:
			continue
		case s.seal.Progress < node.progress || !node.complete.IsZero():
			*node = told{} // it was restarted, or did not open
		}
		wait.Go(func() { errs[i] = u.giveTo(ctx, s, node) })
	}
	wait.Wait()
	return errors.Join(errs...)
}

func (u *unsealing) giveTo(ctx context.Context, s *seen, node *told) error {
	for s.seal.Sealed && node.shares < len(u.shares) {
		seal, err := s.node.api.Sys().UnsealWithOptionsWithContext(ctx, &vaultapi.UnsealOpts{
			Key: u.shares[node.shares], Migrate: u.options.migrate,
		})
		switch {
		case status(err) == http.StatusBadRequest:
			return u.wrong(ctx, s, node, err)
		case status(err) != 0:
			if own(s, node) {
				u.reset(ctx, s)
			}
			*node = told{failure: reason(err), failed: time.Now()}
			return nil
		case err != nil:
			// Whether it took the share, it says when it answers again. With the last one it may join the others.
			if u.vault.HasRaft() && s.seal.T-s.seal.Progress <= 1 {
				node.complete = time.Now()
			}
			s.err = err
			u.drop(&s.pod)
			return ctx.Err()
		}
		before := s.seal.Progress
		*s.seal = *seal
		*node = told{shares: node.shares + 1, progress: seal.Progress}
		switch {
		case !seal.Sealed:
			fmt.Fprintf(u.errOut, "%s: unsealed\n", s.pod.Name)
		case seal.Progress == 0:
			node.complete = time.Now()
			fmt.Fprintf(u.errOut, "%s: has all key shares, and is being unsealed\n", s.pod.Name)
			return nil
		case seal.Progress == before:
			fmt.Fprintf(u.errOut, "%s: has this key share already, %d of %d\n", s.pod.Name, seal.Progress, seal.T)
		default:
			fmt.Fprintf(u.errOut, "%s: %d of %d key shares\n", s.pod.Name, seal.Progress, seal.T)
		}
	}
	return nil
}

// own says that a node has no key shares but those of this run.
func own(s *seen, node *told) bool { return s.seal.Progress <= node.shares }

// wrong tells that key shares do not unseal a node. Vault forgets a whole set of them, and
// does not take one that cannot be one; then those that others have given stay.
func (u *unsealing) wrong(ctx context.Context, s *seen, node *told, err error) error {
	ctx = context.WithoutCancel(ctx)
	left := 0
	if own(s, node) {
		u.reset(ctx, s)
	} else if seal, err := s.node.SealStatus(ctx); err == nil {
		left = seal.Progress
	}
	what := fmt.Sprintf("%s: a key share is wrong, or of another Vault (%s).", s.pod.Name, reason(err))
	if left > 0 {
		return exit(exitDenied, "%s The node keeps the %d that it had: give the others again", what, left)
	}
	return exit(exitDenied, "%s The node has forgotten those that it had: begin again with all of them", what)
}

func (u *unsealing) reset(ctx context.Context, s *seen) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if _, err := s.node.api.Sys().ResetUnsealProcessWithContext(ctx); err != nil && status(err) != http.StatusBadRequest {
		fmt.Fprintf(u.errOut, "%s: the key shares that it has could not be taken back: %s\n", s.pod.Name, reason(err))
	}
}

// lacking is how many more key shares the nodes need that are sealed.
func (u *unsealing) lacking(all []*seen) int {
	lacking := 0
	for _, s := range all {
		if node := u.told[s.pod.UID]; s.sealed() && node != nil && node.complete.IsZero() && node.failure == "" {
			lacking = max(lacking, s.seal.T-s.seal.Progress, 1)
		}
	}
	return lacking
}

// another asks for a key share that was not given yet.
func (u *unsealing) another(ctx context.Context, lacking int) error {
	share, err := u.newShare(ctx, u.secrets, u.shares, lacking)
	if err == nil {
		u.shares, u.moved = append(u.shares, share), time.Now()
	}
	return err
}

// newShare asks for a key share that is none of those that were given.
func (p *plugin) newShare(ctx context.Context, secrets *secrets, given []string, lacking int) (string, error) {
	for {
		share, err := secrets.share(ctx, fmt.Sprintf("Key share %d, %d more needed, or Enter to stop", len(given)+1, lacking))
		if err != nil || !slices.Contains(given, share) {
			return share, err
		}
		fmt.Fprintln(p.errOut, "This key share was given already.")
	}
}

func sealedOf(all []*seen) []string {
	var names []string
	for _, s := range all {
		if s.sealed() {
			names = append(names, s.pod.Name)
		}
	}
	return names
}

// missing says whether all is done, and tells what it waits for otherwise.
func (u *unsealing) missing(all []*seen) (done bool, err error) {
	waits, unsealed := u.waits(all)
	if unsealed > u.unsealed {
		u.moved = time.Now()
	}
	u.unsealed = unsealed
	unseen := len(waits) == 0 && u.vault.Status.ObservedGeneration != u.vault.Generation
	if unseen {
		waits = append(waits, "the operator has not seen the newest spec yet")
	}
	updated := meta.FindStatusCondition(u.vault.Status.Conditions, v1alpha1.UpdatedCondition)
	if len(waits) == 0 && rollingOut(updated) {
		waits = append(waits, "a rollout is on: "+line(updated.Message))
	}
	if len(waits) == 0 {
		if updated != nil && updated.Status == metav1.ConditionFalse {
			fmt.Fprintf(u.errOut, "A rollout does not go on: %s\n", line(updated.Message))
		}
		fmt.Fprintf(u.errOut, "All %d nodes of Vault %s are unsealed\n", unsealed, u.vault.Name)
		return true, nil
	}
	text := strings.Join(waits, ", ")
	switch late := time.Since(u.moved) > u.options.timeout; {
	case late && unseen:
		return false, fmt.Errorf("all %d nodes are unsealed, and %s: it may be down, and more may have to be unsealed then",
			unsealed, text)
	case late:
		return false, exit(exitSealed, "%d node(s) unsealed, and these not in time: %s", unsealed, text)
	}
	if text != u.waitsFor {
		u.waitsFor = text
		fmt.Fprintf(u.errOut, "Waiting: %s\n", short(text))
	}
	return false, nil
}

// waits lists the nodes that are not unsealed, and why, and counts the others.
func (u *unsealing) waits(all []*seen) (waits []string, unsealed int) {
	for _, s := range all {
		switch node := u.told[s.pod.UID]; {
		case s.unsealed():
			unsealed++
		case node != nil && node.failure != "":
			waits = append(waits, s.pod.Name+": "+node.failure)
		case s.err != nil:
			waits = append(waits, s.pod.Name+": "+reason(s.err))
		case s.seal.Initialized && s.seal.Migration && !u.migrates(s):
			waits = append(waits, s.pod.Name+" is of the old seal, and is to be replaced")
		case s.seal.Initialized && u.options.migrate && !s.seal.Migration:
			waits = append(waits, s.pod.Name+" is sealed, and not by --migrate to be unsealed")
		case s.seal.Initialized:
			waits = append(waits, s.pod.Name+" is being unsealed")
		default:
			waits = append(waits, s.pod.Name+" has not joined the others yet")
		}
	}
	if wanted := int(u.vault.WantedNodes()); len(all) < wanted {
		waits = append(waits, fmt.Sprintf("%d of %d pods are there", len(all), wanted))
	}
	return waits, unsealed
}

// rollingOut says whether a rollout may bring nodes that have to be unsealed.
func rollingOut(updated *metav1.Condition) bool {
	if updated == nil || updated.Status != metav1.ConditionFalse {
		return false
	}
	switch updated.Reason {
	case v1alpha1.ReasonRollingOut, v1alpha1.ReasonReleasePending, v1alpha1.ReasonAwaitingUnseal,
		v1alpha1.ReasonAwaitingSealMigration:
		return true
	}
	return false
}
