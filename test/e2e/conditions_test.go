//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// awaitCondition waits until a condition has a status, the reason if one is given, and
// mentions all the texts.
func awaitCondition(t *testing.T, v vaulttest.Vault, timeout time.Duration,
	conditionType string, status metav1.ConditionStatus, reason string, texts ...string) {
	t.Helper()
	what := fmt.Sprintf("%s of %s is %s for %q and mentions %q", conditionType, v.Name, status, reason, texts)
	shell.Eventually(t, what, timeout, func() error {
		s, err := v.Status()
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(s.Conditions, conditionType)
		if c == nil || c.Status != status || reason != "" && c.Reason != reason {
			return fmt.Errorf("it is %+v", c)
		}
		for _, text := range texts {
			if !strings.Contains(c.Message, text) {
				return fmt.Errorf("it is %+v", c)
			}
		}
		return nil
	})
}

// awaitEvent waits for an event of a Vault since a moment that mentions the text.
func awaitEvent(t *testing.T, v vaulttest.Vault, reason, text string, since time.Time) {
	t.Helper()
	shell.Eventually(t, fmt.Sprintf("an event %s of %s mentions %q", reason, v.Name, text), 20*time.Second, func() error {
		return findEvent(v, reason, text, since)
	})
}

// findEvent returns an error when there is no such event.
func findEvent(v vaulttest.Vault, reason, text string, since time.Time) error {
	which := client.MatchingFields{"reason": reason, "involvedObject.name": v.Name}
	var events corev1.EventList
	if err := vaulttest.List(v.Namespace, &events, which); err != nil {
		return err
	}
	var others []string
	for _, e := range events.Items {
		// An event says no more than the second.
		if !e.LastTimestamp.Time.Before(since.Truncate(time.Second)) && strings.Contains(e.Message, text) {
			return nil
		}
		others = append(others, e.LastTimestamp.String()+" "+e.Message)
	}
	return fmt.Errorf("events: %q", others)
}

// awaitReported waits for a condition, and for its event when it is bad.
func awaitReported(t *testing.T, v vaulttest.Vault,
	conditionType string, status metav1.ConditionStatus, reason, text string) {
	t.Helper()
	awaitCondition(t, v, time.Minute, conditionType, status, reason, text)
	if status == metav1.ConditionFalse && text != "" {
		awaitEvent(t, v, reason, text, time.Time{})
	}
}

// awaitMention waits until a condition or an event of the Vault, the only one in its
// namespace, mentions the text.
func awaitMention(t *testing.T, v vaulttest.Vault, text string) {
	t.Helper()
	shell.Eventually(t, "the status or an event mentions "+text, time.Minute, func() error {
		said, err := shell.Try(v.Kubectl("get vault,events -o yaml"))
		if err == nil && !strings.Contains(said, text) {
			err = fmt.Errorf("they say %s", said)
		}
		return err
	})
}
