// Command kubectl-vault is "kubectl vault", for administrators of Vaults that the Vault
// Operator runs: it initializes, unseals and examines them with the rights and the
// kubeconfig of the user.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	// Clusters that users log in to by OpenID Connect.
	_ "k8s.io/client-go/plugin/pkg/client/auth"

	"github.com/vault-operator/vault-operator/internal/plugin"
)

// version is set when the plugin is built.
var version = "development"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := plugin.Main(ctx, version)
	stop()
	os.Exit(code)
}
