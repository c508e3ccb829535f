package plugin

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/cli-runtime/pkg/printers"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// overview is what the command status prints.
type overview struct {
	Name      string         `json:"name"`
	Namespace string         `json:"namespace"`
	Phase     v1alpha1.Phase `json:"phase"`
	Ready     bool           `json:"ready"`
	Version   string         `json:"version,omitempty"`
	Wanted    int32          `json:"wantedNodes"`
	Nodes     []nodeOverview `json:"nodes"`
	Storage   string         `json:"storage,omitempty"`
	// Login is whether the operator may log in; empty where the spec does not have it do so.
	Login string    `json:"operatorLogin,omitempty"`
	Waits []waiting `json:"waits"`
}

type nodeOverview struct {
	Name               string             `json:"name"`
	Role               v1alpha1.NodeState `json:"role"`
	Seal               string             `json:"seal"`
	Version            string             `json:"version,omitempty"`
	CertificateExpires *metav1.Time       `json:"certificateExpires,omitempty"`
}

// waiting is what is not as it should be, who can do something about it, and what.
type waiting struct {
	Condition string `json:"condition"`
	Reason    string `json:"reason"`
	For       string `json:"for"`
	Message   string `json:"message"`
	Command   string `json:"command,omitempty"`
}

func (p *plugin) statusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Show the nodes of a Vault, and what waits for whom",
		Long: `Show the nodes of a Vault, its storage, and what waits for whom with the command that helps,
as the status of the Vault resource tells it. No node is asked. The code is 0 when the Vault
is ready, 2 when it waits to be initialized or unsealed, 5 when it is not ready otherwise.`,
		Example: `  kubectl vault status example
  kubectl vault status example -o json | jq '.waits[].command'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.status(cmd.Context(), args[0], output) },
	}
	addOutput(cmd, &output)
	return cmd
}

func (p *plugin) status(ctx context.Context, name, output string) error {
	if err := checkOutput(output); err != nil {
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
	view := overviewOf(vault)
	if output != "" {
		err = encode(p.out, output, view)
	} else {
		err = view.print(p.out, time.Now())
	}
	if err != nil {
		return err
	}
	// All is printed already.
	if code := view.exitCode(); code != 0 {
		return exit(code, "")
	}
	return nil
}

func overviewOf(vault *v1alpha1.Vault) *overview {
	view := &overview{
		Name: vault.Name, Namespace: vault.Namespace, Phase: vault.Status.Phase,
		Ready: meta.IsStatusConditionTrue(vault.Status.Conditions, v1alpha1.ReadyCondition) &&
			vault.Status.ObservedGeneration == vault.Generation,
		Version: vault.Status.Version, Wanted: vault.WantedNodes(),
		Nodes: []nodeOverview{}, Waits: waitsOf(vault),
	}
	for _, node := range vault.Status.NodeStatuses {
		one := nodeOverview{Name: node.Name, Role: node.State, Seal: sealOf(node.State), Version: node.Version}
		if node.Certificate != nil {
			one.CertificateExpires = &node.Certificate.NotAfter
		}
		view.Nodes = append(view.Nodes, one)
	}
	if storage := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.StorageReadyCondition); storage != nil {
		view.Storage = storage.Message
		if vault.Status.Storage != nil && vault.Status.Storage.Version != "" {
			view.Storage += ", version " + vault.Status.Storage.Version
		}
	}
	if login := meta.FindStatusCondition(vault.Status.Conditions, v1alpha1.AuthorizedCondition); login != nil {
		view.Login = login.Reason
	}
	return view
}

func sealOf(state v1alpha1.NodeState) string {
	switch state {
	case v1alpha1.NodeActive, v1alpha1.NodeStandby:
		return "unsealed"
	case v1alpha1.NodeSealed, v1alpha1.NodeUninitialized:
		return "sealed"
	}
	return "unknown"
}

func (o *overview) exitCode() int {
	awaits := func(w waiting) bool {
		return slices.Contains([]string{v1alpha1.ReasonAwaitingInit, v1alpha1.ReasonAwaitingUnseal,
			v1alpha1.ReasonAwaitingSealMigration}, w.Reason)
	}
	switch {
	case slices.ContainsFunc(o.Waits, awaits):
		return exitSealed
	case !o.Ready:
		return exitNotReady
	}
	return 0
}

func (o *overview) print(out io.Writer, now time.Time) error {
	w := printers.GetNewTabWriter(out)
	ready := "not ready"
	if o.Ready {
		ready = "ready"
	}
	fmt.Fprintf(w, "Vault:\t%s/%s, %s\n", line(o.Namespace), line(o.Name), ready)
	fmt.Fprintf(w, "Phase:\t%s\n", orNone(string(o.Phase)))
	fmt.Fprintf(w, "Version:\t%s\n", orNone(o.Version))
	fmt.Fprintf(w, "Storage:\t%s\n", orNone(o.Storage))
	if o.Login != "" {
		fmt.Fprintf(w, "Operator:\t%s\n", line(o.Login))
	}
	fmt.Fprintf(w, "Nodes:\t%d wanted\n", o.Wanted)
	if err := w.Flush(); err != nil {
		return err
	}
	if len(o.Nodes) > 0 {
		fmt.Fprintf(w, "\nNODE\tROLE\tSEAL\tVERSION\tCERTIFICATE EXPIRES\n")
	}
	for _, node := range o.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", line(node.Name), line(string(node.Role)), node.Seal, orNone(node.Version),
			expiry(node.CertificateExpires, now))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(o.Waits) == 0 {
		_, err := fmt.Fprintln(out, "\nNothing waits for anybody.")
		return err
	}
	for _, wait := range o.Waits {
		fmt.Fprintf(out, "\n%s (%s) waits for %s: %s\n", line(wait.Condition), line(wait.Reason), wait.For,
			line(wait.Message))
		if wait.Command != "" {
			fmt.Fprintf(out, "  %s\n", wait.Command)
		}
	}
	return nil
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return line(text)
}

func expiry(at *metav1.Time, now time.Time) string {
	switch {
	case at == nil:
		return "-"
	case at.Time.Before(now):
		return at.UTC().Format(time.DateOnly) + " (expired)"
	}
	return fmt.Sprintf("%s (in %s)", at.UTC().Format(time.DateOnly), duration.HumanDuration(at.Sub(now)))
}

// negative are conditions that are bad when they are True.
var negative = []string{v1alpha1.ReleaseFailedCondition, v1alpha1.IrreconcilableCondition}

// optional are the conditions of Vaults whose spec asks for something: for an operator that handles
// keys or tokens, or for other nodes with integrated storage.
var optional = []string{
	v1alpha1.InitializationSucceededCondition, v1alpha1.UnsealKeysValidCondition, v1alpha1.AuthorizedCondition,
	v1alpha1.ResizedCondition,
}

// waitsOf lists the conditions that are not as they should be, each that says the same once.
func waitsOf(vault *v1alpha1.Vault) []waiting {
	waits := []waiting{}
	if vault.Status.ObservedGeneration != vault.Generation {
		waits = append(waits, waiting{
			Condition: v1alpha1.ReadyCondition, Reason: "NotObserved", For: "the operator",
			Message: "The operator has not seen the newest spec yet",
			Command: "kubectl get pods -A -l app.kubernetes.io/name=vault-operator",
		})
	}
	for _, kind := range slices.Concat(v1alpha1.VaultConditions, optional, negative) {
		condition := meta.FindStatusCondition(vault.Status.Conditions, kind)
		if condition == nil || kind == v1alpha1.ReadyCondition || kind == v1alpha1.StalledCondition {
			continue // these two sum up the others
		}
		good := metav1.ConditionTrue
		if slices.Contains(negative, kind) {
			good = metav1.ConditionFalse
		}
		if condition.Status == good || condition.Status == metav1.ConditionUnknown &&
			(slices.Contains(negative, kind) || condition.Reason == v1alpha1.ReasonKeysNotUsed) {
			continue
		}
		wait := waiting{Condition: kind, Reason: condition.Reason, Message: messageOf(vault, condition)}
		wait.For, wait.Command = help(vault, condition.Reason)
		told := func(w waiting) bool { return w.Reason == wait.Reason && w.Message == wait.Message }
		if !slices.ContainsFunc(waits, told) {
			waits = append(waits, wait)
		}
	}
	return waits
}

// messageOf is the message of a condition. For nodes that are sealed the operator's names a
// command of vault for each of them, and here is one for all.
func messageOf(vault *v1alpha1.Vault, condition *metav1.Condition) string {
	sealed := vault.Status.VaultStatus.Sealed
	switch condition.Reason {
	case v1alpha1.ReasonAwaitingInit, v1alpha1.ReasonAwaitingUnseal:
		if len(sealed) > 0 {
			return "sealed: " + strings.Join(sealed, ", ")
		}
	}
	return condition.Message
}

// byOperator says that the spec has the operator do what is waited for.
func byOperator(vault *v1alpha1.Vault, reason string) bool {
	switch reason {
	case v1alpha1.ReasonInitializing, v1alpha1.ReasonRevokingRootToken, v1alpha1.ReasonStoringKeys:
		return true
	case v1alpha1.ReasonAwaitingInit:
		return vault.Spec.Initialization != nil
	case v1alpha1.ReasonAwaitingUnseal:
		return vault.Spec.Unseal != nil
	}
	return false
}

// storageOfNodes is help for integrated storage: nodes vote when they are unsealed.
func storageOfNodes(vault *v1alpha1.Vault, reason, in, selector string) (who, command string) {
	if reason == v1alpha1.ReasonMembersFailing || len(vault.Status.VaultStatus.Sealed) == 0 {
		return "Kubernetes", "kubectl describe pods" + selector + v1alpha1.ServerComponent
	}
	return "an administrator of Vault", "kubectl vault unseal " + vault.Name + in
}

// byPlugin is the command of the plugin by which an administrator of Vault does what is waited
// for, and its flags.
func byPlugin(vault *v1alpha1.Vault, reason string) (verb, flags string) {
	switch reason {
	case v1alpha1.ReasonAwaitingInit:
		return "init", ""
	case v1alpha1.ReasonAwaitingUnseal:
		return "unseal", ""
	case v1alpha1.ReasonNotAuthorized, v1alpha1.ReasonLoginRefused, v1alpha1.ReasonPolicyMissing:
		return "authorize", ""
	case v1alpha1.ReasonRemovalRefused:
		if vault.HasOperatorLogin() {
			return "authorize", ""
		}
	case v1alpha1.ReasonAwaitingSealMigration, v1alpha1.ReasonMigrating:
		return "unseal", " --migrate"
	case v1alpha1.ReasonVolumesLost:
		if vault.HasRaft() {
			return "recover-raft", " --dry-run"
		}
	}
	return "", ""
}

// help says who can do something about a reason, and by which command.
func help(vault *v1alpha1.Vault, reason string) (who, command string) {
	const administrator, operator, cluster = "an administrator of Vault", "the operator", "Kubernetes"
	in := " -n " + vault.Namespace
	selector := in + " -l " + v1alpha1.InstanceLabel + "=" + vault.Name + "," + v1alpha1.ComponentLabel + "="
	if byOperator(vault, reason) || vault.OfProof() {
		return operator, "kubectl describe vault " + vault.Name + in
	}
	if verb, flags := byPlugin(vault, reason); verb != "" {
		return administrator, "kubectl vault " + verb + " " + vault.Name + in + flags
	}
	switch reason {
	case v1alpha1.ReasonAwaitingAutoUnseal, v1alpha1.ReasonKeyServiceUnavailable, v1alpha1.ReasonKeyServiceFailing:
		return "the key service", "kubectl vault logs " + vault.Name + in
	case v1alpha1.ReasonKeyServiceUnverified, v1alpha1.ReasonCredentialsRefused, v1alpha1.ReasonKeyNotUsable,
		v1alpha1.ReasonStorageUnavailable, v1alpha1.ReasonStorageUnverified, v1alpha1.ReasonStorageRefused,
		v1alpha1.ReasonStorageFailing:
		// Nodes that could not unseal themselves, or not read their data, have ended.
		return administrator, "kubectl logs --previous --prefix --ignore-errors -c " + v1alpha1.VaultContainer +
			selector + v1alpha1.ServerComponent
	case v1alpha1.ReasonNodeFailing:
		return administrator, "kubectl describe pods" + selector + v1alpha1.ServerComponent
	case v1alpha1.ReasonRolloutStalled:
		return administrator, "kubectl describe pods" + selector + v1alpha1.EtcdComponent
	case v1alpha1.ReasonNodesStarting:
		return cluster, "kubectl describe pods" + selector + v1alpha1.ServerComponent
	case v1alpha1.ReasonNodesUnreachable, v1alpha1.ReasonMultipleActiveNodes, v1alpha1.ReasonNodesUnverified:
		return administrator, "kubectl vault logs " + vault.Name + in
	case v1alpha1.ReasonNoActiveNode:
		return "the storage", "kubectl get vault " + vault.Name + in +
			` -o jsonpath='{.status.conditions[?(@.type=="` + v1alpha1.StorageReadyCondition + `")].message}'`
	case v1alpha1.ReasonNotInService, v1alpha1.ReasonNotObserved:
		return operator, "kubectl vault logs " + vault.Name + in
	case v1alpha1.ReasonReleasePending, v1alpha1.ReasonRollingOut, v1alpha1.ReasonSecretsPending,
		v1alpha1.ReasonCertificatePending, v1alpha1.ReasonResizing:
		return operator, ""
	case v1alpha1.ReasonNoQuorum, v1alpha1.ReasonMembersNotReady, v1alpha1.ReasonMembersFailing:
		if vault.HasRaft() {
			return storageOfNodes(vault, reason, in, selector)
		}
		return cluster, "kubectl describe pods" + selector + v1alpha1.EtcdComponent
	}
	return administrator, "kubectl describe vault " + vault.Name + in
}
