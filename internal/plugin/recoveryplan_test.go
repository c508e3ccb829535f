package plugin

import (
	"fmt"
	"strings"
	"testing"

	vaultapi "github.com/hashicorp/vault/api"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// raftNodesOf are nodes that are, by a word each: "active"; "unsealed:7", with data up to that
// index; "sealed", with data; "joining", "empty", "removed"; "hangs", "down", "gone".
func raftNodesOf(words ...string) (*v1alpha1.Vault, []raftNode) {
	vault := &v1alpha1.Vault{ObjectMeta: metav1.ObjectMeta{Name: "example", Namespace: "default"}}
	vault.Status.Storage = &v1alpha1.StorageStatus{}
	var nodes []raftNode
	for i, word := range words {
		name := fmt.Sprintf("example-%d", i)
		n := raftNode{name: name, pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}},
			claim: &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data-" + name, UID: "old"}}}
		vault.Status.Storage.Volumes = append(vault.Status.Storage.Volumes,
			v1alpha1.StorageVolume{Claim: "data-" + name, UID: types.UID("old")})
		yes := true
		var index uint64
		switch kind, _, _ := strings.Cut(word, ":"); kind {
		case "active":
			n.seal, n.leader = &SealStatus{Initialized: true}, &vaultapi.LeaderResponse{IsSelf: true}
		case "unsealed":
			_, _ = fmt.Sscanf(word, "unsealed:%d", &index)
			n.seal, n.leader = &SealStatus{Initialized: true}, &vaultapi.LeaderResponse{RaftAppliedIndex: index}
		case "sealed":
			n.seal = &SealStatus{Initialized: true, Sealed: true}
		case "removed":
			n.seal = &SealStatus{Initialized: true, Sealed: true, RemovedFromCluster: &yes}
		case "joining":
			n.seal, n.claim.UID = &SealStatus{Initialized: true, Sealed: true}, "new"
		case "empty":
			n.seal, n.claim.UID = &SealStatus{Sealed: true}, "new"
		case "hangs":
			n.pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: v1alpha1.VaultContainer,
				State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		case "gone":
			n.pod, n.claim = nil, nil
		case "lost":
			n.claim.Status.Phase = corev1.ClaimLost
		case "new":
			n.claim.UID = "new"
		case "down":
			n.pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse,
				Message: "0/3 nodes are available"}}
		}
		nodes = append(nodes, n)
	}
	return vault, nodes
}

func TestPlanRecovery(t *testing.T) {
	for _, tt := range []struct {
		nodes, survivor string
		// want is the survivor, and what becomes of the others; or what the refusal says.
		want string
	}{
		{"sealed empty empty", "", "example-0 replaced [] aside [] restarted 0 empty 2"},
		{"sealed joining empty", "", "example-0 replaced [] aside [] restarted 1 empty 1"},
		{"gone sealed down", "", "example-1 replaced [example-0 example-2] aside [] restarted 0 empty 0"},
		{"unsealed:5 removed empty", "", "example-0 replaced [example-1] aside [] restarted 0 empty 1"},
		{"unsealed:5 unsealed:7 empty empty gone", "",
			"example-1 replaced [example-4] aside [example-0] restarted 0 empty 2"},
		{"unsealed:5 unsealed:7 empty empty gone", "example-0",
			"example-0 replaced [example-4] aside [example-1] restarted 0 empty 2"},
		{"unsealed:5 sealed empty empty gone", "", "a node that is sealed does not tell how new that is: example-1"},
		{"unsealed:5 sealed empty empty gone", "example-1",
			"example-1 replaced [example-4] aside [example-0] restarted 0 empty 2"},
		{"sealed empty empty", "example-1", "example-1 does not answer or has no data"},
		{"active empty empty", "", "example-0 is active"},
		{"sealed sealed empty", "", "2 of 3 nodes have their data"},
		{"sealed", "", "1 of 1 nodes have their data"},
		{"sealed hangs empty", "", "example-1 does not answer, and may still run"},
		{"empty joining gone", "", "no node of Vault example that answers has data"},
	} {
		t.Run(tt.nodes+" "+tt.survivor, func(t *testing.T) {
			vault, nodes := raftNodesOf(strings.Fields(tt.nodes)...)
			plan, err := planRecovery(vault, nodes, tt.survivor)
			if err != nil {
				if !strings.Contains(err.Error(), tt.want) {
					t.Errorf("it says %q, want %q", err, tt.want)
				}
				return
			}
			got := fmt.Sprintf("%s replaced %v aside %v restarted %d empty %d", plan.Survivor, plan.Replaced, plan.SetAside,
				len(plan.restarted), len(plan.empty))
			if got != tt.want {
				t.Errorf("it is %q, want %q", got, tt.want)
			}
		})
	}
}

// A node that only does not run, with its volume there, is not given up without somebody who says so.
func TestVolumesThatAreThere(t *testing.T) {
	for _, tt := range []struct {
		nodes  string
		giveUp []string
		yes    bool
		want   string
	}{
		{"sealed down down", nil, true, "the volume of example-1 is there"},
		{"sealed down down", []string{"example-1"}, true, "the volume of example-2 is there"},
		{"sealed down down", []string{"example-1", "example-2"}, true, ""},
		{"sealed down down", nil, false, ""},
		{"sealed lost gone", nil, true, ""},
		{"sealed new new", nil, true, ""},
	} {
		vault, nodes := raftNodesOf(strings.Fields(tt.nodes)...)
		plan, err := planRecovery(vault, nodes, "")
		if err != nil {
			t.Fatal(err)
		}
		err = (&recoverOptions{yes: tt.yes, giveUp: tt.giveUp}).check(plan)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s, %q: error %v", tt.nodes, tt.giveUp, err)
		}
		if strings.Contains(tt.nodes, "down") && !strings.Contains(plan.String(), "WHICH IS THERE: its claim data-example-1 "+
			"is deleted. Only the pod does not run: 0/3 nodes are available") {
			t.Errorf("the plan is %s", plan)
		}
	}
}

// What is lost is said before anything is done.
func TestRecoveryPlanSaysWhatIsLost(t *testing.T) {
	vault, nodes := raftNodesOf("unsealed:5", "unsealed:7", "down", "empty", "gone")
	plan, err := planRecovery(vault, nodes, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"recovered from example-1, which has data up to index 7",
		"had not reached example-1", "data-example-2 is deleted", "example-0 has data up to index 5, which is set aside"} {
		if !strings.Contains(plan.String(), text) {
			t.Errorf("%q has no %q", plan, text)
		}
	}
	if strings.Contains(plan.String(), "data-example-3 is deleted") {
		t.Error("a volume is said to be deleted that is new")
	}
}
