package vaultstatus

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
)

const (
	// serveWithin is how long it may take until the nodes are seen to serve a renewed
	// certificate: two minutes until the kubelet and Vault have taken it up, and one
	// until the operator connects anew.
	serveWithin = 3 * time.Minute
	// longestWait is the longest time until certificates are looked at again. Their
	// end may be years away, and clocks are set.
	longestWait = 24 * time.Hour
	// tlsVolume is the name of the pods' volume with the server certificate.
	tlsVolume = "tls"
)

// certificates is what is known of the certificates of a Vault.
type certificates struct {
	// leaf is the serial number of the certificate that the nodes have to serve, and
	// since is when this replica first saw it.
	leaf  string
	since time.Time
	// expiries are those of what the Secrets hold.
	expiries certs.Expiries
	// end is the first end of what the Secrets hold, be it over; zero if not known.
	end time.Time
}

// renewals remembers for each Vault since when its Secret holds a certificate.
type renewals struct{ entries sync.Map } // types.UID to renewal

type renewal struct {
	serial string
	since  time.Time
}

func (r *renewals) since(vault types.UID, serial string, now time.Time) time.Time {
	if last, ok := r.entries.Load(vault); ok && last.(renewal).serial == serial {
		return last.(renewal).since
	}
	r.entries.Store(vault, renewal{serial, now})
	return now
}

func (r *renewals) forget(vault types.UID) { r.entries.Delete(vault) }

// certificates reads what the Secrets hold. The error is why that cannot be used.
func (r *Reconciler) certificates(ctx context.Context, vault *v1alpha1.Vault, now time.Time) (certificates, error) {
	held, err := r.Inputs.Certificates(ctx, vault)
	if err != nil {
		return certificates{}, err
	}
	c := certificates{leaf: probe.CertificateOf(held.Leaf).Serial, end: held.Leaf.NotAfter}
	c.since = r.renewals.since(vault.UID, c.leaf, now)
	if c.expiries, err = held.Check(now); err == nil {
		c.end = c.expiries.First()
	}
	return c, err
}

// servedCertificates sorts the pods that serve another certificate than their Secret holds.
type servedCertificates struct {
	// expired serve one that is over.
	expired []string
	// late have not taken up the Secret's.
	late []string
	// replaced mount another Secret: they are of an older pod template.
	replaced []string
	// next is when one of the certificates that are served ends; zero if none does.
	next time.Time
	// first is the earliest end of all that are served.
	first time.Time
}

func servingOf(f *facts) servedCertificates {
	var s servedCertificates
	for i := range f.pods {
		pod := &f.pods[i]
		served := f.observations[pod.UID].Certificate
		if served == nil || !pods.Running(pod) || pods.Terminating(pod) || f.certificates.leaf == "" {
			continue
		}
		s.first = certs.Earlier(s.first, served.NotAfter)
		if served.NotAfter.After(f.now) {
			s.next = certs.Earlier(s.next, served.NotAfter)
		}
		switch {
		case f.now.After(served.NotAfter):
			s.expired = append(s.expired, pod.Name)
		case served.Serial == f.certificates.leaf:
		case serverSecret(pod) != f.vault.ServerSecretName():
			s.replaced = append(s.replaced, pod.Name)
		default:
			s.late = append(s.late, pod.Name)
		}
	}
	return s
}

// serverSecret is the name of the Secret that the pod serves with.
func serverSecret(pod *corev1.Pod) string {
	for _, volume := range pod.Spec.Volumes {
		if volume.Name == tlsVolume && volume.Secret != nil {
			return volume.Secret.SecretName
		}
	}
	return ""
}

// tlsValid is the condition TLSReady when what the Secrets hold is valid.
func tlsValid(f *facts) metav1.Condition {
	secret := f.vault.ServerSecretName()
	s := servingOf(f)
	unverifiedPod, reason := unverified(f)
	due := f.certificates.expiries.Due(f.now)
	switch {
	case len(s.expired) > 0:
		return isFalse(v1alpha1.ReasonCertificateExpired, "Pods serve a certificate that has expired: %s. "+
			"Secret %q holds a valid one; a pod that does not take it up has to be replaced", join(s.expired), secret)
	case unverifiedPod != "":
		return isFalse(v1alpha1.ReasonNodesUnverified, "Pod %s cannot be verified: %s", unverifiedPod, reason)
	case len(s.late) > 0 && f.now.Sub(f.certificates.since) >= serveWithin:
		return isFalse(v1alpha1.ReasonCertificateNotServed, "Pods do not serve the certificate that Secret %q holds: %s. "+
			"'kubectl logs' says why; a pod that does not take it up has to be replaced", secret, join(s.late))
	case len(s.late) > 0:
		return isUnknown(v1alpha1.ReasonCertificatePending,
			"Pods are taking up the certificate that Secret %q holds: %s", secret, join(s.late))
	case len(s.replaced) > 0:
		return isUnknown(v1alpha1.ReasonCertificatePending,
			"Pods serve the certificate of another Secret than %q until they are replaced, see the condition %s: %s",
			secret, v1alpha1.UpdatedCondition, join(s.replaced))
	case due != nil:
		return isTrue(v1alpha1.ReasonCertificateExpiring, "Renew it: %s expires at %s",
			due.Name, due.NotAfter.UTC().Format(time.RFC3339))
	default:
		return isTrue(v1alpha1.ReasonSecretsValid, "Secrets %q and %q are valid for %s",
			secret, f.vault.ClientSecretName(), f.vault.ServerName())
	}
}

// nextCertificateCheck is how long to wait until time alone changes what is told of
// the certificates; zero if never.
func nextCertificateCheck(f *facts) time.Duration {
	s := servingOf(f)
	next := certs.Earlier(f.certificates.expiries.Next(f.now), s.next)
	if deadline := f.certificates.since.Add(serveWithin); len(s.late) > 0 && deadline.After(f.now) {
		next = certs.Earlier(next, deadline)
	}
	if next.IsZero() {
		return 0
	}
	return min(next.Sub(f.now)+time.Second, longestWait)
}

// certificateStatus is what is told of the certificate of a node.
func certificateStatus(served *probe.Certificate) *v1alpha1.NodeCertificate {
	if served == nil {
		return nil
	}
	return &v1alpha1.NodeCertificate{Serial: served.Serial, NotAfter: metav1.NewTime(served.NotAfter)}
}

// measureCertificates sets the metric to the first end of what is served, or is to be.
func measureCertificates(f *facts) {
	labels := []string{f.vault.Namespace, f.vault.Name}
	if first := certs.Earlier(servingOf(f).first, f.certificates.end); !first.IsZero() {
		certificateExpiry.WithLabelValues(labels...).Set(float64(first.Unix()))
	}
}
