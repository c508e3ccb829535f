// Package vaulttest handles a Vault in a cluster as an administrator would: with kubectl and its
// plugin, a port-forward and the vault command. Only what it waits for it reads without kubectl.
package vaulttest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/poll"
	"github.com/vault-operator/vault-operator/test/internal/program"
	"github.com/vault-operator/vault-operator/test/internal/shell"
)

// Vault is a Vault resource.
type Vault struct {
	Namespace, Name string
}

// Keys are what "vault operator init" hands out.
type Keys struct {
	UnsealKeys []string `json:"unseal_keys_b64"`
	RootToken  string   `json:"root_token"`
}

// Kubectl returns a kubectl command line in the namespace of the Vault.
func (v Vault) Kubectl(format string, args ...any) string {
	return "kubectl -n " + v.Namespace + " " + fmt.Sprintf(format, args...)
}

// Status returns the status of the resource.
func (v Vault) Status() (v1alpha1.VaultStatus, error) {
	var vault v1alpha1.Vault
	err := Get(v.Namespace, v.Name, &vault)
	return vault.Status, err
}

// Await waits until the status is as wanted, and returns it.
func (v Vault) Await(t shell.T, what string, wanted func(v1alpha1.VaultStatus) bool) v1alpha1.VaultStatus {
	t.Helper()
	var status v1alpha1.VaultStatus
	shell.Eventually(t, v.Name+" "+what, 3*time.Minute, func() (err error) {
		if status, err = v.Status(); err != nil {
			return err
		}
		if !wanted(status) {
			return fmt.Errorf("vaultStatus is %+v, phase %s", status.VaultStatus, status.Phase)
		}
		return nil
	})
	return status
}

// AwaitSealed waits until so many nodes wait to be initialized or unsealed.
func (v Vault) AwaitSealed(t shell.T, nodes int) v1alpha1.VaultStatus {
	t.Helper()
	return v.Await(t, fmt.Sprintf("has %d sealed nodes", nodes), func(s v1alpha1.VaultStatus) bool {
		return len(s.VaultStatus.Sealed) == nodes
	})
}

// AwaitHA waits until one node is active and so many are standby, and the
// Service points at the active one.
func (v Vault) AwaitHA(t shell.T, standby int) v1alpha1.VaultStatus {
	t.Helper()
	// The status may be of a moment ago while the Service has moved on.
	return v.Await(t, fmt.Sprintf("is active with %d standby, and its Service points there", standby),
		func(s v1alpha1.VaultStatus) bool {
			if s.VaultStatus.Active == "" || len(s.VaultStatus.Standby) != standby {
				return false
			}
			pointsAt, err := v.Endpoints()
			return err == nil && slices.Equal(pointsAt, []string{s.VaultStatus.Active})
		})
}

// Endpoints are the pods that the Service sends clients to.
func (v Vault) Endpoints() (names []string, err error) {
	var list discoveryv1.EndpointSliceList
	err = List(v.Namespace, &list, client.MatchingLabels{discoveryv1.LabelServiceName: v.Name})
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready && e.TargetRef != nil {
				names = append(names, e.TargetRef.Name)
			}
		}
	}
	return names, err
}

// Forward makes the pod reachable, and returns the environment for the vault
// command.
func (v Vault) Forward(t shell.T, pod string) (env []string, stop func()) {
	t.Helper()
	port := FreePort(t)
	background := shell.Start(t, v.Kubectl("port-forward pod/%s %d:8200", pod, port))
	AwaitPort(t, port, background)
	return []string{fmt.Sprintf("VAULT_ADDR=https://localhost:%d", port), "VAULT_SKIP_VERIFY=true"}, background.Stop
}

// AwaitPort waits until something listens at the port of this machine.
func AwaitPort(t shell.T, port int, by *shell.Background) {
	t.Helper()
	poll.Eventually(t, fmt.Sprintf("port %d is open", port), 20*time.Second, 50*time.Millisecond, func() error {
		if out, ended := by.Ended(); ended {
			return errors.New("port-forward ended: " + out)
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("localhost:%d", port))
		if err == nil {
			_ = conn.Close() // nothing was sent
		}
		return err
	})
}

// FreePort is a port of this machine that nothing listens at.
func FreePort(t shell.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil {
		t.Fatalf("%v", err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// Init initializes the Vault through one of its nodes.
func (v Vault) Init(t shell.T, pod string) Keys {
	t.Helper()
	env, stop := v.Forward(t, pod)
	defer stop()
	return ParseKeys(t, shell.Run(t, "vault operator init -format=json", env...))
}

// ParseKeys reads what "vault operator init -format=json" printed.
func ParseKeys(t shell.T, out string) Keys {
	t.Helper()
	var keys Keys
	if err := json.Unmarshal([]byte(out), &keys); err != nil || len(keys.UnsealKeys) < 3 {
		t.Fatalf("vault operator init: %v", err) // not what it printed: these are secrets
	}
	return keys
}

// Unseal unseals a node.
func (v Vault) Unseal(t shell.T, pod string, keys Keys) {
	t.Helper()
	env, stop := v.Forward(t, pod)
	defer stop()
	UnsealAt(t, keys, env...)
}

// joins are the starts of nodes that got all keys and stayed sealed, and when.
var joins sync.Map

// JoinTime is for how long a node may join the others, from which it gets the data of its integrated
// storage, before it unseals itself. One that is unsealed again in that moment does not notice any
// more when it is not active.
const JoinTime = time.Minute

// TryUnsealAll unseals the nodes, as far as that goes now, and logs why it does not.
func (v Vault) TryUnsealAll(t shell.T, pods []string, keys Keys) {
	t.Helper()
	for _, pod := range pods {
		if err := v.TryUnseal(pod, keys); err != nil {
			t.Logf("%v", err)
		}
	}
}

// TryUnseal unseals a node from inside its pod, which may go away meanwhile. A node that
// gets no response from its storage takes the key and does not respond. One that joins the others
// is left alone meanwhile.
func (v Vault) TryUnseal(pod string, keys Keys) error {
	var vault v1alpha1.Vault
	var node corev1.Pod
	if err := errors.Join(Get(v.Namespace, v.Name, &vault), Get(v.Namespace, pod, &node)); err != nil {
		return err
	}
	start := string(node.UID)
	for _, container := range node.Status.ContainerStatuses {
		start += " " + container.ContainerID
	}
	if when, known := joins.Load(start); known && time.Since(when.(time.Time)) < JoinTime {
		return nil
	}
	out, err := shell.TryInput(strings.Join(keys.UnsealKeys[:3], "\n")+"\n",
		"timeout 30 "+v.Kubectl(`exec -i %s -- sh -c 'while read -r key; do echo "{\"key\": \"$key\"}" | vault write `+
			`sys/unseal - || exit 1; done'`, pod))
	// The last response tells.
	all := sealed.FindAllStringSubmatch(out, -1)
	if vault.HasRaft() && (err != nil || len(all) > 0 && all[len(all)-1][1] == "true") {
		joins.Store(start, time.Now())
	}
	return err
}

var sealed = regexp.MustCompile(`(?m)^sealed +(true|false)$`)

// UnsealAt unseals the node that the environment points at.
func UnsealAt(t shell.T, keys Keys, env ...string) {
	t.Helper()
	for _, key := range keys.UnsealKeys[:3] {
		if out, err := shell.TryInput(`{"key": "`+key+`"}`, "vault write sys/unseal -", env...); err != nil {
			t.Fatalf("unsealing: %s", out)
		}
	}
}

// Plugin runs a command of "kubectl vault", built from this tree, and returns what it printed. That
// may be secret, and is not in the error.
func (v Vault) Plugin(input, command string, args ...string) (string, error) {
	plugin, err := program.Path("cmd/kubectl-vault")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, plugin, slices.Concat([]string{command, v.Name, "-n", v.Namespace}, args)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		failed := &exec.ExitError{}
		errors.As(err, &failed)
		err = fmt.Errorf("kubectl vault %s: %w\n%s", command, err, failed.Stderr)
	}
	return string(out), err
}

// InitAndUnseal brings a Vault whose nodes have come up to full strength.
func (v Vault) InitAndUnseal(t shell.T, nodes int) Keys {
	t.Helper()
	v.AwaitSealed(t, nodes)
	out, err := v.Plugin("", "init", "-o", "json")
	if err != nil {
		t.Fatalf("%v", err)
	}
	keys := ParseKeys(t, out)
	if _, err := v.Plugin(strings.Join(keys.UnsealKeys[:3], "\n")+"\n", "unseal"); err != nil {
		t.Fatalf("%v", err)
	}
	v.AwaitHA(t, nodes-1)
	return keys
}

// Do runs a vault command on a node with a token.
func (v Vault) Do(t shell.T, pod, token, command string) string {
	t.Helper()
	env, stop := v.Forward(t, pod)
	defer stop()
	return shell.Run(t, command, append(env, "VAULT_TOKEN="+token)...)
}
