package plugin

import (
	"context"
	"fmt"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/spf13/cobra"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func (p *plugin) sealCommand() *cobra.Command {
	return p.tokenCommand(&cobra.Command{
		Use:   "seal NAME",
		Short: "Seal the active node of a Vault",
		Long: `Seal the active node of a Vault. A standby node takes over, if there is one: run it again
until no node is active to seal them all. The token needs "update" and "sudo" on sys/seal.

A node with auto-unseal stays sealed until its pod is deleted.`,
		Example: `  # Asks for a token without echo
  kubectl vault seal example

  # The token of "vault login"
  kubectl vault seal example < ~/.vault-token`,
	}, "is sealed. A standby node becomes active, if there is one", (*vaultapi.Sys).SealWithContext)
}

func (p *plugin) stepDownCommand() *cobra.Command {
	return p.tokenCommand(&cobra.Command{
		Use:   "step-down NAME",
		Short: "Let a standby node take over from the active one",
		Long: `Let a standby node take over from the active one, which becomes standby and stays unsealed.
The token needs "update" and "sudo" on sys/step-down.`,
		Example: `  # Asks for a token without echo
  kubectl vault step-down example`,
	}, "has stepped down", (*vaultapi.Sys).StepDownWithContext)
}

// tokenCommand completes a command that does something with the active node and a token.
func (p *plugin) tokenCommand(cmd *cobra.Command, done string,
	do func(*vaultapi.Sys, context.Context) error) *cobra.Command {
	cmd.Args = cobra.ExactArgs(1)
	cmd.ValidArgsFunction = p.vaultNames
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return p.withToken(cmd.Context(), args[0], func(ctx context.Context, _ *v1alpha1.Vault, active *seen) error {
			if err := do(active.node.api.Sys(), ctx); err != nil {
				return denied(err, "%s: %s", active.pod.Name, reason(err))
			}
			fmt.Fprintf(p.out, "%s %s\n", active.pod.Name, done)
			return nil
		})
	}
	return cmd
}

// withToken does something with the active node, which has a token for that.
func (p *plugin) withToken(ctx context.Context, name string,
	do func(context.Context, *v1alpha1.Vault, *seen) error,
) error {
	t, err := p.target(ctx, name)
	if err != nil {
		return err
	}
	defer t.close()
	active, err := t.active(ctx)
	if err != nil {
		return err
	}
	secrets := p.secrets(nil)
	defer secrets.close()
	token, err := secrets.token(ctx)
	if err != nil {
		return err
	}
	if err := active.node.withToken(token); err != nil {
		return err
	}
	return do(ctx, t.vault, active)
}
