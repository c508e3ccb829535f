// Command kubectl-vault is "kubectl vault", for administrators of Vaults that the Vault
// Operator runs: it initializes, unseals and examines them with the rights and the
// kubeconfig of the user.
package main

import (
	"os"

	// Clusters that users log in to by OpenID Connect.
	_ "k8s.io/client-go/plugin/pkg/client/auth"

	"github.com/vault-operator/vault-operator/internal/plugin"
)

// version is set when the plugin is built.
var version = "development"

func main() { os.Exit(plugin.Main(version)) }
