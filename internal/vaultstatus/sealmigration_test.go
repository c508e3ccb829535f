package vaultstatus

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
)

const otherKey = "transit:transit/keys/other"

// migratingTo is a rollout from one seal to another; an empty key is that of Shamir's keys.
func migratingTo(to, from string) *situation {
	policy := func(key string) *v1alpha1.TransitSeal {
		if key == "" {
			return nil
		}
		return &v1alpha1.TransitSeal{Address: "https://root:8200", KeyName: strings.TrimPrefix(key, "transit:transit/keys/"),
			CredentialsSecretName: "token"}
	}
	s := rollingOut()
	s.vault.Spec.SealMigration = &v1alpha1.SealMigrationPolicy{From: v1alpha1.OldSeal{Transit: policy(from)}}
	if from == "" {
		s.vault.Spec.SealMigration.From.Shamir = &v1alpha1.ShamirKeys{}
	}
	if to != "" {
		s.vault.Spec.Seal = &v1alpha1.SealPolicy{Transit: policy(to)}
		s.workload.Template.Annotations = map[string]string{v1alpha1.SealAnnotation: to}
	}
	has := v1alpha1.SealStatus{Type: v1alpha1.ShamirSeal}
	if from != "" {
		has = v1alpha1.SealStatus{Type: v1alpha1.TransitSealType, Key: from}
	}
	return s.before(func(status *v1alpha1.VaultStatus) { status.Seal = &has })
}

// migrating says that the last pod that was added says that Vault's data is still to be moved.
func (s *situation) migrating() *situation {
	uid := s.pods[len(s.pods)-1].UID
	o := s.observations[uid]
	o.Seal.Migration = true
	s.observations[uid] = o
	return s
}

// onRaft says that the Vault has integrated storage.
func (s *situation) onRaft() *situation {
	s.vault.Spec.Storage.Raft = &v1alpha1.RaftStorage{}
	return s
}

func TestSealMigrated(t *testing.T) {
	oldTemplate, newTemplate := ofTemplate("old"), ofTemplate("new")
	of := func(key string) func(*corev1.Pod) {
		return func(pod *corev1.Pod) {
			if key != "" {
				keyed(key)(pod)
			}
		}
	}
	for name, tt := range map[string]struct {
		facts *situation
		// seal is what the data is bound to afterwards.
		seal, want string
		// says is in the message, and unsealed and updated are these conditions.
		says, unsealed, updated string
	}{
		"it is not deployed yet": {
			facts: migratingTo(exampleKey, "").rendered("2").pod("a", probe.Active, oldTemplate).says("shamir", 0),
			seal:  "shamir ", want: "False Migrating", updated: "False ReleasePending",
		},
		"the first node waits": {
			facts: migratingTo(exampleKey, "").pod("a", probe.Active, oldTemplate).says("shamir", 0).
				pod("b", probe.Standby, oldTemplate).says("shamir", 0).
				pod("c", probe.Sealed, newTemplate, of(exampleKey)).says("transit", probe.SealHealthy).migrating(),
			seal: "shamir ", want: "False Migrating", says: "with the unseal key shares: c",
			unsealed: "False AwaitingSealMigration", updated: "False AwaitingSealMigration",
		},
		"the first node is a standby": {
			facts: migratingTo(exampleKey, "").pod("a", probe.Active, oldTemplate).says("shamir", 0).
				pod("c", probe.Standby, newTemplate, of(exampleKey)).says("transit", probe.SealHealthy).migrating(),
			seal: "shamir ", want: "False Migrating", says: "Updated says how far", updated: "False RollingOut",
		},
		"no node is active, and one of the new seal is a standby": {
			facts: migratingTo(exampleKey, "").
				pod("c", probe.Standby, newTemplate, of(exampleKey)).says("transit", 0).migrating(),
			seal: "shamir ", want: "False Migrating",
		},
		"an old node was sealed meanwhile": {
			facts: migratingTo(exampleKey, "").pod("a", probe.Active, oldTemplate).says("shamir", 0).
				pod("b", probe.Sealed, oldTemplate).says("shamir", 0),
			seal: "shamir ", want: "False Migrating", unsealed: "False AwaitingUnseal",
		},
		"a node of the new seal is active": {
			facts: migratingTo(exampleKey, "").pod("b", probe.Standby, oldTemplate).says("shamir", 0).
				pod("c", probe.Active, newTemplate, of(exampleKey)).says("transit", 0),
			seal: "transit " + exampleKey, want: "False Migrating", says: "still to be replaced: b",
		},
		"over": {
			facts: migratingTo(exampleKey, "").pod("c", probe.Active, newTemplate, of(exampleKey)).says("transit", 0).
				pod("d", probe.Standby, newTemplate, of(exampleKey)).says("transit", 0),
			seal: "transit " + exampleKey, want: "True Migrated", says: "remove spec.sealMigration", updated: "True Updated",
		},
		"a node with integrated storage has been sealed since before": {
			facts: migratingTo(exampleKey, "").onRaft().pod("c", probe.Active, newTemplate, of(exampleKey)).says("transit", 0).
				pod("e", probe.Sealed, newTemplate, of(exampleKey)).says("transit", 0).migrating(),
			seal: "transit " + exampleKey, want: "False Migrating", says: "with the unseal key shares: e",
			unsealed: "False AwaitingSealMigration",
		},
		"a node with integrated storage waits, and an old one is left": {
			facts: migratingTo(exampleKey, "").onRaft().pod("c", probe.Active, newTemplate, of(exampleKey)).says("transit", 0).
				pod("b", probe.Standby, oldTemplate).says("shamir", 0).
				pod("e", probe.Sealed, newTemplate, of(exampleKey)).says("transit", 0).migrating(),
			seal: "transit " + exampleKey, want: "False Migrating", says: "with the unseal key shares: e",
		},
		"all nodes with integrated storage have followed, and one is away": {
			facts: migratingTo(exampleKey, "").onRaft().before(func(s *v1alpha1.VaultStatus) {
				s.Conditions = []metav1.Condition{{Type: v1alpha1.SealMigratedCondition, Status: metav1.ConditionTrue}}
			}).pod("c", probe.Active, newTemplate, of(exampleKey)).says("transit", 0),
			seal: "transit " + exampleKey, want: "True Migrated",
		},
		"the last node with integrated storage is being replaced": {
			facts: migratingTo(exampleKey, "").onRaft().pod("c", probe.Active, newTemplate, of(exampleKey)).says("transit", 0).
				pod("e", probe.Standby, oldTemplate, terminating).says("shamir", 0),
			seal: "transit " + exampleKey, want: "False Migrating", says: "1 of 2 nodes are unsealed",
		},
		"the last node with integrated storage starts": {
			facts: migratingTo(exampleKey, "").onRaft().pod("c", probe.Active, newTemplate, of(exampleKey)).says("transit", 0).
				pod("e", probe.Unknown, newTemplate, of(exampleKey), justStarted),
			seal: "transit " + exampleKey, want: "False Migrating", says: "1 of 2 nodes are unsealed",
		},
		"all nodes with integrated storage follow": {
			facts: migratingTo(exampleKey, "").onRaft().pod("c", probe.Active, newTemplate, of(exampleKey)).says("transit", 0).
				pod("e", probe.Standby, newTemplate, of(exampleKey)).says("transit", 0),
			seal: "transit " + exampleKey, want: "True Migrated",
		},
		"to another key, and the first node waits": {
			facts: migratingTo(otherKey, exampleKey).pod("a", probe.Active, oldTemplate, of(exampleKey)).says("transit", 0).
				pod("c", probe.Sealed, newTemplate, of(otherKey)).says("transit", 0).migrating(),
			seal: "transit " + exampleKey, want: "False Migrating", says: "with the recovery key shares: c",
			unsealed: "False AwaitingSealMigration",
		},
		"to another key, and the status was lost": {
			facts: migratingTo(otherKey, exampleKey).before(func(s *v1alpha1.VaultStatus) { s.Seal = nil }).
				pod("a", probe.Active, oldTemplate, of(exampleKey)).says("transit", 0).
				pod("c", probe.Standby, newTemplate, of(otherKey)).says("transit", 0).migrating(),
			seal: "transit " + exampleKey, want: "False Migrating",
		},
		"to another key, and an old standby knows no better": {
			facts: migratingTo(otherKey, exampleKey).pod("b", probe.Active, newTemplate, of(otherKey)).says("transit", 0).
				pod("c", probe.Standby, oldTemplate, of(exampleKey)).says("transit", 0),
			seal: "transit " + otherKey, want: "False Migrating", says: "still to be replaced: c",
		},
		"to Shamir's keys, and the first node waits": {
			facts: migratingTo("", exampleKey).pod("a", probe.Active, oldTemplate, of(exampleKey)).says("transit", 0).
				pod("c", probe.Sealed, newTemplate).says("shamir", 0).migrating(),
			seal: "transit " + exampleKey, want: "False Migrating", says: "with the recovery key shares: c",
			unsealed: "False AwaitingSealMigration", updated: "False AwaitingSealMigration",
		},
		"to Shamir's keys, and the data was moved early": {
			facts: migratingTo("", exampleKey).pod("b", probe.Active, newTemplate).says("shamir", 0).
				pod("c", probe.Sealed, newTemplate).says("shamir", 0).
				pod("d", probe.Standby, oldTemplate, of(exampleKey)).says("transit", 0),
			seal: "shamir ", want: "False Migrating", says: "still to be replaced: d",
			unsealed: "False AwaitingUnseal", updated: "False AwaitingUnseal",
		},
		"to another key, and a new node was started after the data was moved": {
			facts: migratingTo(otherKey, exampleKey).pod("b", probe.Active, newTemplate, of(otherKey)).says("transit", 0).
				pod("c", probe.Sealed, newTemplate, of(otherKey)).says("transit", 0).
				pod("d", probe.Standby, oldTemplate, of(exampleKey)).says("transit", 0),
			seal: "transit " + otherKey, want: "False Migrating", unsealed: "False AwaitingUnseal",
			updated: "False AwaitingUnseal",
		},
		"to another key, and an old node was started before the data was moved": {
			facts: migratingTo(otherKey, exampleKey).pod("a", probe.Active, oldTemplate, of(exampleKey)).says("transit", 0).
				pod("b", probe.Sealed, oldTemplate, of(exampleKey)).says("transit", 0),
			seal: "transit " + exampleKey, want: "False Migrating", unsealed: "False AwaitingAutoUnseal",
		},
		"an old node that was started after the data was moved": {
			facts: migratingTo("", exampleKey).pod("b", probe.Active, newTemplate).says("shamir", 0).
				pod("d", probe.Sealed, oldTemplate, of(exampleKey)).says("transit", 0).migrating(),
			seal: "shamir ", want: "False Migrating", says: "still to be replaced: d",
		},
		"from what the data is not bound to": {
			facts: migratingTo(otherKey, exampleKey).before(func(s *v1alpha1.VaultStatus) {
				s.Seal = &v1alpha1.SealStatus{Type: "shamir"}
			}).pod("a", probe.Active, oldTemplate).says("shamir", 0),
			seal: "shamir ", want: "False SealChangeRefused", says: "it is bound to Shamir's keys",
		},
	} {
		t.Run(name, func(t *testing.T) {
			status := compute(&tt.facts.facts)
			if got := status.Seal.Type + " " + status.Seal.Key; got != tt.seal {
				t.Errorf("the seal is %q, want %q", got, tt.seal)
			}
			for condition, want := range map[string]string{v1alpha1.SealMigratedCondition: tt.want,
				v1alpha1.UnsealedCondition: tt.unsealed, v1alpha1.UpdatedCondition: tt.updated} {
				c := meta.FindStatusCondition(status.Conditions, condition)
				if want != "" && (c == nil || string(c.Status)+" "+c.Reason != want) {
					t.Errorf("%s is %+v, want %s", condition, c, want)
				}
			}
			c := meta.FindStatusCondition(status.Conditions, v1alpha1.SealMigratedCondition)
			if !strings.Contains(c.Message, tt.says) {
				t.Errorf("the message %q does not mention %q", c.Message, tt.says)
			}
			if strings.Contains(c.Message, "-migrate' on each") && strings.Contains(c.Message, ": d") {
				t.Errorf("%q sends somebody to move the data back", c.Message)
			}
		})
	}
	without := compute(&newSituation().pod("a", probe.Active).says("shamir", 0).facts)
	if c := meta.FindStatusCondition(without.Conditions, v1alpha1.SealMigratedCondition); c != nil {
		t.Errorf("without a migration there is %+v", c)
	}
}

// A migration is no fault: what it waits for, and its end, are told by events all the same.
func TestSealMigrationEvents(t *testing.T) {
	condition := func(status metav1.ConditionStatus, reason, message string) v1alpha1.VaultStatus {
		return v1alpha1.VaultStatus{Conditions: []metav1.Condition{{Type: v1alpha1.SealMigratedCondition, Status: status,
			Reason: reason, Message: message}}}
	}
	begun, next := condition("False", v1alpha1.ReasonMigrating, "on a"), condition("False",
		v1alpha1.ReasonMigrating, "on b")
	over := condition("True", v1alpha1.ReasonMigrated, "remove it")
	refused := condition("False", v1alpha1.ReasonSealChangeRefused, "no")
	for name, tt := range map[string]struct {
		before, after v1alpha1.VaultStatus
		want          string
	}{
		"it begins":           {v1alpha1.VaultStatus{}, begun, "Normal Migrating on a"},
		"nothing has changed": {begun, begun, ""},
		"another node waits":  {begun, next, "Normal Migrating on b"},
		"it is over":          {next, over, "Normal Migrated remove it"},
		"it was removed":      {over, v1alpha1.VaultStatus{}, ""},
		"it is refused":       {v1alpha1.VaultStatus{}, refused, ""},
	} {
		got := ""
		for _, e := range transitions(&tt.before, &tt.after) {
			got += e.kind + " " + e.reason + " " + e.message
		}
		if got != tt.want {
			t.Errorf("%s: the events are %q, want %q", name, got, tt.want)
		}
	}
}
