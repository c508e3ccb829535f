package vaultstatus

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/seal"
	"github.com/vault-operator/vault-operator/internal/workload"
)

const exampleKey = "transit:transit/keys/example"

// sealed says that the Vault has spec.seal.
func (s *situation) sealed() *situation {
	s.vault.Spec.Seal = &v1alpha1.SealPolicy{Transit: &v1alpha1.TransitSeal{Address: "https://root:8200",
		KeyName: "example", CredentialsSecretName: "token"}}
	return s
}

// says is what the last pod that was added says of its seal.
func (s *situation) says(kind string, health probe.SealHealth) *situation {
	uid := s.pods[len(s.pods)-1].UID
	o := s.observations[uid]
	o.Seal = probe.Seal{Read: true, Type: kind, Health: health}
	s.observations[uid] = o
	return s
}

// wasActive says that the last pod that was added was active when it responded last.
func (s *situation) wasActive() *situation {
	uid := s.pods[len(s.pods)-1].UID
	o := s.observations[uid]
	o.Last = probe.Active
	s.observations[uid] = o
	return s
}

func keyed(key string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Annotations = map[string]string{v1alpha1.SealAnnotation: key} }
}

// deployed says that the pod template that is deployed has the key.
func (s *situation) deployed(key string) *situation {
	s.workload = workload.Of(&appsv1.Deployment{})
	s.workload.Template.Annotations = map[string]string{v1alpha1.SealAnnotation: key}
	return s
}

// refusing says that something is wrong with spec.seal or its Secrets.
func (s *situation) refusing(reason string) *situation {
	s.inputs = map[string]error{v1alpha1.SealReadyCondition: problem.New(v1alpha1.SealReadyCondition, reason,
		`Secret "token" does not exist`)}
	return s
}

// endedSaying is a pod whose container has said something last.
func endedSaying(message string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		notRunning(pod)
		pod.Status.ContainerStatuses[0].LastTerminationState.Terminated = &corev1.ContainerStateTerminated{ExitCode: 1,
			Message: message}
	}
}

const (
	transitSealed = "error parsing Seal configuration: Error making API request.\n\nCode: 503. Errors:\n\n* Vault is " +
		"sealed"
	transitDenied = "error parsing Seal configuration: Error making API request.\n\nCode: 403. Errors:\n\n* permission " +
		"denied hvs.MARKER"
)

func TestSealReady(t *testing.T) {
	wasReady := func(s *v1alpha1.VaultStatus) {
		s.Initialized = true
		s.Seal = &v1alpha1.SealStatus{Type: "transit", Key: exampleKey, Healthy: new(true)}
		s.Conditions = []metav1.Condition{{Type: v1alpha1.SealReadyCondition, Status: metav1.ConditionTrue,
			Reason: v1alpha1.ReasonKeyServiceWorks, Message: "before"}}
	}
	was := func(status metav1.ConditionStatus, reason string) func(*v1alpha1.VaultStatus) {
		return func(s *v1alpha1.VaultStatus) {
			wasReady(s)
			s.Conditions[0].Status, s.Conditions[0].Reason = status, reason
		}
	}
	restarted := func(pod *corev1.Pod) {
		endedSaying(transitSealed)(pod)
		pod.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	}
	for name, tt := range map[string]struct {
		facts    *situation
		want     string
		says     string
		healthy  *bool
		unsealed string
	}{
		"nothing is known": {facts: newSituation(), want: "True Shamir"},
		"Shamir": {facts: newSituation().pod("a", probe.Sealed).says("shamir", 0), want: "True Shamir",
			unsealed: "False AwaitingUnseal"},
		"nodes start": {facts: newSituation().sealed().pod("a", probe.Unknown, notRunning),
			want: "Unknown NotObserved"},
		"not initialized": {facts: newSituation().sealed().pod("a", probe.Uninitialized).says("transit",
			probe.SealHealthy), want: "True KeyServiceWorks", healthy: new(true), unsealed: "False AwaitingInit"},
		"active": {facts: newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealHealthy),
			want: "True KeyServiceWorks", says: "transit", healthy: new(true)},
		"active, and it is away": {facts: newSituation().sealed().pod("a", probe.Active).says("transit",
			probe.SealUnhealthy), want: "False KeyServiceFailing", says: ": a.", healthy: new(false)},
		"a standby was active while it was away": {
			facts: newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealHealthy).pod("b",
				probe.Standby).says("transit", probe.SealUnhealthy),
			want: "True KeyServiceWorks", healthy: new(true), unsealed: "True Unsealed",
		},
		"sealed, and it does not decrypt": {
			facts: newSituation().sealed().pod("a", probe.Sealed).says("transit", probe.SealUnhealthy),
			want:  "False KeyServiceFailing", healthy: new(false), unsealed: "False AwaitingAutoUnseal",
		},
		// Or its key is disabled: Vault begins with a key service that is well.
		"sealed by somebody": {
			facts: newSituation().sealed().pod("a", probe.Sealed).says("transit", probe.SealHealthy),
			want:  "Unknown NotObserved", says: "cannot use the key", unsealed: "False AwaitingAutoUnseal",
		},
		"sealed by somebody while it was away": {
			facts: newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealHealthy).pod("b",
				probe.Sealed).says("transit", probe.SealUnhealthy),
			want: "True KeyServiceWorks", healthy: new(true), unsealed: "False AwaitingAutoUnseal",
		},
		"sealed by somebody while it was away, and a standby knows no better": {
			facts: newSituation().sealed().pod("a", probe.Standby).says("transit", probe.SealHealthy).pod("b",
				probe.Sealed).says("transit", probe.SealUnhealthy),
			want: "False KeyServiceFailing", says: ": b.", healthy: new(false), unsealed: "False AwaitingAutoUnseal",
		},
		"sealed, and the active node that could use it does not respond": {
			facts: newSituation().sealed().pod("a", probe.Unreachable).says("transit", probe.SealHealthy).wasActive().
				pod("b", probe.Sealed).says("transit", probe.SealUnhealthy),
			want: "False KeyServiceFailing", says: ": b.", healthy: new(false),
		},
		"a node cannot start, the transit Vault is sealed": {
			facts: newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealHealthy).pod("b", probe.Unknown,
				endedSaying(transitSealed)),
			want: "False KeyServiceUnavailable", says: ": b.", healthy: new(true),
		},
		"a node cannot start, the token is refused": {
			facts: newSituation().sealed().pod("a", probe.Unknown, endedSaying(transitDenied)).pod("b", probe.Unknown,
				endedSaying(transitDenied)),
			want: "False CredentialsRefused", says: ": a, b.",
		},
		"the container runs again, and has not answered yet": {
			facts: newSituation().sealed().pod("a", probe.Unreachable, restarted, justStarted),
			want:  "False KeyServiceUnavailable",
		},
		"the container runs again, and has answered": {
			facts: newSituation().sealed().pod("a", probe.Active, restarted, serving).says("transit", probe.SealHealthy),
			want:  "True KeyServiceWorks", healthy: new(true),
		},
		"the container has run for weeks, and does not answer": {
			facts: newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealHealthy).pod("b",
				probe.Unreachable, restarted, func(pod *corev1.Pod) { pod.Status.ContainerStatuses[0].Started = new(true) }),
			want: "True KeyServiceWorks", healthy: new(true),
		},
		"it has failed for something else": {
			facts: newSituation().sealed().pod("a", probe.Unknown, endedSaying("Error initializing core")),
			want:  "Unknown NotObserved",
		},
		"the operator has just started": {
			facts: newSituation().sealed().before(wasReady).pod("a", probe.Active, keyed(exampleKey)),
			want:  "True KeyServiceWorks", says: "before", healthy: new(true),
		},
		"the operator has just started, and it failed": {
			facts: newSituation().sealed().before(was(metav1.ConditionFalse, v1alpha1.ReasonKeyServiceUnavailable)).
				pod("a", probe.Active),
			want: "False KeyServiceUnavailable", healthy: new(true),
		},
		"a Secret is there again, and the seal is not read yet": {
			facts: newSituation().sealed().before(was(metav1.ConditionFalse, v1alpha1.ReasonSecretNotFound)).
				pod("a", probe.Active),
			want: "Unknown NotObserved", healthy: new(true),
		},
		"the spec is set back, and the seal is not read yet": {
			facts: newSituation().sealed().before(was(metav1.ConditionFalse, v1alpha1.ReasonSealChangeRefused)).
				pod("a", probe.Active),
			want: "Unknown NotObserved", healthy: new(true),
		},
		"administrators unsealed it, and the seal is not read yet": {
			facts: newSituation().sealed().before(was(metav1.ConditionTrue, v1alpha1.ReasonShamir)).
				pod("a", probe.Uninitialized),
			want: "Unknown NotObserved", healthy: new(true),
		},
		"a Secret is there again, and a node tells": {
			facts: newSituation().sealed().before(was(metav1.ConditionFalse, v1alpha1.ReasonSecretNotFound)).
				pod("a", probe.Active).says("transit", probe.SealHealthy).pod("b", probe.Standby),
			want: "True KeyServiceWorks", healthy: new(true),
		},
		"a Vault too old to tell": {
			facts: newSituation().sealed().before(wasReady).pod("a", probe.Active, keyed(exampleKey)).says("", 0),
			want:  "True KeyServiceWorks", says: "none tells",
		},
		"the active node does not respond, and it is away": {
			facts: newSituation().sealed().pod("a", probe.Unreachable).says("transit", probe.SealUnhealthy).wasActive().
				pod("b", probe.Standby).says("transit", probe.SealHealthy),
			want: "False KeyServiceFailing", healthy: new(false),
		},
		"the seal is in the user's configuration": {
			facts: newSituation().pod("a", probe.Sealed).says("awskms", probe.SealUnhealthy), want: "False KeyServiceFailing",
			healthy: new(false), unsealed: "False AwaitingAutoUnseal",
		},
	} {
		t.Run(name, func(t *testing.T) {
			status := compute(&tt.facts.facts)
			if got := brief(status.Conditions, v1alpha1.SealReadyCondition); got != tt.want {
				t.Errorf("SealReady is %s, want %s", got, tt.want)
			}
			condition := meta.FindStatusCondition(status.Conditions, v1alpha1.SealReadyCondition)
			if !strings.Contains(condition.Message, tt.says) {
				t.Errorf("message %q, want one with %q", condition.Message, tt.says)
			}
			if tt.unsealed != "" && brief(status.Conditions, v1alpha1.UnsealedCondition) != tt.unsealed {
				t.Errorf("Unsealed is %s, want %s", brief(status.Conditions, v1alpha1.UnsealedCondition), tt.unsealed)
			}
			var healthy *bool
			if status.Seal != nil {
				healthy = status.Seal.Healthy
			}
			if !reflect.DeepEqual(healthy, tt.healthy) {
				t.Errorf("healthy is %v, want %v", healthy, tt.healthy)
			}
			text := fmt.Sprintf("%+v", status)
			if strings.Contains(text, "MARKER") {
				t.Errorf("the status quotes what a container said: %s", text)
			}
			if autoUnseals(&tt.facts.facts, &status) && strings.Contains(text, "vault operator unseal") {
				t.Errorf("somebody is sent to a Vault that unseals itself: %s", text)
			}
			if strings.Contains(tt.unsealed, "AutoUnseal") && !strings.Contains(text, "delete its pod") {
				t.Errorf("nobody is told what to do with a node that somebody has sealed: %s", text)
			}
			if strings.Contains(tt.unsealed, "Init") && !strings.Contains(text, "-recovery-shares=5") {
				t.Errorf("nobody is told of recovery keys: %s", text)
			}
		})
	}
}

// That a token ends is told while it still works, and goes on being told by an operator that
// has just started.
func TestTokenOfTheSeal(t *testing.T) {
	soon, later := now.Add(time.Hour), now.Add(30*24*time.Hour)
	was := func(status metav1.ConditionStatus, reason string) func(*v1alpha1.VaultStatus) {
		return func(s *v1alpha1.VaultStatus) {
			s.Conditions = []metav1.Condition{{Type: v1alpha1.SealReadyCondition, Status: status, Reason: reason,
				Message: "before"}}
		}
	}
	works := func() *situation {
		return newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealHealthy)
	}
	looked := func(s *situation, token seal.Token) *situation {
		s.token, s.tokenLooked = token, true
		return s
	}
	for name, tt := range map[string]struct {
		facts *situation
		want  string
		says  []string
	}{
		"nothing was told": {looked(works(), seal.Token{}), "True KeyServiceWorks", nil},
		"it lasts": {looked(works(), seal.Token{Known: true, Expires: later}), "True KeyServiceWorks",
			[]string{"transit"}},
		"it ends soon": {looked(works(), seal.Token{Known: true, Expires: soon, Near: soon}), "True TokenExpiring",
			[]string{`"token"`, soon.UTC().Format(time.RFC3339), "new Secret"}},
		"it ends": {looked(works(), seal.Token{Known: true, Expires: later, Ends: true, End: later}),
			"True TokenNotRenewable", []string{`"token"`, later.UTC().Format(time.RFC3339), "periodic"}},
		"it ends at an unknown time": {looked(works(), seal.Token{Known: true, Expires: later, Ends: true}),
			"True TokenNotRenewable", []string{`"token"`, "periodic"}},
		"it is refused, and Vault has not tried yet": {looked(works(), seal.Token{Known: true, Refused: true}),
			"False CredentialsRefused", []string{`"token"`, "new Secret"}},
		"it is refused, and no node has started": {looked(newSituation().sealed(), seal.Token{Known: true, Refused: true}),
			"False CredentialsRefused", nil},
		"it ends soon, and the key service fails": {looked(newSituation().sealed().pod("a", probe.Active).says("transit",
			probe.SealUnhealthy), seal.Token{Known: true, Expires: soon, Near: soon}), "False KeyServiceFailing", nil},
		"no node tells whether the key service works": {looked(newSituation().sealed().pod("a", probe.Active).says("", 0),
			seal.Token{Known: true, Expires: soon, Near: soon}), "True TokenExpiring", nil},
		"the operator has just started, and it ended soon": {works().before(was(metav1.ConditionTrue,
			v1alpha1.ReasonTokenExpiring)), "True TokenExpiring", []string{"before"}},
		"the operator has just started, and it ended": {works().before(was(metav1.ConditionTrue,
			v1alpha1.ReasonTokenNotRenewable)), "True TokenNotRenewable", []string{"before"}},
		"the operator has just started, and it was refused": {works().before(was(metav1.ConditionFalse,
			v1alpha1.ReasonCredentialsRefused)), "False CredentialsRefused", []string{"before"}},
		"the operator has just started, and all was well": {works().before(was(metav1.ConditionTrue,
			v1alpha1.ReasonKeyServiceWorks)), "True KeyServiceWorks", []string{"transit"}},
		"another one was looked up": {looked(works().before(was(metav1.ConditionFalse, v1alpha1.ReasonCredentialsRefused)),
			seal.Token{Known: true, Expires: later}), "True KeyServiceWorks", nil},
	} {
		t.Run(name, func(t *testing.T) {
			status := compute(&tt.facts.facts)
			if got := brief(status.Conditions, v1alpha1.SealReadyCondition); got != tt.want {
				t.Errorf("SealReady is %s, want %s", got, tt.want)
			}
			condition := meta.FindStatusCondition(status.Conditions, v1alpha1.SealReadyCondition)
			for _, part := range tt.says {
				if !strings.Contains(condition.Message, part) {
					t.Errorf("message %q, want one with %q", condition.Message, part)
				}
			}
		})
	}
}

func TestTokenEvents(t *testing.T) {
	condition := func(status metav1.ConditionStatus, reason, message string) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.SealReadyCondition, Status: status, Reason: reason, Message: message}}
	}
	works := condition(metav1.ConditionTrue, v1alpha1.ReasonKeyServiceWorks, "works")
	expiring := condition(metav1.ConditionTrue, v1alpha1.ReasonTokenExpiring, "today")
	notRenewable := condition(metav1.ConditionTrue, v1alpha1.ReasonTokenNotRenewable, "once")
	refused := condition(metav1.ConditionFalse, v1alpha1.ReasonCredentialsRefused, "refused")
	for name, tt := range map[string]struct {
		before, after []metav1.Condition
		want          []event
	}{
		"it ends soon":      {works, expiring, []event{{"Warning", "TokenExpiring", "today"}}},
		"it goes on ending": {expiring, expiring, nil},
		"another end": {expiring, condition("True", "TokenExpiring", "tomorrow"),
			[]event{{"Warning", "TokenExpiring", "tomorrow"}}},
		"it ends some time":    {nil, notRenewable, []event{{"Warning", "TokenNotRenewable", "once"}}},
		"it ends soon after":   {notRenewable, expiring, []event{{"Warning", "TokenExpiring", "today"}}},
		"it was renewed":       {expiring, works, []event{{"Normal", "KeyServiceWorks", "works"}}},
		"it is periodic now":   {notRenewable, works, []event{{"Normal", "KeyServiceWorks", "works"}}},
		"it has ended":         {expiring, refused, []event{{"Warning", "CredentialsRefused", "refused"}}},
		"another that ends":    {refused, expiring, []event{{"Warning", "TokenExpiring", "today"}}},
		"another that lasts":   {refused, works, []event{{"Normal", "KeyServiceWorks", "works"}}},
		"nothing has happened": {works, works, nil},
	} {
		if got := conditionEvents(tt.before, tt.after); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: events %v, want %v", name, got, tt.want)
		}
	}
}

func TestTokenMetrics(t *testing.T) {
	s := newSituation().sealed()
	s.vault.Name = "token-metrics"
	t.Cleanup(func() { forgetMetrics(s.vault.Namespace, s.vault.Name) })
	count := func() int { return testutil.CollectAndCount(tokenHealthy) + testutil.CollectAndCount(tokenExpiry) }
	before := count()
	at := now.Add(time.Hour)
	for _, tt := range []struct {
		token   seal.Token
		healthy float64
		series  int
	}{
		{seal.Token{}, 0, 0},
		{seal.Token{Known: true}, 1, 1},
		{seal.Token{Known: true, Expires: at}, 1, 2},
		{seal.Token{Known: true, Expires: at, Ends: true, End: at}, 1, 2},
		{seal.Token{Known: true, Expires: at, Near: at}, 0, 2},
		{seal.Token{Known: true, Refused: true}, 0, 1},
		{seal.Token{}, 0, 0},
	} {
		s.token = tt.token
		measureToken(&s.facts)
		if got := count() - before; got != tt.series {
			t.Errorf("%+v: %d series, want %d", tt.token, got, tt.series)
			continue
		}
		labels := []string{s.vault.Namespace, s.vault.Name}
		if tt.series > 0 && testutil.ToFloat64(tokenHealthy.WithLabelValues(labels...)) != tt.healthy {
			t.Errorf("%+v: it is not %v", tt.token, tt.healthy)
		}
		if tt.series > 1 && testutil.ToFloat64(tokenExpiry.WithLabelValues(labels...)) != float64(at.Unix()) {
			t.Errorf("%+v: it ends at another time", tt.token)
		}
	}
}

// A seal of the user's own configuration is not known before a node tells it. Whether the
// Vault is ready does not depend on that.
func TestSealOfTheConfiguration(t *testing.T) {
	configMap := func(spec *v1alpha1.VaultSpec) { spec.ConfigMapName = "mine" }
	secret := func(spec *v1alpha1.VaultSpec) { spec.ConfigSecretName = "mine" }
	for name, tt := range map[string]struct {
		spec  func(*v1alpha1.VaultSpec)
		facts *situation
		want  string
	}{
		"no pods yet":      {configMap, newSituation(), "Unknown NotObserved"},
		"in a Secret":      {secret, newSituation(), "Unknown NotObserved"},
		"nodes start":      {configMap, newSituation().pod("a", probe.Unknown, notRunning), "Unknown NotObserved"},
		"nodes are silent": {configMap, newSituation().pod("a", probe.Unreachable), "Unknown NotObserved"},
		"it is not read":   {configMap, newSituation().pod("a", probe.Active), "Unknown NotObserved"},
		"it is read":       {configMap, newSituation().pod("a", probe.Active).says("shamir", 0), "True Shamir"},
		"a key service": {configMap, newSituation().pod("a", probe.Active).says("awskms", probe.SealHealthy),
			"True KeyServiceWorks"},
		"it was told":      {configMap, newSituation().before(told("shamir")).pod("a", probe.Unreachable), "True Shamir"},
		"no configuration": {func(*v1alpha1.VaultSpec) {}, newSituation().pod("a", probe.Active), "True Shamir"},
		"a key service, and no node tells": {configMap, newSituation().before(told("awskms")).pod("a", probe.Unreachable),
			"Unknown NotObserved"},
	} {
		t.Run(name, func(t *testing.T) {
			without := compute(&tt.facts.facts)
			tt.spec(&tt.facts.vault.Spec)
			status := compute(&tt.facts.facts)
			if got := brief(status.Conditions, v1alpha1.SealReadyCondition); got != tt.want {
				t.Errorf("SealReady is %s, want %s", got, tt.want)
			}
			got, want := brief(status.Conditions, v1alpha1.ReadyCondition), brief(without.Conditions, v1alpha1.ReadyCondition)
			if got != want || strings.Contains(got, v1alpha1.ReasonNotObserved) {
				t.Errorf("Ready is %s, want %s", got, want)
			}
		})
	}
}

// told says that nodes have told the type of their seal before.
func told(kind string) func(*v1alpha1.VaultStatus) {
	return func(s *v1alpha1.VaultStatus) { s.Seal = &v1alpha1.SealStatus{Type: kind} }
}

// What is wrong with a Secret or with the spec comes first.
func TestSealIsRefused(t *testing.T) {
	s := newSituation().sealed().refusing(v1alpha1.ReasonSecretNotFound).pod("a", probe.Active,
		keyed(exampleKey)).says("transit", probe.SealHealthy)
	status := compute(&s.facts)
	if got := brief(status.Conditions, v1alpha1.SealReadyCondition); got != "False SecretNotFound" {
		t.Errorf("SealReady is %s", got)
	}
	if got := brief(status.Conditions, v1alpha1.StalledCondition); got != "True SecretNotFound" {
		t.Errorf("Stalled is %s", got)
	}

	s = newSituation().sealed().deployed("transit:transit/keys/other").before(wasInitialized).pod("a", probe.Active,
		keyed("transit:transit/keys/other")).says("transit", probe.SealHealthy)
	status = compute(&s.facts)
	if got := brief(status.Conditions, v1alpha1.SealReadyCondition); got != "False SealChangeRefused" {
		t.Errorf("SealReady is %s", got)
	}

	s = newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealUnhealthy)
	status = compute(&s.facts)
	if got := brief(status.Conditions, v1alpha1.StalledCondition); got != "absent" {
		t.Errorf("Stalled is %s, and the key service comes back by itself", got)
	}
	if got := brief(status.Conditions, v1alpha1.ReadyCondition); got != "False KeyServiceFailing" {
		t.Errorf("Ready is %s", got)
	}
}

// Only a node that is unsealed proves which seal and which key Vault's data is of.
func TestSealStatus(t *testing.T) {
	was := func(kind, key string) func(*v1alpha1.VaultStatus) {
		return func(s *v1alpha1.VaultStatus) {
			s.Initialized, s.Seal = true, &v1alpha1.SealStatus{Type: kind, Key: key}
		}
	}
	long := "transit:" + strings.Repeat("x", 1<<20)
	for name, tt := range map[string]struct {
		facts *situation
		want  string
	}{
		"nothing is known": {newSituation().pod("a", probe.Unreachable), "none"},
		"not initialized": {newSituation().pod("a", probe.Uninitialized,
			keyed(exampleKey)).says("transit", 0), "transit "},
		"sealed": {newSituation().pod("a", probe.Sealed, keyed(exampleKey)).says("transit",
			0), "transit "},
		"unsealed": {newSituation().sealed().pod("a", probe.Standby, keyed(exampleKey)).says("transit",
			0), "transit " + exampleKey},
		"unsealed, and the spec has another": {newSituation().sealed().deployed("transit:x").pod("a", probe.Standby,
			keyed("transit:x")).says("transit", 0), "transit transit:x"},
		"unsealed, and what is deployed has another": {newSituation().sealed().deployed("transit:x").pod("a",
			probe.Standby, keyed(exampleKey)).says("transit", 0), "transit " + exampleKey},
		"nobody answers": {newSituation().before(was("transit", exampleKey)).pod("a",
			probe.Unreachable), "transit " + exampleKey},
		"a sealed node of another kind": {newSituation().before(was("transit", exampleKey)).pod("a", probe.Sealed,
			keyed("awskms:r/k")).says("awskms", 0), "transit " + exampleKey},
		"a sealed node with another key": {newSituation().before(was("transit", exampleKey)).pod("a", probe.Sealed,
			keyed("transit:x")).says("transit", 0), "transit " + exampleKey},
		"a seal of the user's configuration": {newSituation().pod("a", probe.Active).says("transit", 0), "transit "},
		"a forged annotation": {newSituation().before(was("transit", exampleKey)).pod("a", probe.Active,
			keyed("awskms:r/k")).says("transit", 0), "transit " + exampleKey},
		"a pod that somebody has annotated": {newSituation().pod("a", probe.Active, keyed("transit:x")).says("transit",
			0), "transit "},
		"a pod that somebody has annotated beside spec.seal": {newSituation().sealed().deployed(exampleKey).pod("a",
			probe.Active, keyed("transit:x")).says("transit", 0), "transit "},
		"a pod of Shamir's that somebody has annotated": {newSituation().deployed("shamir:x").pod("a", probe.Active,
			keyed("shamir:x")).says("shamir", 0), "shamir "},
		"what was believed of such a pod": {newSituation().before(was("shamir", "shamir:x")).pod("a",
			probe.Active).says("shamir", 0), "shamir "},
		"a very long annotation": {newSituation().deployed(long).pod("a", probe.Active, keyed(long)).says("transit",
			0), "transit "},
		"an annotation with more than a key": {newSituation().deployed("transit:x\ny").pod("a", probe.Active,
			keyed("transit:x\ny")).says("transit", 0), "transit "},
		"new data": {newSituation().before(was("transit", exampleKey)).pod("a",
			probe.Uninitialized).says("shamir", 0), "shamir "},
		"moved by somebody to another seal": {newSituation().before(was("shamir", "")).pod("a",
			probe.Active).says("awskms", 0), "awskms "},
		"moved by somebody from spec.seal": {newSituation().sealed().before(was("transit", exampleKey)).pod("a",
			probe.Active).says("awskms", 0), "awskms "},
		"from the configuration into the spec": {newSituation().sealed().before(was("transit", "")).pod("a",
			probe.Active).says("transit", 0).pod("b", probe.Standby, keyed(exampleKey)).says("transit", 0), "transit " +
			exampleKey},
		"an unsealed node and one that was not": {newSituation().pod("a", probe.Sealed).says("awskms", 0).pod("b",
			probe.Active).says("shamir", 0), "shamir "},
	} {
		t.Run(name, func(t *testing.T) {
			got := "none"
			if s := compute(&tt.facts.facts).Seal; s != nil {
				got = s.Type + " " + s.Key
			}
			if got != tt.want {
				t.Errorf("the seal is %q, want %q", got, tt.want)
			}
		})
	}
}

// A rollout of a Vault that unseals itself waits for nobody.
func TestRolloutWaitsForTheKeyService(t *testing.T) {
	s := newSituation().sealed().before(wasInitialized).
		pod("a", probe.Active, ofTemplate("old")).says("transit", probe.SealHealthy).
		pod("b", probe.Sealed, ofTemplate("new")).says("transit", probe.SealHealthy)
	s.ofRevision("new").rendered("3")
	status := compute(&s.facts)
	if got := brief(status.Conditions, v1alpha1.UpdatedCondition); got != "False AwaitingAutoUnseal" {
		t.Errorf("Updated is %s", got)
	}
}

// The metric is 0 also when only nodes that start cannot use the key service.
func TestSealMetric(t *testing.T) {
	const none = -1
	for name, tt := range map[string]struct {
		facts *situation
		kind  string
		want  float64
	}{
		"Shamir": {newSituation().pod("a", probe.Active).says("shamir", 0), "shamir", none},
		"works":  {newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealHealthy), "transit", 1},
		"fails":  {newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealUnhealthy), "transit", 0},
		"a node cannot start": {newSituation().sealed().pod("a", probe.Active).says("transit", probe.SealHealthy).
			pod("b", probe.Unknown, endedSaying(transitSealed)), "transit", 0},
		"no node can start": {newSituation().sealed().pod("a", probe.Unknown, endedSaying(transitSealed)), "transit", 0},
		"no node tells":     {newSituation().sealed().pod("a", probe.Unknown, notRunning), "transit", none},
		"a Secret is missing": {newSituation().sealed().refusing(v1alpha1.ReasonSecretNotFound).pod("a", probe.Active).
			says("transit", probe.SealHealthy), "transit", 1},
		"in the configuration": {newSituation().pod("a", probe.Active).says("awskms", probe.SealHealthy), "awskms", 1},
	} {
		t.Run(name, func(t *testing.T) {
			vault := *tt.facts.vault
			vault.Name = t.Name() // other tests measure as well
			status := compute(&tt.facts.facts)
			measure(&vault, &status)
			defer forgetMetrics(vault.Namespace, vault.Name)
			got := float64(none)
			if _, healthy := keyService(&vault, &status); healthy != nil {
				got = testutil.ToFloat64(sealHealthy.WithLabelValues(vault.Namespace, vault.Name, tt.kind))
			}
			if got != tt.want {
				t.Errorf("the metric is %v, want %v", got, tt.want)
			}
		})
	}
}
