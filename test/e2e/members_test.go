//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/test/internal/shell"
	"github.com/vault-operator/vault-operator/test/internal/vaulttest"
)

// newAuthorizedRaft has a Vault with three nodes that unseal with keys of a Secret, in which the
// operator is authorized. It returns the root token.
func newAuthorizedRaft(t *testing.T, name string) (v vaulttest.Vault, root string) {
	t.Helper()
	v = vaulttest.Vault{Namespace: newNamespace(t), Name: name}
	shell.Apply(t, manifest(v, `{nodes: 3, storage: {raft: {volumeSize: 1Gi, whenDeleted: Delete}}, `+
		`operatorLogin: {enabled: true}, initialization: {shares: 1, threshold: 1, rootToken: Secret, `+
		`allowPlaintext: true}, unseal: {keysSecretName: `+name+`-vault-keys}}`))
	active := v.AwaitHA(t, 2).VaultStatus.Active
	root = string(keysOf(t, v)["root-token"])
	v.Do(t, active, root, "vault secrets enable -path=secret -version=1 kv && vault write secret/foo value=bar")
	newAdministrator(t, v).run(t, 0, root+"\n", "authorize")
	lookNow(t, v)
	awaitCondition(t, v, 6*time.Minute, v1alpha1.AuthorizedCondition, metav1.ConditionTrue, v1alpha1.ReasonAuthorized)
	lookNow(t, v)
	return v, root
}

// lookNow changes the spec of a Vault in what restarts nothing, so that the operator looks at once at what it
// would look at again within a minute.
func lookNow(t *testing.T, v vaulttest.Vault) {
	t.Helper()
	setSpec(t, v, fmt.Sprintf(`{"service": {"annotations": {"asked": "%d"}}}`, time.Now().Unix()))
}

func awaitVoters(t *testing.T, v vaulttest.Vault, limit time.Duration, want ...string) {
	t.Helper()
	shell.Eventually(t, "the nodes vote: "+strings.Join(want, " "), limit, func() error {
		status, err := v.Status()
		if err != nil || status.Raft == nil {
			return fmt.Errorf("status.raft is %+v, error %w", status.Raft, err)
		}
		if got := strings.Join(status.Raft.Voters, " "); got != strings.Join(want, " ") {
			return fmt.Errorf("these do: %s", got)
		}
		return nil
	})
}

// TestRaftMembers changes the nodes of a Vault in which the operator is authorized.
func TestRaftMembers(t *testing.T) {
	t.Parallel()
	v, root := newAuthorizedRaft(t, "resized")
	awaitVoters(t, v, 3*time.Minute, "resized-0", "resized-1", "resized-2")
	t.Run("one that was removed joins anew", func(t *testing.T) { removePeer(t, v, root) })
	t.Run("larger volumes", func(t *testing.T) { growRaft(t, v, root) })
	t.Run("they become fewer and more", func(t *testing.T) { resizeRaft(t, v, root) })
}

// growRaft makes the volumes larger, which touches no pod.
func growRaft(t *testing.T, v vaulttest.Vault, root string) {
	before := running(t, v)
	setSpec(t, v, `{"storage": {"raft": {"volumeSize": "3Gi"}}}`)
	requireVolumes(t, v, "3Gi")
	awaitCondition(t, v, time.Minute, v1alpha1.UpdatedCondition, metav1.ConditionTrue, v1alpha1.ReasonUpdated)
	if now := running(t, v); now != before {
		t.Errorf("%s run, and %s ran before", now, before)
	}
	requireValue(t, v, v.AwaitHA(t, 2).VaultStatus.Active, root)
}

// requireVolumes waits until the volumes of all members, and what makes new ones, are of a size.
func requireVolumes(t *testing.T, v vaulttest.Vault, size string) {
	t.Helper()
	shell.Eventually(t, "volumes of "+size, 2*time.Minute, func() error {
		const of = "-o jsonpath='{.status.storage.volumeSize} {.items[*].status.capacity.storage} " +
			"{.items[*].spec.volumeClaimTemplates[0].spec.resources.requests.storage}'"
		status := shell.Run(t, v.Kubectl("get vault %s "+of, v.Name))
		claims := shell.Run(t, v.Kubectl("get pvc "+of))
		sets := shell.Run(t, v.Kubectl("get statefulset -l app.kubernetes.io/instance=%s "+of, v.Name))
		for _, word := range strings.Fields(status + " " + claims + " " + sets) {
			if word != size {
				return fmt.Errorf("the status has %s, the claims have %s, and the StatefulSet has %s", status, claims, sets)
			}
		}
		return nil
	})
}

// resizeRaft takes nodes away from a Vault, its active node last, and adds them again.
func resizeRaft(t *testing.T, v vaulttest.Vault, root string) {
	// As one who has the ClusterRole edit in the namespace.
	shell.Run(t, v.Kubectl("create rolebinding editor --clusterrole=edit --serviceaccount=%s:editor", v.Namespace))
	scale := func(nodes int) {
		shell.Run(t, v.Kubectl("scale vault resized --replicas=%d --as=system:serviceaccount:%s:editor", nodes, v.Namespace))
	}
	scale(1)
	awaitCondition(t, v, 5*time.Minute, v1alpha1.ResizedCondition, metav1.ConditionTrue, v1alpha1.ReasonResized)
	shell.Eventually(t, "the volumes are gone", time.Minute, func() error {
		claims := strings.TrimSpace(shell.Run(t, v.Kubectl("get pvc -o name")))
		if claims != "persistentvolumeclaim/data-resized-0" {
			return fmt.Errorf("there are %s", claims)
		}
		return nil
	})
	awaitVoters(t, v, 2*time.Minute, "resized-0")
	requireValue(t, v, "resized-0", root)
	scale(3)
	awaitPeersVote(t, v, root)
	lookNow(t, v)
	awaitVoters(t, v, 2*time.Minute, "resized-0", "resized-1", "resized-2")
	requireValue(t, v, v.AwaitHA(t, 2).VaultStatus.Active, root)
}

func requireValue(t *testing.T, v vaulttest.Vault, active, root string) {
	t.Helper()
	if got := strings.TrimSpace(v.Do(t, active, root, "vault read -field=value secret/foo")); got != "bar" {
		t.Errorf("the value is %q", got)
	}
}

// removePeer removes a running node from its cluster, which joins anew.
func removePeer(t *testing.T, v vaulttest.Vault, root string) {
	status := v.AwaitHA(t, 2)
	active, standby, since := status.VaultStatus.Active, status.VaultStatus.Standby[0], time.Now()
	var list struct {
		Data struct {
			Config struct {
				Servers []struct {
					ID      string `json:"node_id"`
					Address string `json:"address"`
				} `json:"servers"`
			} `json:"config"`
		} `json:"data"`
	}
	out := v.Do(t, active, root, "vault operator raft list-peers -format=json")
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	id := ""
	for _, server := range list.Data.Config.Servers {
		if strings.HasPrefix(server.Address, standby+".") {
			id = server.ID
		}
	}
	uid := v.Kubectl("get pod %s -o jsonpath={.metadata.uid}", standby)
	before := shell.Run(t, uid)
	v.Do(t, active, root, "vault operator raft remove-peer "+id)
	shell.Eventually(t, standby+" is replaced", 5*time.Minute, func() error {
		if now, err := shell.Try(uid); err != nil || now == before {
			return fmt.Errorf("its UID is %s, error %w", now, err)
		}
		return nil
	})
	awaitEvent(t, v, "NodeHealed", standby, since)
	awaitPeersVote(t, v, root)
	lookNow(t, v)
	requireValue(t, v, active, root)
}
