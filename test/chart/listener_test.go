package chart

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// TestVaultListensOnIPv6 starts a real Vault as a pod with an address of IPv6 does, where
// VAULT_BINARY is set, but for its storage. It serves there, and tells the other nodes an
// address that they can connect to.
func TestVaultListensOnIPv6(t *testing.T) {
	binary := os.Getenv("VAULT_BINARY")
	if binary == "" {
		t.Skip("VAULT_BINARY is not set")
	}
	port, clusterPort := freePort(t), freePort(t)
	out := release{values: `{operated: true, ipv6: true}`}.render(t)
	dir := t.TempDir()
	config, _, _ := strings.Cut(string(out.config.Data["operator.hcl"]), `storage "etcd"`)
	config = strings.NewReplacer("/vault/tls/", dir+"/", ":8200", ":"+port, ":8201", ":"+clusterPort).Replace(config) +
		"storage \"inmem_ha\" {}\n"
	var clusterAddress string
	for _, env := range out.vault.Spec.Template.Spec.Containers[0].Env {
		if env.Name == "VAULT_CLUSTER_ADDR" {
			clusterAddress = strings.NewReplacer("$(POD_IP)", "::1", ":8201", ":"+clusterPort).Replace(env.Value)
		}
	}
	ca, err := certs.NewCA("test CA", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := certs.Sign(ca, "example", nil, []string{"localhost"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"operator.hcl": []byte(config), "server.crt": leaf.Cert, "server.key": leaf.Key, "ca.crt": ca.Cert,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	server := exec.Command(binary, "server", "-config="+dir+"/operator.hcl")
	server.Env = []string{"HOME=" + dir, "VAULT_CLUSTER_ADDR=" + clusterAddress,
		"VAULT_API_ADDR=https://localhost:" + port}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })
	vault := func(into any, args ...string) error {
		cmd := exec.Command(binary, args...)
		cmd.Env = []string{"HOME=" + dir, "VAULT_ADDR=https://" + net.JoinHostPort("::1", port),
			"VAULT_CACERT=" + dir + "/ca.crt", "VAULT_TLS_SERVER_NAME=localhost"}
		said, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("vault %s: %w", args[0], err)
		}
		return json.Unmarshal(said, into)
	}
	var keys struct {
		UnsealKeys []string `json:"unseal_keys_b64"`
	}
	poll.Eventually(t, "Vault is initialized", time.Minute, time.Second, func() error {
		return vault(&keys, "operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json")
	})
	var status struct {
		LeaderAddress string `json:"leader_cluster_address"`
	}
	if err := vault(&status, "operator", "unseal", "-format=json", keys.UnsealKeys[0]); err != nil {
		t.Fatal(err)
	}
	poll.Eventually(t, "it is active at an address of IPv6", time.Minute, time.Second, func() error {
		err := vault(&status, "status", "-format=json")
		if err == nil && status.LeaderAddress != clusterAddress {
			err = fmt.Errorf("it is %q, want %s", status.LeaderAddress, clusterAddress)
		}
		return err
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	defer listener.Close()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}
