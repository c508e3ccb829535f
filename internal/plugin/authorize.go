package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/spf13/cobra"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/authorization"
)

func (p *plugin) authorizeCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "authorize NAME",
		Short: "Let the operator keep a Vault available",
		Long: `Let the operator log in to a Vault whose spec has operatorLogin.enabled, and have the active
node step down before a rollout replaces it. It can read no secret and write no policy:
--dry-run prints all that is written, and asks for no token.

Nothing is written where a policy or an auth method named vault-operator is somebody else's, or
where that auth method has roles of somebody else.

With integrated storage the Jobs of backups may read a snapshot of it, which is encrypted: they have a
policy and a role vault-operator-backup.

The token needs "read" and "update" on sys/policies/acl/vault-operator and on
sys/policies/acl/vault-operator-backup, "read", "update" and "sudo" on sys/auth/vault-operator, "list"
on auth/vault-operator/role, "update" on auth/vault-operator/config, and "create" and "update" on
auth/vault-operator/role/vault-operator and on auth/vault-operator/role/vault-operator-backup.`,
		Example: `  # For review, or to be run by somebody else
  kubectl vault authorize example --dry-run

  # Asks for a token without echo
  kubectl vault authorize example`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if dryRun {
				return p.printGrant(cmd.Context(), args[0])
			}
			return p.withToken(cmd.Context(), args[0], p.grant)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the commands of vault that do the same")
	return cmd
}

func (p *plugin) deauthorizeCommand() *cobra.Command {
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "deauthorize NAME",
		Short: "Take back what authorize has granted",
		Long: `Delete the policy of the operator and its auth method from a Vault. A token that it has may do
nothing any more from that moment. Nothing is deleted where one of them is somebody else's, or where
the auth method has roles of somebody else.

The token that you give needs "read" and "delete" on sys/policies/acl/vault-operator and on
sys/policies/acl/vault-operator-backup, "read",
"delete" and "sudo" on sys/auth/vault-operator, and "list" on auth/vault-operator/role.`,
		Example: `  # Asks for a token without echo
  kubectl vault deauthorize example`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			if dryRun {
				_, err := fmt.Fprint(p.out, authorization.RevokeCommands())
				return err
			}
			return p.withToken(cmd.Context(), args[0], p.revokeGrant)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print the commands of vault that do the same")
	return cmd
}

// loginOf is who the operator is, as it says itself.
func loginOf(vault *v1alpha1.Vault) (*v1alpha1.OperatorLoginStatus, error) {
	login := vault.Status.OperatorLogin
	switch {
	case !vault.HasOperatorLogin():
		return nil, exit(exitRefused, "the spec of Vault %[1]s does not have the operator log in: "+
			"set operatorLogin.enabled, such as by: kubectl patch vault %[1]s -n %[2]s --type=merge "+
			"-p '{\"spec\":{\"operatorLogin\":{\"enabled\":true}}}'",
			vault.Name, vault.Namespace)
	case login == nil || len(login.PublicKeys) == 0:
		return nil, exit(exitRefused, "the operator has not said yet who it is: see the condition %s of Vault %s",
			v1alpha1.AuthorizedCondition, vault.Name)
	}
	return login, nil
}

func (p *plugin) printGrant(ctx context.Context, name string) error {
	cluster, err := p.connect()
	if err != nil {
		return err
	}
	vault, err := cluster.vault(ctx, name)
	if err != nil {
		return err
	}
	login, err := loginOf(vault)
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(p.out, authorization.GrantCommands(login))
	return err
}

func (p *plugin) grant(ctx context.Context, vault *v1alpha1.Vault, active *seen) error {
	api := active.node.api.Logical()
	login, err := loginOf(vault)
	if err != nil {
		return err
	}
	mounted, err := checkOwn(ctx, api)
	if err != nil {
		return err
	}
	for _, request := range authorization.Grant(login) {
		if request.Path == authorization.MountPath && mounted {
			continue
		}
		body, err := json.Marshal(request.Body)
		if err != nil {
			return err
		}
		if _, err := api.WriteBytesWithContext(ctx, request.Path, body); err != nil {
			return refusedPath(err, "writing", request.Path)
		}
	}
	fmt.Fprintf(p.out, "The operator may keep Vault %s available. It logs in within five minutes: "+
		"kubectl wait --for=condition=%s vault/%s -n %s --timeout=6m\n",
		line(vault.Name), v1alpha1.AuthorizedCondition, line(vault.Name), line(vault.Namespace))
	return nil
}

// checkOwn refuses to go on where what has the operator's name in Vault is somebody else's, and
// says whether the auth method is there.
func checkOwn(ctx context.Context, api *vaultapi.Logical) (mounted bool, err error) {
	if err := checkPolicy(ctx, api, authorization.Name, authorization.PolicyPath, authorization.OwnPolicy); err != nil {
		return false, refusedPath(err, "reading", authorization.PolicyPath)
	}
	if err := checkPolicy(ctx, api, authorization.BackupName, authorization.BackupPolicyPath,
		authorization.OwnBackupPolicy); err != nil {
		return false, refusedPath(err, "reading", authorization.BackupPolicyPath)
	}
	if mounted, err = checkMount(ctx, api); err != nil {
		return false, refusedPath(err, "reading", authorization.MountPath)
	}
	if !mounted {
		return false, nil
	}
	if err := checkRoles(ctx, api); err != nil {
		return false, refusedPath(err, "listing", authorization.RolesPath)
	}
	return true, nil
}

func checkPolicy(
	ctx context.Context, api *vaultapi.Logical, name, path string, own func(text string) bool,
) error {
	found, err := api.ReadWithContext(ctx, path)
	if err != nil || found == nil {
		return err
	}
	if text, _ := found.Data["policy"].(string); own(text) {
		return nil
	}
	return exit(exitRefused, "Vault has a policy %[1]s that is not the operator's, and nothing was changed. If something "+
		"needs it write it under another name; then delete it: vault policy delete %[1]s", name)
}

func checkMount(ctx context.Context, api *vaultapi.Logical) (mounted bool, err error) {
	found, err := api.ReadWithContext(ctx, authorization.MountPath)
	if response := (*vaultapi.ResponseError)(nil); errors.As(err, &response) &&
		authorization.NotMounted(response.Errors) {
		return false, nil
	}
	if err != nil || found == nil {
		return false, err
	}
	kind, _ := found.Data["type"].(string)
	description, _ := found.Data["description"].(string)
	if authorization.OwnMount(kind, description) {
		return true, nil
	}
	return false, exit(exitRefused, "auth/%[1]s is an auth method that is not the operator's, and nothing was changed "+
		"(type %[2]s, description %[3]q). If something needs it move it: vault auth move auth/%[1]s auth/NAME. "+
		"Otherwise disable it: vault auth disable %[1]s", authorization.Name, line(kind), line(description))
}

// checkRoles refuses an auth method that has roles of somebody else: the operator may admit any
// key to it.
func checkRoles(ctx context.Context, api *vaultapi.Logical) error {
	found, err := api.ListWithContext(ctx, authorization.RolesPath)
	if err != nil || found == nil {
		return err
	}
	var roles []string
	keys, _ := found.Data["keys"].([]any)
	for _, key := range keys {
		roles = append(roles, fmt.Sprint(key))
	}
	if others := authorization.Others(roles); len(others) > 0 {
		return exit(exitRefused, "auth/%[1]s has roles that are not the operator's, which could let itself in by them, and "+
			"nothing was changed: %[2]s. Delete them: vault delete auth/%[1]s/role/NAME",
			authorization.Name, line(strings.Join(others, ", ")))
	}
	return nil
}

func (p *plugin) revokeGrant(ctx context.Context, vault *v1alpha1.Vault, active *seen) error {
	api := active.node.api.Logical()
	if _, err := checkOwn(ctx, api); err != nil {
		return err
	}
	for _, path := range authorization.Revoke() {
		if _, err := api.DeleteWithContext(ctx, path); err != nil && status(err) != http.StatusNotFound {
			return refusedPath(err, "deleting", path)
		}
	}
	fmt.Fprintf(p.out, "The operator may do nothing in Vault %s any more\n", line(vault.Name))
	return nil
}

// refusedPath says which request Vault has refused.
func refusedPath(err error, doing, path string) error {
	if coded := (*exitCode)(nil); errors.As(err, &coded) {
		return err
	}
	return denied(err, "%s %s: %s", doing, path, reason(err))
}
