package plugin

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

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
	if err := refuseCopy(t.vault); err != nil {
		return err
	}
	active, err := t.active(ctx)
	if err != nil {
		return err
	}
	if o.cancel {
		if err := active.node.api.Sys().GenerateRootCancelWithContext(ctx); err != nil {
			return denied(err, "%s did not cancel: %s", active.pod.Name, reason(err))
		}
		fmt.Fprintln(p.errOut, "No attempt is on")
		return nil
	}
	attempt := &rootAttempt{plugin: p, target: t, active: active, secrets: p.secrets(o.gpg)}
	defer attempt.secrets.close()
	return attempt.run(ctx, pgpKey)
}

// rootAttempt is an attempt to generate a root token.
type rootAttempt struct {
	*plugin
	*target
	active  *seen
	secrets *secrets

	// on says that Vault may have the attempt, by the nonce.
	on    bool
	nonce string
	// otp is what Vault encrypts the token with.
	otp string
	// last says that the last key share was sent, so that Vault may have made a token.
	last bool
}

// run begins the attempt, and cancels it unless it comes to its end. An interruption is heeded
// between the requests: one that is under way may be done by Vault nevertheless.
func (a *rootAttempt) run(ctx context.Context, pgpKey string) (err error) {
	state, err := a.active.node.api.Sys().GenerateRootStatusWithContext(ctx)
	if err != nil {
		return denied(err, "%s: %s", a.active.pod.Name, reason(err))
	}
	if state.Started {
		return exit(exitRefused, "an attempt was begun already, and has %d of %d key shares: --cancel ends it",
			state.Progress, state.Required)
	}
	surviveBrokenPipe()
	defer func() {
		if err != nil && a.on {
			a.abandon(context.WithoutCancel(ctx))
		}
	}()
	if state, err = a.begin(context.WithoutCancel(ctx), pgpKey); err != nil {
		return err
	}
	var shares []string
	for !state.Complete {
		lacking := state.Required - state.Progress
		share, err := a.newShare(ctx, a.secrets, shares, lacking)
		switch {
		case errors.Is(err, io.EOF):
			return exit(exitDenied, "%d more key share(s) needed", lacking)
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		}
		shares = append(shares, share)
		a.last = lacking <= 1
		if state, err = a.give(context.WithoutCancel(ctx), share); err != nil {
			return err
		}
		fmt.Fprintf(a.errOut, "%d of %d key shares\n", state.Progress, state.Required)
	}
	a.on = false
	return a.print(state)
}

// begin begins the attempt.
func (a *rootAttempt) begin(ctx context.Context, pgpKey string) (*vaultapi.GenerateRootStatusResponse, error) {
	a.on = true
	state, err := a.active.node.api.Sys().GenerateRootInitWithContext(ctx, "", pgpKey)
	if err == nil {
		a.otp, a.nonce = state.OTP, state.Nonce
		return state, nil
	}
	text := reason(err)
	// It was refused: what is on now is somebody else's.
	a.on = status(err) != http.StatusBadRequest
	if !a.on && strings.Contains(text, "already in progress") {
		return nil, exit(exitRefused, "somebody else has begun an attempt (%s): --cancel ends it", text)
	}
	return nil, denied(err, "%s: %s", a.active.pod.Name, text)
}

// give sends a key share.
func (a *rootAttempt) give(ctx context.Context, share string) (*vaultapi.GenerateRootStatusResponse, error) {
	state, err := a.active.node.api.Sys().GenerateRootUpdateWithContext(ctx, share, a.nonce)
	if err == nil {
		return state, nil
	}
	text := reason(err)
	contains := func(part string) bool { return strings.Contains(text, part) }
	if status(err) != http.StatusBadRequest {
		return nil, denied(err, "%s: %s", a.active.pod.Name, text)
	}
	a.last = false // Vault refused it, and made no token
	switch {
	case contains("no root generation in progress"), contains("incorrect nonce"):
		return nil, exit(exitRefused, "somebody else has cancelled this attempt (%s): begin again", text)
	case contains("Vault is sealed"), contains("standby mode"):
		return nil, fmt.Errorf("%s is not active any more (%s): begin again", a.active.pod.Name, text)
	}
	return nil, exit(exitDenied, "a key share is wrong, or of another Vault (%s)", text)
}

// findToken says what to do about a token that Vault may have made, and that nobody has.
const findToken = "find it with 'vault list auth/token/accessors', and revoke it"

// abandon cancels the attempt, and tells what is left of it.
func (a *rootAttempt) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	canceled, err := a.cancel(ctx)
	switch {
	case err != nil:
		fmt.Fprintf(a.errOut, "The attempt could not be cancelled, run this again with --cancel: %s\n", reason(err))
	case canceled:
		fmt.Fprintln(a.errOut, "The attempt was cancelled")
	default:
		fmt.Fprintln(a.errOut, "The attempt is not on any more")
	}
	if a.last && !canceled {
		fmt.Fprintf(a.errOut, "A root token may exist that nobody has: %s\n", findToken)
	}
}

// cancel cancels the attempt, if it is on, and never that of somebody else. It connects
// anew, since the old connection may be why the attempt has failed.
func (a *rootAttempt) cancel(ctx context.Context) (canceled bool, err error) {
	a.drop(&a.active.pod)
	node, err := a.node(ctx, &a.active.pod)
	if err != nil {
		return false, err
	}
	state, err := node.api.Sys().GenerateRootStatusWithContext(ctx)
	if err != nil {
		return false, err
	}
	// Without an answer the nonce is not known, and in the attempt is no work of anybody.
	ours := state.Nonce == a.nonce || a.nonce == "" && state.Progress == 0
	if !state.Started || !ours {
		return false, nil
	}
	if err := node.api.Sys().GenerateRootCancelWithContext(ctx); err != nil {
		return false, err
	}
	return true, nil
}

// print prints the token.
func (a *rootAttempt) print(state *vaultapi.GenerateRootStatusResponse) error {
	text := state.EncodedToken
	if text == "" {
		text = state.EncodedRootToken
	}
	if state.PGPFingerprint != "" {
		fmt.Fprintf(a.errOut, "The token is encrypted to the key %s\n", line(state.PGPFingerprint))
	} else {
		token, err := base64.RawStdEncoding.DecodeString(text)
		if err != nil || len(token) == 0 || len(token) != len(a.otp) {
			return fmt.Errorf("the token cannot be decoded with the one-time password: %s", findToken)
		}
		for i := range token {
			token[i] ^= a.otp[i]
		}
		text = string(token)
	}
	shown, err := a.printOnce(text + "\n")
	switch {
	case err == nil:
		return nil
	case shown:
		return fmt.Errorf("standard output cannot be written to (%w): the token is above, and nowhere else", err)
	}
	return fmt.Errorf("the token could not be printed (%w), and nobody has it: %s", err, findToken)
}
