package vaultstatus

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
)

var update = flag.Bool("update", false, "write what kstatus reads to testdata")

// kstatusFile has what kstatus reads of Vaults, and what it has to make of that. It is read by the test of
// hack/bundle/kstatus: kstatus is in no module of the operator.
const kstatusFile = "testdata/kstatus.yaml"

// kstatusCase is a Vault as kstatus sees it.
type kstatusCase struct {
	Name    string         `json:"name"`
	Kstatus string         `json:"kstatus"`
	Vault   map[string]any `json:"vault"`
}

// TestWhatKstatusReads compares what the operator writes with what kstatus is tested with. Where that changes,
// "go test ./internal/vaultstatus -run TestWhatKstatusReads -update" writes the file.
func TestWhatKstatusReads(t *testing.T) {
	const (
		current, inProgress, failed, deleted = "Current", "InProgress", "Failed", "Terminating"
		yes, no                              = metav1.ConditionTrue, metav1.ConditionFalse
	)
	newTemplate, oldTemplate := ofTemplate("new"), ofTemplate("old")
	running := func() *situation {
		return rollingOut().pod("a", probe.Active, newTemplate).pod("b", probe.Standby, newTemplate)
	}
	empty := newSituation().ofRevision("new").rendered("3").pod("a", probe.Uninitialized, newTemplate).
		pod("b", probe.Uninitialized, newTemplate)
	undeployed := newSituation()
	undeployed.set, undeployed.members = nil, nil
	wrong := running()
	wrong.inputs = map[string]error{v1alpha1.ConfigValidCondition: &problem.Error{
		Reason: v1alpha1.ReasonConfigInvalid, Message: "the configuration sets storage",
	}}
	silent := rollingOut().pod("a", probe.Active, newTemplate).pod("b", probe.Unreachable, newTemplate)
	released := []metav1.Condition{
		{Type: v1alpha1.DeployedCondition, Status: yes, Reason: "UpgradeSuccessful"},
		{Type: v1alpha1.ReleaseFailedCondition, Status: no, Reason: "Released"},
		{Type: v1alpha1.IrreconcilableCondition, Status: no, Reason: "Reconciled"},
	}
	refused := []metav1.Condition{
		{Type: v1alpha1.ReleaseFailedCondition, Status: yes, Reason: "UpgradeError"},
		{Type: v1alpha1.IrreconcilableCondition, Status: yes, Reason: "ReconcileError"},
	}
	waiting := []metav1.Condition{{Type: v1alpha1.IrreconcilableCondition, Status: yes, Reason: "ErrorGettingValues"}}
	changed := map[string]any{"generation": int64(4)}

	var cases []kstatusCase
	for _, tt := range []struct {
		name  string
		facts *situation
		// helm are the conditions that the Helm reconciler has written.
		helm []metav1.Condition
		// metadata is what has become of that since the status was written.
		metadata map[string]any
		want     string
	}{
		{"all nodes are unsealed and up to date", running(), released, nil, current},
		{"nothing is deployed yet", undeployed, nil, nil, inProgress},
		{"nodes wait to be initialized", empty, released, nil, inProgress},
		{
			"a node waits to be unsealed",
			rollingOut().pod("a", probe.Active, newTemplate).pod("b", probe.Sealed, newTemplate), released, nil, inProgress,
		},
		{
			"nodes are replaced", rollingOut().pod("a", probe.Active, oldTemplate).pod("b", probe.Standby, newTemplate),
			released, nil, inProgress,
		},
		{"a node does not respond", silent, released, nil, inProgress},
		{"something is waited for before a release", running(), waiting, nil, inProgress},
		{"the release is refused", running(), refused, nil, failed},
		{"the configuration is wrong", wrong, released, nil, failed},
		{"the spec was changed", running(), released, changed, inProgress},
		{"what was wrong was changed", wrong, refused, changed, inProgress},
		{
			"it is being deleted", running(), released,
			map[string]any{"deletionTimestamp": "2025-11-24T12:00:00Z", "generation": int64(4)}, deleted,
		},
	} {
		tt.facts.vault.Status.Conditions = tt.helm
		status := compute(&tt.facts.facts)
		metadata := map[string]any{"namespace": "default", "name": "example", "generation": tt.facts.vault.Generation}
		for key, value := range tt.metadata {
			metadata[key] = value
		}
		var conditions []any
		for _, c := range slices.Concat(status.Conditions, tt.helm) {
			conditions = append(conditions, map[string]any{"type": c.Type, "status": string(c.Status), "reason": c.Reason})
		}
		cases = append(cases, kstatusCase{tt.name, tt.want, map[string]any{
			"apiVersion": v1alpha1.GroupVersion.String(), "kind": "Vault", "metadata": metadata,
			"status": map[string]any{"observedGeneration": status.ObservedGeneration, "conditions": conditions},
		}})
	}
	got, err := yaml.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.MkdirAll(filepath.Dir(kstatusFile), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(kstatusFile, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(kstatusFile)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("what the operator writes is not what %s has:\n%s", kstatusFile, got)
	}
}
