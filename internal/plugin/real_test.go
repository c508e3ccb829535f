package plugin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vault-operator/vault-operator/internal/testing/poll"
)

// TestRealVault drives real nodes when VAULT_BINARY is where a vault command is. Three
// nodes with storage of their own take over from each other, as those with etcd do.
func TestRealVault(t *testing.T) {
	binary := os.Getenv("VAULT_BINARY")
	if binary == "" {
		t.Skip("VAULT_BINARY is not set")
	}
	h := newHarness(t)
	addresses := map[string]string{}
	var ports []int
	for range 6 {
		ports = append(ports, freePort(t))
	}
	folder := t.TempDir()
	for name, content := range map[string][]byte{"ca.crt": h.ca.Cert, "server.crt": h.server.Cert,
		"server.key": h.server.Key} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		startVault(t, binary, folder, i, ports)
		addresses[fmt.Sprintf("example-%d", i)] = fmt.Sprintf("127.0.0.1:%d", ports[2*i])
	}
	h.pods(addresses)

	h.run("", "unseal", "example").expect(t, exitRefused, "is not initialized")
	r := h.run("", "init", "example", "-o", "json")
	r.expect(t, 0)
	var keys initOutput
	if err := json.Unmarshal([]byte(r.out), &keys); err != nil {
		t.Fatal(err)
	}
	h.run("", "init", "example").expect(t, exitRefused, "is initialized already")
	if keys.UnsealThreshold != 3 || len(keys.UnsealKeysB64) != 5 {
		t.Fatalf("%d of %d keys", keys.UnsealThreshold, len(keys.UnsealKeysB64))
	}
	other := "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDEy"
	h.run(lines(keys.UnsealKeysB64[0], other, keys.UnsealKeysB64[1]), "unseal", "example").expect(t, exitDenied,
		"a key share is wrong")
	h.run(lines(keys.UnsealKeysB64[0]), "unseal", "example").expect(t, exitSealed, "2 more key share(s) needed")
	h.run(lines(keys.UnsealKeysHex[1:4]...), "unseal", "example").expect(t, 0, "example-0: unsealed", "All 3 nodes")

	token := keys.RootToken + "\n"
	h.eventually("", "exec", "example", "--", binary, "status")
	h.run("hvs.wrong\n", "step-down", "example").expect(t, exitDenied, "permission denied")
	h.eventually(token, "step-down", "example")
	h.eventually("", "exec", "example", "--", binary, "status")

	h.run(lines(keys.UnsealKeysB64[0], other, keys.UnsealKeysB64[1]), "generate-root", "example").expect(t, exitDenied,
		"a key share is wrong", "was cancelled")
	r = h.run(lines(keys.UnsealKeysB64[:3]...), "generate-root", "example")
	r.expect(t, 0)
	root := strings.TrimSpace(r.out)
	t.Setenv("VAULT_TOKEN", root)
	h.run("", "exec", "example", "--", binary, "token", "lookup").expect(t, 0, "policies")

	h.run(root+"\n", "seal", "example").expect(t, 0, "is sealed")
	h.run(lines(keys.UnsealKeysB64[2:]...), "unseal", "example").expect(t, 0, "All 3 nodes")
}

// eventually waits until a command goes well.
func (h *harness) eventually(stdin string, args ...string) {
	h.t.Helper()
	poll.Eventually(h.t, strings.Join(args, " "), time.Minute, 500*time.Millisecond, func() error {
		if r := h.run(stdin, args...); r.code != 0 {
			return fmt.Errorf("it ends with %d: %s", r.code, r.errOut)
		}
		return nil
	})
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func startVault(t *testing.T, binary, folder string, i int, ports []int) {
	t.Helper()
	data := filepath.Join(folder, fmt.Sprint("data", i))
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	join := ""
	if i > 0 {
		join = fmt.Sprintf(`retry_join {
    leader_api_addr       = "https://127.0.0.1:%d"
    leader_tls_servername = %q
    leader_ca_cert_file   = "%s/ca.crt"
  }`, ports[0], serverName, folder)
	}
	config := fmt.Sprintf(`
disable_mlock = true
api_addr      = "https://127.0.0.1:%[1]d"
cluster_addr  = "https://127.0.0.1:%[2]d"
storage "raft" {
  path = %[3]q
  %[4]s
}
listener "tcp" {
  address         = "127.0.0.1:%[1]d"
  cluster_address = "127.0.0.1:%[2]d"
  tls_cert_file   = "%[5]s/server.crt"
  tls_key_file    = "%[5]s/server.key"
}
`, ports[2*i], ports[2*i+1], data, join, folder)
	file := filepath.Join(folder, fmt.Sprintf("vault%d.hcl", i))
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	cmd := exec.Command(binary, "server", "-config="+file)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("vault %d:\n%s", i, log.String())
		}
	})
}
