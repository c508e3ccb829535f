package vaultstatus

import (
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/seal"
)

// maxKey bounds a key, and keyForm is what it may look like.
const maxKey = 4 << 10

var keyForm = regexp.MustCompile(`^[a-z]+:[A-Za-z0-9:/._-]+$`)

// sealStatus is what is known of the seal, with what was written down before where nothing
// newer is known.
func sealStatus(f *facts, initialized bool) *v1alpha1.SealStatus {
	status := v1alpha1.SealStatus{}
	if f.previous.Seal != nil {
		status = *f.previous.Seal.DeepCopy()
	}
	if !initialized {
		status.Key = "" // its data is bound to none yet
	}
	known := status
	for _, wanted := range []proof{none, fair, full} { // what comes later counts
		for i := range f.pods {
			pod := &f.pods[i]
			o := f.observations[pod.UID]
			if proofBy(&o) != wanted || !tells(&o, &known, wanted, initialized) {
				continue
			}
			status.Type = o.Seal.Type
			if key := keyOf(f, pod); wanted != none && strings.HasPrefix(key, o.Seal.Type+":") {
				status.Key = key
			}
		}
	}
	// That of another seal, which somebody has moved the data to.
	if status.Type == v1alpha1.ShamirSeal || !strings.HasPrefix(status.Key, status.Type+":") {
		status.Key = ""
	}
	status.Healthy = sealHealth(f)
	if status == (v1alpha1.SealStatus{}) {
		return nil
	}
	return &status
}

// tells says that what a node says of its seal counts beside what is known.
func tells(o *probe.Observation, known *v1alpha1.SealStatus, proven proof, initialized bool) bool {
	switch {
	case o.Seal.Type == "":
		return false
	case proven == none:
		return !o.Seal.Migration && (!initialized || known.Type == "")
	case proven == fair:
		return known.Type == "" || known.Type == o.Seal.Type && known.Key == ""
	}
	return true
}

// proof is how far a node proves that Vault's data is of its seal.
type proof int

const (
	none proof = iota
	// fair is that of a standby node, which may have been unsealed before the data was moved
	// to another seal. It does not stand against what is known.
	fair
	// full is that of an active node: had it another seal, it would have moved the data.
	full
)

func proofBy(o *probe.Observation) proof {
	switch {
	case o.State == probe.Active:
		return full
	case o.State == probe.Standby && !o.Seal.Migration:
		return fair
	default:
		return none
	}
}

// keyOf is the key of spec.seal that a pod was made with, or empty. Its annotation says
// which, and is believed only when the spec, be it as the seal that the data is moved from, or
// the pod template that is deployed has the same: whoever may annotate a pod could else bind
// Vault to a key that there never was.
func keyOf(f *facts, pod *corev1.Pod) string {
	key := pod.Annotations[v1alpha1.SealAnnotation]
	ours := key == f.vault.Spec.Seal.Key() || key == f.vault.OldSeal().Key() ||
		f.workload != nil && key == f.workload.Template.Annotations[v1alpha1.SealAnnotation]
	if !ours || len(key) > maxKey || !keyForm.MatchString(key) {
		return ""
	}
	return key
}

// sealHealth is what Vault says of the key service, or nil.
func sealHealth(f *facts) *bool {
	failing, working := sealedByKeyService(f)
	switch {
	case len(failing) > 0:
		return new(false)
	case working:
		return new(true)
	case f.previous.Seal != nil && sealPending(f):
		return f.previous.Seal.Healthy
	}
	return nil
}

// sealedByKeyService returns the nodes that say that the key service fails, and whether one
// says that it works. A standby node has what it found when it was unsealed, and one that
// somebody has sealed what it found before: neither tries again, so that the active node
// knows better. A sealed node that finds nothing wrong proves nothing: that is what Vault
// begins with.
func sealedByKeyService(f *facts) (failing []string, working bool) {
	var sealed []string
	activeWorks := false
	for i := range f.pods {
		pod := &f.pods[i]
		o := f.observations[pod.UID]
		if !pods.Running(pod) || pods.Terminating(pod) {
			continue
		}
		state := o.State
		if o.Lost() {
			state = o.Last // that it does not respond fixes nothing
		}
		healthy := o.Seal.Health == probe.SealHealthy
		working = working || healthy && state != probe.Sealed
		activeWorks = activeWorks || healthy && o.State == probe.Active
		switch {
		case o.Seal.Health != probe.SealUnhealthy:
		case state == probe.Active:
			failing = append(failing, pod.Name)
		case state == probe.Sealed:
			sealed = append(sealed, pod.Name)
		}
	}
	if activeWorks {
		return failing, true
	}
	return append(failing, sealed...), working
}

// sealPending says that seals have not been read yet, as a moment after the operator has
// started.
func sealPending(f *facts) bool {
	return slices.ContainsFunc(f.pods, func(pod corev1.Pod) bool {
		o := f.observations[pod.UID]
		return pods.Running(&pod) && o.State.Responded() && !o.Seal.Read
	})
}

// autoUnseals says that the nodes of the Vault unseal themselves.
func autoUnseals(f *facts, status *v1alpha1.VaultStatus) bool {
	return f.vault.Spec.Seal != nil || status.Seal != nil && status.Seal.Type != "" &&
		status.Seal.Type != v1alpha1.ShamirSeal
}

// sealUntold says that the seal may be a key service of the user's own configuration, which
// only the nodes tell.
func sealUntold(f *facts, status *v1alpha1.VaultStatus) bool {
	spec := &f.vault.Spec
	return (status.Seal == nil || status.Seal.Type == "") && (spec.ConfigMapName != "" || spec.ConfigSecretName != "")
}

// sealReady is about the key service, once nothing is wrong with spec.seal and its Secrets.
func sealReady(f *facts, status *v1alpha1.VaultStatus) metav1.Condition {
	if wrong := problem.In(changeOfSeal(f, status)); wrong != nil {
		return refused(wrong)
	}
	if !autoUnseals(f, status) {
		if sealUntold(f, status) {
			return isUnknown(v1alpha1.ReasonNotObserved, "No node has told its seal yet, and the configuration that the "+
				"Vault names may have one%s", waitingHint(f))
		}
		return isTrue(v1alpha1.ReasonShamir, "Administrators unseal the nodes, and no key service is needed")
	}
	if reason, names := startsFailing(f); reason != "" {
		return isFalse(reason, "%s: %s. 'kubectl logs --previous' says more", sentences[reason], join(names))
	}
	failing, working := sealedByKeyService(f)
	pending, old := sealPending(f), meta.FindStatusCondition(f.previous.Conditions, v1alpha1.SealReadyCondition)
	if condition := tokenRefused(f, old); condition != nil {
		return *condition
	}
	switch {
	case len(failing) > 0:
		return isFalse(v1alpha1.ReasonKeyServiceFailing, "%s: %s. A node that is unsealed goes on for as long as it is "+
			"not restarted; 'kubectl logs' says why the key service fails", sentences[v1alpha1.ReasonKeyServiceFailing],
			join(failing))
	case pending && old != nil && ofKeyService(old):
		return *old
	case working:
		kind := status.Seal.Type
		if kind == v1alpha1.ShamirSeal { // the data is still to be moved to the key service
			kind = f.vault.Spec.Seal.Type()
		}
		return keyServiceWorks(f, "The key service "+kind+" worked when Vault used it last")
	case status.ReadyNodes > 0 && !pending:
		// As a Vault does that is too old to tell.
		return keyServiceWorks(f, "Nodes are unsealed, and none tells whether the key service works")
	case len(status.VaultStatus.Sealed) > 0:
		return isUnknown(v1alpha1.ReasonNotObserved, "Sealed nodes have just started, were sealed by somebody, or cannot "+
			"use the key, as 'kubectl logs' says: %s", join(status.VaultStatus.Sealed))
	default:
		return isUnknown(v1alpha1.ReasonNotObserved, "No node has told yet whether it can use the key service%s",
			waitingHint(f))
	}
}

// anotherToken is what helps before a token ends, and after that.
const anotherToken = "Put another one into a new Secret and name that in spec.seal.transit.credentialsSecretName"

// tokenSecret is the name of the Secret with the token of the key service.
func tokenSecret(f *facts) string { return f.vault.Spec.Seal.CredentialsSecretName() }

// tokenRefused is the condition SealReady when the token of the key service decides it, or
// did before the operator has started a moment ago; else nil.
func tokenRefused(f *facts, old *metav1.Condition) *metav1.Condition {
	switch {
	case !f.tokenLooked && old != nil && ofToken(old):
		return old
	case f.token.Refused:
		return new(isFalse(v1alpha1.ReasonCredentialsRefused, "The key service does not know the token of Secret %q (any "+
			"more): nodes that start cannot unseal themselves. %s", tokenSecret(f), anotherToken))
	}
	return nil
}

// keyServiceWorks is the condition SealReady while the key service works, which may not be
// for long.
func keyServiceWorks(f *facts, works string) metav1.Condition {
	token := &f.token
	switch {
	case !token.Near.IsZero():
		return isTrue(v1alpha1.ReasonTokenExpiring, "The token of Secret %q ends at %s, and nodes that start after that "+
			"cannot unseal themselves. %s", tokenSecret(f), token.Near.Format(time.RFC3339), anotherToken)
	case token.Ends && !token.End.IsZero():
		return isTrue(v1alpha1.ReasonTokenNotRenewable, "The token of Secret %q ends at %s, however often it is "+
			"renewed: a periodic one does not", tokenSecret(f), token.End.Format(time.RFC3339))
	case token.Ends:
		return isTrue(v1alpha1.ReasonTokenNotRenewable, "The token of Secret %q cannot be renewed for ever: a "+
			"periodic one can", tokenSecret(f))
	}
	return isTrue(v1alpha1.ReasonKeyServiceWorks, "%s", works)
}

// ofToken says that a condition SealReady may be about the token of the key service.
func ofToken(condition *metav1.Condition) bool {
	return slices.Contains([]string{v1alpha1.ReasonTokenExpiring, v1alpha1.ReasonTokenNotRenewable,
		v1alpha1.ReasonCredentialsRefused}, condition.Reason)
}

// measureToken sets the metrics about the token of the key service.
func measureToken(f *facts) {
	labels := []string{f.vault.Namespace, f.vault.Name}
	token := &f.token
	if token.Expires.IsZero() {
		tokenExpiry.DeleteLabelValues(labels...)
	} else {
		tokenExpiry.WithLabelValues(labels...).Set(float64(token.Expires.Unix()))
	}
	switch {
	case !token.Known:
		tokenHealthy.DeleteLabelValues(labels...)
	case token.Refused || !token.Near.IsZero():
		tokenHealthy.WithLabelValues(labels...).Set(0)
	default:
		tokenHealthy.WithLabelValues(labels...).Set(1)
	}
}

// ofKeyService says that a condition SealReady is of the key service, and not of what has
// passed: a mistake in the spec or a Secret, or that administrators unseal the nodes.
func ofKeyService(condition *metav1.Condition) bool {
	return condition.Reason != v1alpha1.ReasonShamir && !slices.Contains(seal.Stalls, condition.Reason)
}

// changeOfSeal is why the seal of the spec is refused, or nil.
func changeOfSeal(f *facts, status *v1alpha1.VaultStatus) error {
	_, err := seal.ProgressOf(f.vault, status.Initialized, status.Seal)
	return err
}

// sentences say what the reasons for which nodes cannot use a key service mean.
var sentences = map[string]string{
	v1alpha1.ReasonKeyServiceUnavailable: "The key service cannot be reached, or does not serve (a transit Vault may " +
		"be sealed), for nodes that start",
	v1alpha1.ReasonKeyServiceUnverified: "The certificate of the key service cannot be verified by nodes that start",
	v1alpha1.ReasonCredentialsRefused: "The key service refuses the credentials of nodes that start, or does not " +
		"let them use the key",
	v1alpha1.ReasonKeyNotUsable:      "The key service does not have the key of nodes that start, or has disabled it",
	v1alpha1.ReasonKeyServiceFailing: "Nodes cannot use the key service",
}

// startsFailing returns why nodes end when they start, by what they said last, and which: the
// first reason in the order of the pods' names.
func startsFailing(f *facts) (reason string, names []string) {
	for i := range f.pods {
		pod := &f.pods[i]
		if pods.Terminating(pod) || pods.Ended(pod) || pods.Running(pod) && f.observations[pod.UID].State.Responded() {
			continue
		}
		for j := range pod.Status.ContainerStatuses {
			container := &pod.Status.ContainerStatuses[j]
			if container.Name != v1alpha1.VaultContainer {
				continue
			}
			if cause := seal.Cause(container); cause != "" && (reason == "" || cause == reason) {
				reason, names = cause, append(names, pod.Name)
			}
		}
	}
	return reason, names
}
