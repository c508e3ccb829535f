package vaultstatus

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/probe"
)

const year = 365 * 24 * time.Hour

// holding says what the Secret holds, and for how long this is known.
func (s *situation) holding(serial string, known time.Duration, notice, left time.Duration) *situation {
	s.certificates = certificates{leaf: serial, since: now.Add(-known), end: now.Add(left), expiries: certs.Expiries{
		{Name: `the server certificate in Secret "x"`, Notice: now.Add(notice), NotAfter: now.Add(left)},
	}}
	return s
}

// serves says what a pod serves, which has been made with the Secret.
func (s *situation) serves(name, secret, serial string, left time.Duration) *situation {
	s.pod(name, probe.Standby, func(pod *corev1.Pod) {
		pod.Spec.Volumes = []corev1.Volume{
			{Name: "tls", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret}}},
		}
	})
	uid := types.UID(name + "-uid")
	o := s.observations[uid]
	o.Certificate = &probe.Certificate{Serial: serial, NotAfter: now.Add(left)}
	s.observations[uid] = o
	return s
}

func TestCertificatesThatAreServed(t *testing.T) {
	const mine = "example-default-vault-server-tls"
	for name, tt := range map[string]struct {
		s         *situation
		condition string
		mentions  []string
		next      time.Duration
	}{
		"served": {
			newSituation().holding("a", 0, year/2, year).serves("p", mine, "a", year), "True SecretsValid", []string{mine},
			longestWait,
		},
		"nobody answers yet": {
			newSituation().holding("a", 0, time.Hour, year).pod("p", probe.Unreachable), "True SecretsValid", nil,
			time.Hour + time.Second,
		},
		"just renewed": {
			newSituation().holding("b", time.Minute, year/2, year).serves("p", mine, "a", time.Hour).
				serves("q", mine, "b", year),
			"Unknown CertificatePending", []string{mine, ": p"}, 2*time.Minute + time.Second,
		},
		"not taken up": {
			newSituation().holding("b", serveWithin, year/2, year).serves("p", mine, "a", time.Hour).
				serves("q", mine, "b", year),
			"False CertificateNotServed", []string{mine, ": p."}, time.Hour + time.Second,
		},
		"another Secret, for as long as the rollout takes": {
			newSituation().holding("b", year, year/2, year).serves("p", "before", "a", time.Hour),
			"Unknown CertificatePending", []string{"Updated", ": p"}, time.Hour + time.Second,
		},
		"another Secret with the same certificate": {
			newSituation().holding("b", year, year/2, year).serves("p", "before", "b", year), "True SecretsValid", nil,
			longestWait,
		},
		"expired while it was served": {
			newSituation().holding("b", 0, year/2, year).serves("p", mine, "a", -time.Hour), "False CertificateExpired",
			[]string{": p."}, longestWait,
		},
		"about to expire": {
			newSituation().holding("a", year, -time.Hour, time.Hour).serves("p", mine, "a", time.Hour),
			"True CertificateExpiring", []string{`Secret "x"`, "expires at 2025-11-24T13:00:00Z"}, time.Hour + time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			conditions := compute(&tt.s.facts).Conditions
			if got := brief(conditions, v1alpha1.TLSReadyCondition); got != tt.condition {
				t.Errorf("TLSReady is %q, want %q", got, tt.condition)
			}
			message := meta.FindStatusCondition(conditions, v1alpha1.TLSReadyCondition).Message
			for _, want := range tt.mentions {
				if !strings.Contains(message, want) {
					t.Errorf("message %q does not contain %q", message, want)
				}
			}
			if next := tt.s.nextCheck(&v1alpha1.VaultStatus{}); next != tt.next {
				t.Errorf("looks again after %s, want %s", next, tt.next)
			}
			// Nothing may be written at each look.
			tt.s.now = tt.s.now.Add(time.Second)
			if again := meta.FindStatusCondition(compute(&tt.s.facts).Conditions, v1alpha1.TLSReadyCondition).
				Message; again != message {
				t.Errorf("a second later the message is %q, was %q", again, message)
			}
		})
	}
}

func TestStatusTellsTheCertificate(t *testing.T) {
	s := newSituation().holding("a", 0, year/2, year).serves("p", "x", "a", year).pod("q", probe.Unreachable)
	nodes := compute(&s.facts).NodeStatuses
	if c := nodes[0].Certificate; c == nil || c.Serial != "a" || !c.NotAfter.Time.Equal(now.Add(year)) {
		t.Errorf("the certificate of p is %+v", c)
	}
	if c := nodes[1].Certificate; c != nil {
		t.Errorf("the certificate of q, which has not answered, is %+v", c)
	}
}

func TestCertificateExpiryIsMeasured(t *testing.T) {
	for name, tt := range map[string]struct {
		s    *situation
		want time.Duration
	}{
		"that of the Secret": {
			newSituation().holding("a", 0, 0, time.Hour).serves("p", "x", "a", time.Hour), time.Hour,
		},
		"that which is served for now": {
			newSituation().holding("b", 0, 0, year).serves("p", "x", "a", time.Minute), time.Minute,
		},
		"that of the Secret is over": {newSituation().holding("b", 0, 0, -time.Hour), -time.Hour},
		"the Secret's ends before that": {
			newSituation().holding("b", 0, 0, time.Hour).serves("p", "x", "a", year), time.Hour,
		},
	} {
		measureCertificates(&tt.s.facts)
		got := testutil.ToFloat64(certificateExpiry.WithLabelValues("default", "example"))
		if want := float64(now.Add(tt.want).Unix()); got != want {
			t.Errorf("%s: %f, want %f", name, got, want)
		}
	}
}

func TestRenewals(t *testing.T) {
	var r renewals
	for i, tt := range []struct {
		vault, serial string
		want          int
	}{{"a", "1", 0}, {"a", "1", 0}, {"b", "1", 2}, {"a", "2", 3}, {"a", "2", 3}, {"a", "1", 5}} {
		got := r.since(types.UID(tt.vault), tt.serial, now.Add(time.Duration(i)*time.Hour))
		if !got.Equal(now.Add(time.Duration(tt.want) * time.Hour)) {
			t.Errorf("call %d: since %s", i, got)
		}
	}
	r.forget("a")
	if got := r.since("a", "1", now.Add(year)); !got.Equal(now.Add(year)) {
		t.Errorf("after it was forgotten: since %s", got)
	}
}

func TestCertificateEvents(t *testing.T) {
	condition := func(status metav1.ConditionStatus, reason string) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.TLSReadyCondition, Status: status, Reason: reason, Message: reason}}
	}
	valid := condition(metav1.ConditionTrue, v1alpha1.ReasonSecretsValid)
	expiring := condition(metav1.ConditionTrue, v1alpha1.ReasonCertificateExpiring)
	pending := condition(metav1.ConditionUnknown, v1alpha1.ReasonCertificatePending)
	late := condition(metav1.ConditionFalse, v1alpha1.ReasonCertificateNotServed)
	for name, tt := range map[string]struct {
		before, after []metav1.Condition
		want          string
	}{
		"it is about to expire":  {valid, expiring, corev1.EventTypeWarning},
		"it still is":            {expiring, expiring, ""},
		"it is renewed":          {expiring, valid, corev1.EventTypeNormal},
		"it is being taken up":   {valid, pending, ""},
		"it was taken up":        {pending, valid, ""},
		"it was not":             {pending, late, corev1.EventTypeWarning},
		"it was, in the end":     {late, valid, corev1.EventTypeNormal},
		"from the start like so": {nil, expiring, corev1.EventTypeWarning},
	} {
		events := conditionEvents(tt.before, tt.after)
		if got := len(events); (got == 1) != (tt.want != "") || got == 1 && events[0].kind != tt.want {
			t.Errorf("%s: events %v, want %q", name, events, tt.want)
		}
	}
}
