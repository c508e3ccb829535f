package vaultstatus

import (
	"errors"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/vaultconfig"
)

// conditionFuncs compute the conditions, each from the facts and the status so
// far, and from nothing else.
var conditionFuncs = []func(*facts, *v1alpha1.VaultStatus) metav1.Condition{
	available, vaultInitialized, unsealed, updated, tlsReady, configValid, storageReady,
}

// conditions returns this controller's conditions, with the transition times of
// those that did not change.
func conditions(f *facts, status *v1alpha1.VaultStatus) []metav1.Condition {
	var result []metav1.Condition
	for _, fn := range conditionFuncs {
		condition := fn(f, status)
		if old := meta.FindStatusCondition(f.previous.Conditions, condition.Type); old != nil {
			result = append(result, *old)
		}
		condition.ObservedGeneration = f.vault.Generation
		condition.LastTransitionTime = metav1.Time{Time: f.now}.Rfc3339Copy()
		meta.SetStatusCondition(&result, condition)
	}
	return result
}

func is(conditionType string, status metav1.ConditionStatus, reason, format string, args ...any) metav1.Condition {
	return metav1.Condition{Type: conditionType, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func available(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	const t = v1alpha1.AvailableCondition
	nodes := &status.VaultStatus
	switch status.Phase {
	case v1alpha1.PhaseRunning:
		return is(t, metav1.ConditionTrue, v1alpha1.ReasonActive, "Pod %s is active and serves requests at https://%s:%d%s",
			nodes.Active, f.vault.ServerName(), v1alpha1.ClientPort, storageHint(f))
	case v1alpha1.PhaseUninitialized:
		return is(t, metav1.ConditionFalse, v1alpha1.ReasonAwaitingInit, "%s", initHint(nodes))
	case v1alpha1.PhaseSealed:
		return is(t, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal, "%s%s", unsealHint(nodes.Sealed), storageHint(f))
	case v1alpha1.PhaseUnavailable:
		if len(nodes.Standby) == 0 && len(nodes.Unreachable) > 0 {
			return is(t, metav1.ConditionUnknown, v1alpha1.ReasonNodesUnreachable, "No answer from %s%s", join(nodes.Unreachable), storageHint(f))
		}
		if len(nodes.Standby) == 0 {
			return is(t, metav1.ConditionFalse, v1alpha1.ReasonNoActiveNode, "No node is active, and none is unsealed%s%s", waitingHint(f), storageHint(f))
		}
		return is(t, metav1.ConditionFalse, v1alpha1.ReasonNoActiveNode, "No node is active; unsealed nodes: %s%s", join(nodes.Standby), storageHint(f))
	default:
		if len(nodes.Unreachable) > 0 {
			return is(t, metav1.ConditionUnknown, v1alpha1.ReasonNodesUnreachable, "No answer from %s%s", join(nodes.Unreachable), storageHint(f))
		}
		return is(t, metav1.ConditionFalse, v1alpha1.ReasonNodesStarting, "No Vault node runs yet%s", waitingHint(f))
	}
}

func vaultInitialized(_ *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	const t = v1alpha1.InitializedCondition
	switch {
	case status.Initialized:
		return is(t, metav1.ConditionTrue, v1alpha1.ReasonInitialized, "Vault is initialized")
	case status.Phase == v1alpha1.PhaseUninitialized:
		return is(t, metav1.ConditionFalse, v1alpha1.ReasonAwaitingInit, "%s", initHint(&status.VaultStatus))
	default:
		return is(t, metav1.ConditionUnknown, v1alpha1.ReasonNotObserved, "No Vault node has answered yet")
	}
}

func unsealed(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	const t = v1alpha1.UnsealedCondition
	nodes := &status.VaultStatus
	switch {
	case len(nodes.Sealed) > 0 && !status.Initialized:
		return is(t, metav1.ConditionFalse, v1alpha1.ReasonAwaitingInit, "%s", initHint(nodes))
	case len(nodes.Sealed) > 0:
		return is(t, metav1.ConditionFalse, v1alpha1.ReasonAwaitingUnseal, "%s", unsealHint(nodes.Sealed))
	case len(nodes.Unreachable) > 0:
		return is(t, metav1.ConditionUnknown, v1alpha1.ReasonNodesUnreachable, "No answer from %s", join(nodes.Unreachable))
	case status.ReadyNodes < f.vault.WantedNodes():
		return is(t, metav1.ConditionUnknown, v1alpha1.ReasonNodesStarting, "%d of %d nodes are unsealed, the others do not run yet%s",
			status.ReadyNodes, f.vault.WantedNodes(), waitingHint(f))
	default:
		return is(t, metav1.ConditionTrue, v1alpha1.ReasonUnsealed, "All %d nodes are unsealed", status.ReadyNodes)
	}
}

func tlsReady(f *facts, _ *v1alpha1.VaultStatus) metav1.Condition {
	const t = v1alpha1.TLSReadyCondition
	var bad *certs.Error
	old := meta.FindStatusCondition(f.previous.Conditions, t)
	pending := !f.vault.HasStaticTLS() && (old == nil || old.Status == metav1.ConditionUnknown)
	switch {
	// One that was there and is gone may need a person: the operator makes no
	// second authority beside certificates of the first.
	case errors.As(f.tlsErr, &bad) && bad.Reason == v1alpha1.ReasonSecretNotFound && pending:
		return is(t, metav1.ConditionUnknown, v1alpha1.ReasonSecretsPending, "The operator is making the certificates")
	case errors.As(f.tlsErr, &bad):
		return is(t, metav1.ConditionFalse, bad.Reason, "%s", bad.Message)
	case f.tlsErr != nil:
		return is(t, metav1.ConditionUnknown, v1alpha1.ReasonNotObserved, "%v", f.tlsErr)
	default:
		return is(t, metav1.ConditionTrue, v1alpha1.ReasonSecretsValid, "Secrets %q and %q are valid for %s",
			f.vault.ServerSecretName(), f.vault.ClientSecretName(), f.vault.ServerName())
	}
}

func configValid(f *facts, _ *v1alpha1.VaultStatus) metav1.Condition {
	const t = v1alpha1.ConfigValidCondition
	var bad *vaultconfig.Error
	switch {
	case errors.As(f.configErr, &bad):
		return is(t, metav1.ConditionFalse, bad.Reason, "%s", bad.Message)
	case f.configErr != nil:
		return is(t, metav1.ConditionUnknown, v1alpha1.ReasonNotObserved, "%v", f.configErr)
	case f.vault.Spec.ConfigMapName == "":
		return is(t, metav1.ConditionTrue, v1alpha1.ReasonConfigAccepted, "No ConfigMap is named in spec.configMapName")
	default:
		return is(t, metav1.ConditionTrue, v1alpha1.ReasonConfigAccepted, "ConfigMap %q is used", f.vault.Spec.ConfigMapName)
	}
}

func initHint(nodes *v1alpha1.NodesStatus) string {
	return fmt.Sprintf("Vault is not initialized: run 'vault operator init' on one of %s", join(nodes.Sealed))
}

func unsealHint(sealed []string) string {
	return fmt.Sprintf("Sealed, run 'vault operator unseal' on each: %s", join(sealed))
}

// waitingHint says why containers do not run, as the kubelet tells it.
func waitingHint(f *facts) string {
	var hints []string
	for i := range f.pods {
		for _, container := range f.pods[i].Status.ContainerStatuses {
			if waiting := container.State.Waiting; waiting != nil && waiting.Reason != "" {
				hints = append(hints, f.pods[i].Name+" "+waiting.Reason)
			}
		}
	}
	if len(hints) == 0 {
		return ""
	}
	return ": " + strings.Join(hints, ", ")
}

func join(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
