package plugin

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

func (p *plugin) execCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "exec NAME -- COMMAND [ARGS...]",
		Short: "Run the vault command of this machine against the active node",
		Long: `Run the vault command of this machine, or any other, against the active node, with
VAULT_ADDR, VAULT_CACERT and VAULT_TLS_SERVER_NAME set. Your token and other variables of
yours stay as they are. The exit code is that of the command.`,
		Example: `  kubectl vault exec example -- vault status
  kubectl vault exec example -- vault login
  kubectl vault exec example -- vault kv get secret/foo`,
		Args: func(cmd *cobra.Command, args []string) error {
			if cmd.ArgsLenAtDash() != 1 || len(args) < 2 {
				return errors.New("give the name of a Vault, --, and a command")
			}
			return nil
		},
		ValidArgsFunction: p.vaultNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.exec(cmd.Context(), args[0], args[1:]) },
	}
}

func (p *plugin) exec(ctx context.Context, name string, command []string) error {
	path, err := exec.LookPath(command[0])
	if err != nil {
		return fmt.Errorf("%w; the vault command is at https://developer.hashicorp.com/vault/install", err)
	}
	t, err := p.target(ctx, name)
	if err != nil {
		return err
	}
	defer t.close()
	active, err := t.active(ctx)
	if err != nil {
		return err
	}
	ca, err := temporary(t.ca)
	if err != nil {
		return err
	}
	defer os.Remove(ca)
	child := exec.Command(path, command[1:]...)
	child.Stdin, child.Stdout, child.Stderr = p.streams.In, p.streams.Out, p.streams.ErrOut
	child.Env = childEnvironment(os.Environ(), active.node.Address, ca, t.vault.ServerName())
	err = runChild(ctx, child)
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		if state, ok := ended.Sys().(syscall.WaitStatus); ok && state.Signaled() {
			return exit(128+int(state.Signal()), "") // as shells do
		}
		return exit(ended.ExitCode(), "")
	}
	return err
}

// runChild runs a command to its end. What Ctrl-C does is for the command to say, which gets it
// from the terminal; other signals come to the plugin alone, and are passed on.
func runChild(ctx context.Context, child *exec.Cmd) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, endSignals()...)
	defer signal.Stop(signals)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		select {
		case err := <-ended:
			return err
		case got := <-signals:
			_ = child.Process.Signal(got) // it may have ended
		}
	}
}

// temporary writes the CA, which is public, to a file.
func temporary(ca []byte) (string, error) {
	file, err := os.CreateTemp("", "vault-ca-*.crt")
	if err != nil {
		return "", err
	}
	_, err = file.Write(ca)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		_ = os.Remove(file.Name()) // what went wrong is told
	}
	return file.Name(), err
}

// childEnvironment is the environment for the vault command. Variables that lead elsewhere,
// or turn the verification of certificates off, are taken out.
func childEnvironment(environ []string, address, ca, serverName string) []string {
	var kept []string
	for _, variable := range environ {
		name, _, _ := strings.Cut(variable, "=")
		switch name {
		case "VAULT_ADDR", "VAULT_AGENT_ADDR", "VAULT_PROXY_ADDR", "VAULT_HTTP_PROXY", "VAULT_SRV_LOOKUP",
			"VAULT_CACERT", "VAULT_CACERT_BYTES", "VAULT_CAPATH", "VAULT_TLS_SERVER_NAME", "VAULT_SKIP_VERIFY":
		default:
			kept = append(kept, variable)
		}
	}
	return append(kept, "VAULT_ADDR=https://"+address, "VAULT_CACERT="+ca, "VAULT_TLS_SERVER_NAME="+serverName)
}
