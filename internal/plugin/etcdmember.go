package plugin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const (
	etcdContainer = "etcd"
	// stateKey and stateExisting have a member join a cluster that exists, see the chart.
	stateKey      = "initial-cluster-state"
	stateExisting = "existing"
)

type replaceOptions struct {
	yes     bool
	timeout time.Duration
	output  string
}

func (p *plugin) replaceEtcdMemberCommand() *cobra.Command {
	var o replaceOptions
	cmd := &cobra.Command{
		Use:   "replace-etcd-member NAME MEMBER",
		Short: "Replace a broken etcd member of a Vault by an empty one",
		Long: `Replace an etcd member of a Vault that has lost its volume, or cannot use it any more. It is taken
out of the cluster, its volume claim and its pod are deleted, and the one that takes its place
gets all data from the others. Vault goes on meanwhile.

It refuses where the member is healthy, and where the others are no quorum without it: then their
volumes may be needed. When it was interrupted run it again.`,
		Example: `  # Asks before it does anything
  kubectl vault replace-etcd-member example example-etcd-1`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: p.vaultNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			return p.replaceEtcdMember(cmd.Context(), args[0], args[1], o)
		},
	}
	addYes(cmd, &o.yes)
	cmd.Flags().DurationVar(&o.timeout, "timeout", 10*time.Minute, "For how long to wait until the new member is ready")
	addOutput(cmd, &o.output)
	return cmd
}

// etcdReplacement is what was done about a member.
type etcdReplacement struct {
	Vault  string `json:"vault"`
	Member string `json:"member"`
	// Replaced is false where the member was healthy already.
	Replaced bool `json:"replaced"`
}

func (p *plugin) replaceEtcdMember(ctx context.Context, name, member string, o replaceOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	cluster, err := p.connect()
	if err != nil {
		return err
	}
	vault, err := cluster.vault(ctx, name)
	if err != nil {
		return err
	}
	r := &replacing{plugin: p, cluster: cluster, vault: vault, member: member, options: o}
	replaced, err := r.run(ctx)
	if err != nil || o.output == "" {
		return err
	}
	return encode(p.out, o.output, etcdReplacement{Vault: name, Member: member, Replaced: replaced})
}

// replacing is a run of the command.
type replacing struct {
	*plugin
	*cluster
	vault   *v1alpha1.Vault
	member  string
	options replaceOptions
	// other is a member that is healthy.
	other string
}

// run replaces the member. Whatever an interrupted run has done is done again: the one that has
// joined is taken out once more, since it may have voted, and could have forgotten it.
func (r *replacing) run(ctx context.Context) (replaced bool, err error) {
	if err := r.check(ctx); err != nil {
		return false, err
	}
	guard, err := r.guard(ctx)
	if err != nil {
		return false, err
	}
	if r.healthy(ctx, r.member) == nil {
		fmt.Fprintf(r.errOut, "%s is healthy, and is not replaced\n", r.member)
		return false, r.deleteGuard(ctx, guard)
	}
	fmt.Fprintf(r.errOut, "%[1]s is replaced: its volume claim data-%[1]s is deleted with the data on it, and "+
		"the new one gets "+
		"all data from the others, which are healthy.\n", r.member)
	if err := r.confirm(ctx, r.member, r.options.yes); err != nil {
		return false, err
	}
	if err := r.exchange(ctx); err != nil {
		return false, err
	}
	if guard == nil {
		guard, err = r.core.ConfigMaps(r.namespace).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: r.vault.EtcdReplacementName(), Namespace: r.namespace},
			Data:       map[string]string{stateKey: stateExisting},
		}, metav1.CreateOptions{})
		if err != nil {
			return false, fmt.Errorf("creating the ConfigMap that lets the new member join: %w", err)
		}
	}
	claim, err := r.claim(ctx, "data-"+r.member)
	if err != nil {
		return false, err
	}
	pod, err := r.pod(ctx, r.member)
	if err != nil {
		return false, err
	}
	if err := r.remove(ctx, r.cluster, claim, pod); err != nil {
		return false, err
	}
	if err := r.awaitHealthy(ctx); err != nil {
		return false, err
	}
	if err := r.deleteGuard(ctx, guard); err != nil {
		return false, err
	}
	fmt.Fprintf(r.errOut, "%s is replaced\n", r.member)
	return true, nil
}

// check refuses where the others cannot do without the member.
func (r *replacing) check(ctx context.Context) error {
	if !r.vault.HasEtcd() {
		return exit(exitRefused, "Vault %s has no etcd", r.vault.Name)
	}
	var others []string
	known := false
	for ordinal := range r.vault.WantedMembers() {
		if member := r.vault.EtcdMemberName(ordinal); member != r.member {
			others = append(others, member)
		} else {
			known = true
		}
	}
	switch {
	case !known:
		return exit(exitRefused, "Vault %s has no etcd member %s", r.vault.Name, line(r.member))
	case len(others) == 0:
		return exit(exitRefused, "the etcd of Vault %s has no other member that has the data", r.vault.Name)
	}
	var broken []string
	for _, other := range others {
		if err := r.healthy(ctx, other); err != nil {
			broken = append(broken, other+": "+line(err.Error()))
		} else {
			r.other = other
		}
	}
	if healthy, quorum := len(others)-len(broken), r.vault.WantedMembers()/2+1; healthy < quorum {
		return exit(exitRefused, "without %s %d members are healthy, and %d are needed: bring the others back "+
			"first, and keep "+
			"all volumes; %s", r.member, healthy, quorum, strings.Join(broken, "; "))
	}
	return nil
}

// healthy asks a member whether it can commit, which it can with a quorum alone.
func (r *replacing) healthy(ctx context.Context, member string) error {
	_, err := r.etcdctl(ctx, member, "endpoint", "health")
	return err
}

// etcdctl runs it in the pod of a member, which has it find that member.
func (r *replacing) etcdctl(ctx context.Context, member string, args ...string) (string, error) {
	return r.inPod(ctx, member, etcdContainer, "", append([]string{"etcdctl"}, args...)...)
}

// guard is the ConfigMap that says how an empty member starts, or nil. That of the operator
// says that most volumes are lost.
func (r *replacing) guard(ctx context.Context) (*corev1.ConfigMap, error) {
	guard, err := r.core.ConfigMaps(r.namespace).Get(ctx, r.vault.EtcdReplacementName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case metav1.IsControlledBy(guard, r.vault):
		return nil, exit(exitRefused, "the operator keeps members of Vault %s from starting, since most volumes are lost: "+
			"see the condition %s", r.vault.Name, v1alpha1.StorageReadyCondition)
	case guard.Data[stateKey] != stateExisting:
		return nil, exit(exitRefused, "the ConfigMap %[1]s has not %[2]s=%[3]s: delete it, and run this again",
			guard.Name, stateKey, stateExisting)
	}
	return guard, nil
}

// deleteGuard has an empty member be refused again, and not join.
func (r *replacing) deleteGuard(ctx context.Context, guard *corev1.ConfigMap) error {
	if guard == nil {
		return nil
	}
	err := r.core.ConfigMaps(r.namespace).Delete(ctx, guard.Name,
		metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &guard.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting ConfigMap %s: %w", guard.Name, err)
	}
	return nil
}

// exchange takes the member out of the cluster, and puts one without a past in its place.
// https://etcd.io/docs/v3.6/op-guide/runtime-configuration/#replace-a-failed-machine
func (r *replacing) exchange(ctx context.Context) error {
	text, err := r.etcdctl(ctx, r.other, "member", "list", "--write-out=json")
	if err != nil {
		return fmt.Errorf("%s: its members could not be listed: %w", r.other, err)
	}
	var list struct {
		Members []etcdMember `json:"members"`
	}
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return fmt.Errorf("%s: its members could not be read: %w", r.other, err)
	}
	for _, m := range list.Members {
		if !m.is(r.member) {
			continue
		}
		if _, err := r.etcdctl(ctx, r.other, "member", "remove", fmt.Sprintf("%x", m.ID)); err != nil {
			return fmt.Errorf("%s could not be taken out of the cluster: %w", r.member, err)
		}
	}
	peer := fmt.Sprintf("https://%s.%s.%s.svc:2380", r.member, r.vault.EtcdName(), r.namespace)
	if _, err := r.etcdctl(ctx, r.other, "member", "add", r.member, "--peer-urls="+peer); err != nil {
		return fmt.Errorf("the new %s could not be added to the cluster: run it again; %w", r.member, err)
	}
	return nil
}

// etcdMember is a member as etcdctl prints it.
type etcdMember struct {
	ID       uint64   `json:"ID"`
	PeerURLs []string `json:"peerURLs"`
}

// is says that a member is reached at that pod. One that has not started yet has no name.
func (m *etcdMember) is(pod string) bool {
	return slices.ContainsFunc(m.PeerURLs, func(text string) bool {
		peer, err := url.Parse(text)
		if err != nil {
			return false
		}
		host, _, _ := strings.Cut(peer.Hostname(), ".")
		return host == pod
	})
}

// awaitHealthy waits until the new member has all data and is ready.
func (r *replacing) awaitHealthy(ctx context.Context) error {
	for began := time.Now(); ; {
		pod, err := r.pod(ctx, r.member)
		if err != nil {
			return err
		}
		if pod != nil && running(pod, etcdContainer) && podReady(pod) && r.healthy(ctx, r.member) == nil {
			return nil
		}
		if time.Since(began) > r.options.timeout {
			return exit(exitNotReady, "%[1]s is not ready in time: see why by kubectl describe pod %[1]s -n %[2]s. "+
				"Run this again "+
				"when that is fixed; do not leave the ConfigMap %[3]s behind", r.member, r.namespace,
				r.vault.EtcdReplacementName())
		}
		if err := r.wait(ctx); err != nil {
			return err
		}
	}
}

// podReady says that the pod is ready.
func podReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
