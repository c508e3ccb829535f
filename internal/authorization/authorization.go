// Package authorization is what an administrator of a Vault grants the operator in it: an auth
// method of its own, which takes tokens of the operator's ServiceAccount for this Vault alone,
// and a policy with what keeps Vault available.
//
// Who may write the configuration of the auth method may admit any key to it. The operator
// may, to follow the keys of the API server, so that nothing but its own role belongs there.
package authorization

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

const (
	// Name of the auth method, of the role in it, and of the policy.
	Name = "vault-operator"
	// MountPath is where the auth method is enabled.
	MountPath = "sys/auth/" + Name
	// ConfigPath is where it is configured.
	ConfigPath = "auth/" + Name + "/config"
	// RolePath is where the role is written.
	RolePath = "auth/" + Name + "/role/" + Name
	// PolicyPath is where the policy is written.
	PolicyPath = "sys/policies/acl/" + Name
	// BackupName is the name of the role in that auth method by which the Jobs of backups log in,
	// and of its policy.
	BackupName = Name + "-backup"
	// BackupRolePath is where that role is written.
	BackupRolePath = "auth/" + Name + "/role/" + BackupName
	// BackupPolicyPath is where that policy is written.
	BackupPolicyPath = "sys/policies/acl/" + BackupName
	// RolesPath lists the roles of the auth method.
	RolesPath = "auth/" + Name + "/role"
	// KeysField of ConfigPath are the public keys of the API server.
	KeysField = "jwt_validation_pubkeys"

	// lifetime is how long a token of the operator is valid, in Vault's words.
	lifetime = "5m"
	// mountType and description are those of the auth method.
	mountType   = "jwt"
	description = "The Vault Operator, which keeps this Vault available"
)

// Policy is all that the operator may do. It has no right of the policy "default", which the
// role leaves out, since administrators may add to that.
const Policy = `# What the Vault Operator may do in this Vault: keep it available. It reads no secret and
# writes no policy.

# A standby node takes over before the active one is replaced.
path "sys/step-down" {
  capabilities = ["update", "sudo"]
}

# With integrated storage: which nodes belong to it, and taking out one that is gone.
path "sys/storage/raft/configuration" {
  capabilities = ["read"]
}
path "sys/storage/raft/remove-peer" {
  capabilities = ["update"]
}

# The public keys of the API server, by which it logs in itself, when they are rotated.
path "auth/vault-operator/config" {
  capabilities = ["read", "update"]
}

# What of this it may still do.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
`

// BackupPolicy is all that the Jobs may do that back integrated storage up.
const BackupPolicy = `# What the Jobs of the Vault Operator may do that back this Vault up: read a snapshot of
# integrated storage, which Vault has encrypted.
path "sys/storage/raft/snapshot" {
  capabilities = ["read"]
}
`

// needs are the capabilities that the operator uses in a Vault, by path. Those of integrated
// storage are none of them where there is none: a Vault on etcd lacks nothing without.
func needs(vault *v1alpha1.Vault) map[string][]string {
	all := map[string][]string{
		"sys/step-down": {"update", "sudo"},
		ConfigPath:      {"read", "update"},
	}
	if vault.Spec.Storage.Raft != nil {
		all["sys/storage/raft/configuration"] = []string{"read"}
		all["sys/storage/raft/remove-peer"] = []string{"update"}
	}
	return all
}

// Paths are those whose capabilities tell whether the operator may do what it needs.
func Paths(vault *v1alpha1.Vault) []string { return slices.Sorted(maps.Keys(needs(vault))) }

// Missing says what the operator lacks of what it needs, by what Vault says that it may do.
func Missing(vault *v1alpha1.Vault, capabilities map[string][]string) []string {
	var missing []string
	for _, path := range Paths(vault) {
		has := capabilities[path]
		if slices.Contains(has, "root") {
			continue
		}
		var lacks []string
		for _, need := range needs(vault)[path] {
			if !slices.Contains(has, need) {
				lacks = append(lacks, need)
			}
		}
		if len(lacks) > 0 {
			missing = append(missing, fmt.Sprintf("%s on %s", strings.Join(lacks, " and "), path))
		}
	}
	return missing
}

// OwnPolicy says that a policy is the operator's, of this version or of another: each begins with
// the same line.
func OwnPolicy(text string) bool { return sameFirstLine(text, Policy) }

// OwnBackupPolicy says the same of the policy of backups.
func OwnBackupPolicy(text string) bool { return sameFirstLine(text, BackupPolicy) }

func sameFirstLine(text, own string) bool {
	first, _, _ := strings.Cut(own, "\n")
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return strings.TrimSpace(line) == first
}

// OwnMount says that an auth method is the operator's, by its type and description.
func OwnMount(kind, text string) bool { return kind == mountType && text == description }

// Request writes something in Vault.
type Request struct {
	Path string
	Body map[string]any
}

// Grant are the requests that authorize the operator, in their order. MountPath is refused
// where the auth method is there already, and the others replace what they have written
// before.
func Grant(login *v1alpha1.OperatorLoginStatus) []Request {
	return []Request{
		{PolicyPath, map[string]any{"policy": Policy}},
		{MountPath, map[string]any{
			"type": mountType, "description": description,
			"config": map[string]any{"default_lease_ttl": lifetime, "max_lease_ttl": lifetime},
		}},
		{ConfigPath, Config(login.PublicKeys)},
		{RolePath, role(login)},
		{BackupPolicyPath, map[string]any{"policy": BackupPolicy}},
		{BackupRolePath, backupRole(login)},
	}
}

// Config is the configuration of the auth method.
func Config(publicKeys []string) map[string]any { return map[string]any{KeysField: publicKeys} }

func role(login *v1alpha1.OperatorLoginStatus) map[string]any {
	return map[string]any{
		"role_type": "jwt", "user_claim": "sub",
		"bound_subject": login.Subject, "bound_audiences": []string{login.Audience},
		"token_policies": []string{Name}, "token_no_default_policy": true,
		// Vault keeps nothing of such a token, which cannot be renewed either.
		"token_type": "batch", "token_ttl": lifetime, "token_max_ttl": lifetime,
	}
}

// backupRole is for the ServiceAccount of the Jobs that back the Vault up. Its tokens are for the
// same audience, which tells the Vault.
func backupRole(login *v1alpha1.OperatorLoginStatus) map[string]any {
	body := role(login)
	body["token_policies"] = []string{BackupName}
	// Without a subject the role would admit every ServiceAccount.
	if parts := strings.Split(login.Audience, "/"); len(parts) == 3 {
		body["bound_subject"] = "system:serviceaccount:" + parts[1] + ":" + v1alpha1.BackupAccountName(parts[2])
	}
	return body
}

// AlreadyMounted says that Vault refuses MountPath because something is mounted there, by its
// words.
func AlreadyMounted(reasons []string) bool {
	return slices.ContainsFunc(reasons, func(reason string) bool { return strings.Contains(reason, "already in use") })
}

// NotMounted says that nothing is mounted at MountPath, by Vault's words when it is read: they
// come with the status 400.
func NotMounted(reasons []string) bool {
	return slices.ContainsFunc(reasons, func(reason string) bool { return strings.Contains(reason, "No auth engine at") })
}

// Others are the roles that do not belong in the auth method, of those that are there.
func Others(roles []string) []string {
	return slices.DeleteFunc(slices.Clone(roles), func(role string) bool {
		return role == Name || role == BackupName
	})
}

// Revoke are the paths to delete, in their order: the policy first, so that a token that is
// still valid may do nothing any more. The role goes with the auth method.
func Revoke() []string { return []string{PolicyPath, BackupPolicyPath, MountPath} }

// GrantCommands are the commands of vault that do the same as Grant, for review.
func GrantCommands(login *v1alpha1.OperatorLoginStatus) string {
	return fmt.Sprintf(`vault policy write %[1]s - <<'EOF'
%[2]sEOF
vault auth enable -path=%[1]s -description=%[3]q -default-lease-ttl=%[4]s -max-lease-ttl=%[4]s jwt
vault write %[5]s - <<'EOF'
%[6]s
EOF
vault write %[7]s - <<'EOF'
%[8]s
EOF
vault policy write %[9]s - <<'EOF'
%[10]sEOF
vault write %[11]s - <<'EOF'
%[12]s
EOF
`, Name, Policy, description, lifetime, ConfigPath, indented(Config(login.PublicKeys)), RolePath, indented(role(login)),
		BackupName, BackupPolicy, BackupRolePath, indented(backupRole(login)))
}

// RevokeCommands are the commands of vault that do the same as Revoke.
func RevokeCommands() string {
	return fmt.Sprintf("vault policy delete %[1]s\nvault policy delete %[2]s\nvault auth disable %[1]s\n",
		Name, BackupName)
}

func indented(value map[string]any) string {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		panic(err) // it is made of strings
	}
	return string(text)
}
