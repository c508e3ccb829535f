package seal

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

func keyNamed(name string) *v1alpha1.SealPolicy {
	policy := transit("https://root:8200")
	policy.Transit.KeyName = name
	return policy
}

// awayFrom is a migration away from a seal; nil are Shamir's keys.
func awayFrom(policy *v1alpha1.SealPolicy) *v1alpha1.SealMigrationPolicy {
	if policy == nil {
		return &v1alpha1.SealMigrationPolicy{From: v1alpha1.OldSeal{Shamir: &v1alpha1.ShamirKeys{}}}
	}
	return &v1alpha1.SealMigrationPolicy{From: v1alpha1.OldSeal{Transit: policy.Transit, AWSKMS: policy.AWSKMS,
		AzureKeyVault: policy.AzureKeyVault, OCIKMS: policy.OCIKMS}}
}

// TestProgress has every state of a migration: what the spec asks for, and what Vault's data
// is bound to.
func TestProgress(t *testing.T) {
	one, two, three := keyNamed("one"), keyNamed("two"), keyNamed("three")
	aws := &v1alpha1.SealPolicy{AWSKMS: &v1alpha1.AWSKMSSeal{Region: "r", KMSKeyID: "k"}}
	shamir := &v1alpha1.SealStatus{Type: v1alpha1.ShamirSeal}
	bySeal := func(policy *v1alpha1.SealPolicy) *v1alpha1.SealStatus {
		return &v1alpha1.SealStatus{Type: policy.Type(), Key: policy.Key()}
	}
	byUser := &v1alpha1.SealStatus{Type: "transit"}
	elsewhere := keyNamed("one")
	elsewhere.Transit.Address, elsewhere.Transit.CredentialsSecretName = "https://other:8200", "other"
	for name, tt := range map[string]struct {
		seal          *v1alpha1.SealPolicy
		migration     *v1alpha1.SealMigrationPolicy
		has           *v1alpha1.SealStatus
		uninitialized bool
		want          Progress
		says          string
	}{
		"Shamir's keys, and nothing else": {has: shamir, want: NoMigration},
		"a key, and nothing else":         {seal: one, has: bySeal(one), want: NoMigration},
		"nothing is known":                {seal: one, want: NoMigration},
		"from Shamir's keys": {seal: one, migration: awayFrom(nil), has: shamir,
			want: Migrating},
		"from Shamir's keys, moved":         {seal: one, migration: awayFrom(nil), has: bySeal(one), want: Migrated},
		"from Shamir's keys, removed early": {seal: one, has: shamir, want: Refused, says: "spec.sealMigration.from"},
		"from Shamir's keys, removed":       {seal: one, has: bySeal(one), want: NoMigration},
		"from Shamir's keys, given up":      {has: shamir, want: NoMigration},
		"from Shamir's keys, given up late": {has: bySeal(one), want: Refused, says: "spec.seal was removed"},
		"from Shamir's keys, turned round":  {migration: awayFrom(one), has: shamir, want: Migrated},
		"from Shamir's keys, back again":    {migration: awayFrom(one), has: bySeal(one), want: Migrating},
		"to Shamir's keys":                  {migration: awayFrom(one), has: bySeal(one), want: Migrating},
		"to Shamir's keys, moved":           {migration: awayFrom(one), has: shamir, want: Migrated},
		"to Shamir's keys, removed early":   {has: bySeal(one), want: Refused, says: "spec.seal was removed"},
		"to Shamir's keys, removed":         {has: shamir, want: NoMigration},
		"to Shamir's keys, given up":        {seal: one, has: bySeal(one), want: NoMigration},
		"to Shamir's keys, given up late":   {seal: one, has: shamir, want: Refused, says: "is of the kind shamir"},
		"to another key":                    {seal: two, migration: awayFrom(one), has: bySeal(one), want: Migrating},
		"to another key, moved":             {seal: two, migration: awayFrom(one), has: bySeal(two), want: Migrated},
		"to another key, removed early":     {seal: two, has: bySeal(one), want: Refused, says: "transit/keys/one"},
		"to another key, removed":           {seal: two, has: bySeal(two), want: NoMigration},
		"to another key, given up":          {seal: one, has: bySeal(one), want: NoMigration},
		"to another key, given up late":     {seal: one, has: bySeal(two), want: Refused, says: "transit/keys/two"},
		"to a third key in the middle":      {seal: three, migration: awayFrom(one), has: bySeal(one), want: Migrating},
		"to a third key after it was moved": {seal: three, migration: awayFrom(one), has: bySeal(two), want: Refused,
			says: "two"},
		"to a key service of another kind": {seal: aws, migration: awayFrom(one), has: bySeal(one), want: Migrating},
		"to one of another kind, moved":    {seal: aws, migration: awayFrom(one), has: bySeal(aws), want: Migrated},
		"from another key than that it has": {seal: two, migration: awayFrom(three), has: bySeal(one), want: Refused,
			says: "one"},
		"from Shamir's keys that it has not": {seal: two, migration: awayFrom(nil), has: bySeal(one), want: Refused,
			says: "one"},
		"from a key that it has not": {seal: two, migration: awayFrom(one), has: shamir, want: Refused,
			says: "it is bound to Shamir's keys"},
		"from a seal of the user's own": {seal: two, migration: awayFrom(one), has: byUser, want: Refused, says: "own HCL"},
		"to the same key": {seal: one, migration: awayFrom(one), has: bySeal(one), want: Refused,
			says: "another name"},
		"to a key of the same name": {seal: elsewhere, migration: awayFrom(one), has: bySeal(one), want: Refused,
			says: "another name"},
		"no node has told its seal": {seal: one, migration: awayFrom(nil), want: Unknown},
		"a node has told nothing":   {seal: one, migration: awayFrom(nil), has: &v1alpha1.SealStatus{}, want: Unknown},
		"not initialized": {seal: one, migration: awayFrom(nil), has: shamir, uninitialized: true, want: Refused,
			says: "nothing to migrate"},
		"not initialized, and no migration": {seal: one, has: shamir, uninitialized: true, want: NoMigration},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(tt.seal)
			vault.Spec.SealMigration = tt.migration
			got, err := ProgressOf(vault, !tt.uninitialized, tt.has)
			if got != tt.want || (err != nil) != (tt.want == Refused) {
				t.Fatalf("got %d and %v, want %d", got, err, tt.want)
			}
			if wrong := problem.In(err); err != nil && (wrong == nil || wrong.Reason != v1alpha1.ReasonSealChangeRefused ||
				!strings.Contains(wrong.Message, tt.says)) {
				t.Errorf("it is refused by %v, which does not mention %q", err, tt.says)
			}
		})
	}
}

// Before a seal is changed the status has to be newer than the spec: one that is older does
// not tell whether a node of another seal has become active meanwhile.
func TestChangeWaitsForTheStatus(t *testing.T) {
	one := keyNamed("one")
	for name, tt := range map[string]struct {
		seal      *v1alpha1.SealPolicy
		migration *v1alpha1.SealMigrationPolicy
		has       *v1alpha1.SealStatus
		deployed  string
		observed  int64
		waits     bool
	}{
		"given up, and the status is old": {has: &v1alpha1.SealStatus{Type: "shamir"}, deployed: one.Key(), observed: 1,
			waits: true},
		"given up": {has: &v1alpha1.SealStatus{Type: "shamir"}, deployed: one.Key(), observed: 2},
		"the same, and the status is old": {seal: one, has: &v1alpha1.SealStatus{Type: "transit", Key: one.Key()},
			deployed: one.Key(), observed: 1},
		"a migration, and nothing is told": {seal: one, migration: awayFrom(nil), observed: 2, waits: true},
		"it is deployed, and nothing is told": {seal: one, migration: awayFrom(nil), deployed: one.Key(), observed: 2,
			waits: true},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(tt.seal)
			vault.Generation, vault.Spec.SealMigration = 2, tt.migration
			vault.Status = v1alpha1.VaultStatus{Initialized: true, Seal: tt.has, ObservedGeneration: tt.observed}
			deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "example"}}
			if tt.deployed != "" {
				deployment.Spec.Template.Annotations = map[string]string{v1alpha1.SealAnnotation: tt.deployed}
			}
			err := CheckChange(t.Context(), newClient(t, []client.Object{deployment}...), vault)
			if problem.In(err) != nil || (err != nil) != tt.waits {
				t.Errorf("error %v", err)
			}
		})
	}
}

// Both seals of a migration are checked, and have to get along in one process.
func TestCheckBothSeals(t *testing.T) {
	oci := func(name v1alpha1.ObjectName) *v1alpha1.SealPolicy {
		return &v1alpha1.SealPolicy{OCIKMS: &v1alpha1.OCIKMSSeal{KeyID: "a" + string(name), CredentialsSecretName: name}}
	}
	azure := func(name v1alpha1.ObjectName) *v1alpha1.SealPolicy {
		return &v1alpha1.SealPolicy{AzureKeyVault: &v1alpha1.AzureKeyVaultSeal{KeyName: "k" + string(name),
			CredentialsSecretName: name}}
	}
	other := keyNamed("two")
	other.Transit.CredentialsSecretName = "other"
	own := keyNamed("two")
	own.Transit.Address = "https://example.apps.svc:8200"
	all := map[string]string{"token": "t", "client_secret": "s", "config": "c", "key.pem": "p"}
	for name, tt := range map[string]struct {
		from, to *v1alpha1.SealPolicy
		says     string
	}{
		"two keys":        {from: keyNamed("one"), to: keyNamed("two")},
		"away from a key": {from: keyNamed("one")},
		"a Secret of the old one": {from: other, to: keyNamed("one"),
			says: "spec.sealMigration.from.transit.credentialsSecretName"},
		"a Secret of the old one, alone": {from: other, says: "spec.sealMigration.from.transit.credentialsSecretName"},
		"itself":                         {from: own, says: "spec.sealMigration.from.transit.address"},
		"one configuration of OCI":       {from: oci("token"), to: oci("token")},
		"two configurations of OCI":      {from: oci("token"), to: oci("second"), says: "one configuration file"},
		"two identities of Azure":        {from: azure("token"), to: azure(""), says: "both have a"},
		"two applications of Azure":      {from: azure("token"), to: azure("second")},
		"OCI and Azure":                  {from: oci("token"), to: azure("")},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(tt.to)
			vault.Spec.SealMigration = awayFrom(tt.from)
			err := Check(t.Context(), newClient(t, secret("token", all), secret("second", all)), vault)
			if wrong := problem.In(err); (err != nil) != (tt.says != "") || err != nil && (wrong == nil ||
				!strings.Contains(wrong.Message, tt.says)) {
				t.Errorf("error %v, want one with %q", err, tt.says)
			}
		})
	}
}
