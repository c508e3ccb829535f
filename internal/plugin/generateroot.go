package plugin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/spf13/cobra"
)

type generateRootOptions struct {
	gpg    []string
	pgpKey string
	cancel bool
}

func (p *plugin) generateRootCommand() *cobra.Command {
	var o generateRootOptions
	cmd := &cobra.Command{
		Use:   "generate-root NAME",
		Short: "Make a new root token with the key shares",
		Long: `Make a new root token with the key shares, or the recovery key shares of a Vault with
auto-unseal. Only the token is printed to standard output. Between Vault and the plugin it is
encrypted with a one-time password that exists in memory only; with --pgp-key it is printed
encrypted to that key. Revoke the token when it is of no more use.

An attempt that fails or is interrupted is cancelled.`,
		Example: `  # Asks for key shares without echo
  kubectl vault generate-root example

  # Encrypted to a public PGP key
  kubectl vault generate-root example --pgp-key=ann.asc | base64 -d | gpg --decrypt

  # End the attempt of somebody else
  kubectl vault generate-root example --cancel`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.generateRoot(cmd.Context(), args[0], o) },
	}
	addGPG(cmd, &o.gpg)
	cmd.Flags().StringVar(&o.pgpKey, "pgp-key", "", "File with the public PGP key that the token is encrypted to")
	cmd.Flags().BoolVar(&o.cancel, "cancel", false, "Only cancel an attempt that was begun")
	return cmd
}

func (p *plugin) generateRoot(ctx context.Context, name string, o generateRootOptions) error {
	var pgpKey string
	if o.pgpKey != "" {
		var err error
		if pgpKey, err = publicKey(o.pgpKey); err != nil {
			return err
		}
	}
	t, err := p.target(ctx, name)
	if err != nil {
		return err
	}
	defer t.close()
	node, err := t.active(ctx)
	if err != nil {
		return err
	}
	if o.cancel {
		if err := node.api.Sys().GenerateRootCancelWithContext(ctx); err != nil {
			return denied(err, "%s did not cancel: %s", node.Pod, reason(err))
		}
		fmt.Fprintln(p.errOut, "No attempt is on")
		return nil
	}
	secrets := p.secrets(o.gpg)
	defer secrets.close()
	return p.attemptRoot(ctx, node, pgpKey, secrets)
}

// attemptRoot begins an attempt, and cancels it unless it comes to its end.
func (p *plugin) attemptRoot(ctx context.Context, node *Node, pgpKey string, secrets *secrets) (err error) {
	attempt, err := node.api.Sys().GenerateRootStatusWithContext(ctx)
	if err != nil {
		return denied(err, "%s: %s", node.Pod, reason(err))
	}
	if attempt.Started {
		return exit(exitRefused, "an attempt was begun already, and has %d of %d key shares: --cancel ends it",
			attempt.Progress, attempt.Required)
	}
	attempt, err = node.api.Sys().GenerateRootInitWithContext(ctx, "", pgpKey)
	if err != nil {
		return denied(err, "%s: %s", node.Pod, reason(err))
	}
	otp, nonce := attempt.OTP, attempt.Nonce
	defer func() {
		if err != nil {
			p.cancelRoot(ctx, node)
		}
	}()
	var shares []string
	for !attempt.Complete {
		lacking := attempt.Required - attempt.Progress
		share, err := p.newShare(ctx, secrets, shares, lacking)
		if errors.Is(err, io.EOF) {
			return exit(exitDenied, "%d more key share(s) needed", lacking)
		}
		if err != nil {
			return err
		}
		shares = append(shares, share)
		next, err := node.api.Sys().GenerateRootUpdateWithContext(ctx, share, nonce)
		if status(err) == http.StatusBadRequest {
			return exit(exitDenied, "a key share is wrong, or of another Vault (%s)", reason(err))
		}
		if err != nil {
			return denied(err, "%s: %s", node.Pod, reason(err))
		}
		attempt = next
		fmt.Fprintf(p.errOut, "%d of %d key shares\n", attempt.Progress, attempt.Required)
	}
	return p.printRoot(attempt, otp)
}

// cancelRoot cancels an attempt, also when the plugin was interrupted.
func (p *plugin) cancelRoot(ctx context.Context, node *Node) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := node.api.Sys().GenerateRootCancelWithContext(ctx); err != nil {
		fmt.Fprintf(p.errOut, "The attempt could not be cancelled, run it again with --cancel: %s\n", reason(err))
		return
	}
	fmt.Fprintln(p.errOut, "The attempt was cancelled")
}

func (p *plugin) printRoot(attempt *vaultapi.GenerateRootStatusResponse, otp string) error {
	encoded := attempt.EncodedToken
	if encoded == "" {
		encoded = attempt.EncodedRootToken
	}
	if attempt.PGPFingerprint != "" {
		fmt.Fprintf(p.errOut, "The token is encrypted to the key %s\n", line(attempt.PGPFingerprint))
		_, err := fmt.Fprintln(p.out, encoded)
		return err
	}
	token, err := base64.RawStdEncoding.DecodeString(encoded)
	if err != nil || len(token) == 0 || len(token) != len(otp) {
		return errors.New("the token cannot be decoded with the one-time password")
	}
	for i := range token {
		token[i] ^= otp[i]
	}
	_, err = fmt.Fprintln(p.out, string(token))
	return err
}
