//go:build integration

package integration

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/testing/fakevault"
)

// awaitImage waits until the version is deployed, for the spec as it is now.
func awaitImage(t *testing.T, vault *v1alpha1.Vault, version string) {
	t.Helper()
	eventually(t, version+" is deployed", func() error {
		deployment := deploymentOf(t, vault)
		generation := get(t, vault.Namespace, vault.Name, &v1alpha1.Vault{}).Generation
		image, of := deployment.Spec.Template.Spec.Containers[0].Image, deployment.Annotations[v1alpha1.GenerationAnnotation]
		if image != "hashicorp/vault:"+version || of != strconv.FormatInt(generation, 10) {
			return fmt.Errorf("image %s, of generation %s", image, of)
		}
		return nil
	})
	awaitVault(t, vault, "the release is deployed", has("Irreconcilable=False Reconciled", "ReleaseFailed=False Released"))
}

func awaitDataVersion(t *testing.T, vault *v1alpha1.Vault, version string) {
	t.Helper()
	awaitVault(t, vault, "the data is of "+version, func(v *v1alpha1.Vault) error {
		if v.Status.DataVersion != version {
			return fmt.Errorf("it is of %q", v.Status.DataVersion)
		}
		return nil
	})
}

func TestDowngrade(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	recordVersions(t, namespace)
	vault := awaitDeployed(t, createVault(t, namespace, `spec: {version: 1.21.0}`))
	a := startPod(t, vault, "a", fakevault.Active)
	awaitDataVersion(t, vault, "1.21.0")

	// The way back from a version that no node has been active with.
	change(t, vault, `{"spec": {"version": "1.21.1"}}`)
	awaitImage(t, vault, "1.21.1")
	change(t, vault, `{"spec": {"version": "1.21.0"}}`)
	awaitImage(t, vault, "1.21.0")

	change(t, vault, `{"spec": {"version": "1.21.1"}}`)
	awaitImage(t, vault, "1.21.1")
	a.SetVersion("1.21.1")
	awaitDataVersion(t, vault, "1.21.1")
	awaitQuiet(t)
	before := runningNow(t, vault)
	refused := func() {
		t.Helper()
		awaitVault(t, vault, "the downgrade is refused", has("Updated=False DowngradeRefused",
			"Irreconcilable=True ErrorGettingValues", "Deployed=True UpgradeSuccessful"))
		if now := runningNow(t, vault); now != before {
			t.Errorf("what runs was changed from %+v to %+v", before, now)
		}
	}
	change(t, vault, `{"spec": {"version": "1.21.0"}}`)
	refused()
	awaitEvent(t, vault, "Warning DowngradeRefused spec.version 1.21.0 is refused: a node has been active with 1.21.1")

	// An operator that has seen no node active remembers.
	operator.kill()
	a.Set(fakevault.Sealed)
	startOperator(t)
	nodesAre(t, vault, v1alpha1.NodesStatus{Sealed: []string{"a"}})
	refused()
	if count := countEvents(t, vault, "Warning DowngradeRefused"); count != 1 {
		t.Errorf("%d events", count)
	}

	// Fixed by itself.
	change(t, vault, `{"spec": {"version": "1.21.1"}}`)
	awaitImage(t, vault, "1.21.1")
	awaitVault(t, vault, "nothing is refused", func(v *v1alpha1.Vault) error {
		if c := meta.FindStatusCondition(v.Status.Conditions,
			v1alpha1.UpdatedCondition); c.Reason == v1alpha1.ReasonDowngradeRefused {
			return fmt.Errorf("it is %+v", *c)
		}
		return nil
	})

	// On the user's own responsibility.
	change(t, vault, `{"spec": {"version": "1.21.0", "allowDowngrade": true}}`)
	awaitImage(t, vault, "1.21.0")
	if _, passed := lastRelease(t, vault).Config["allowDowngrade"]; passed {
		t.Error("allowDowngrade is a value of the chart")
	}
	a.SetVersion("1.21.0")
	a.Set(fakevault.Active)
	awaitDataVersion(t, vault, "1.21.0")
	change(t, vault, `{"spec": {"allowDowngrade": null}}`)
	awaitImage(t, vault, "1.21.0")
}

// The status is older than the spec when the operator was away while both a node
// of the upgrade became active and the version was set back.
func TestGoingBackWaitsForTheStatus(t *testing.T) {
	namespace := newNamespace(t)
	operator := startOperator(t)
	vault := awaitDeployed(t, createVault(t, namespace, `spec: {version: 1.21.0}`))
	a := startPod(t, vault, "a", fakevault.Active)
	awaitDataVersion(t, vault, "1.21.0")
	change(t, vault, `{"spec": {"version": "1.21.1"}}`)
	awaitImage(t, vault, "1.21.1")
	awaitQuiet(t)
	before := runningNow(t, vault)
	operator.kill()
	a.SetVersion("1.21.1")
	change(t, vault, `{"spec": {"version": "1.21.0"}}`)
	startOperator(t)
	awaitVault(t, vault, "the downgrade is refused", has("Updated=False DowngradeRefused",
		"Irreconcilable=True ErrorGettingValues"))
	awaitQuiet(t)
	if now := runningNow(t, vault); now != before {
		t.Errorf("what runs was changed from %+v to %+v", before, now)
	}
	conditions := get(t, namespace, vault.Name, &v1alpha1.Vault{}).Status.Conditions
	if c := meta.FindStatusCondition(conditions, "Irreconcilable"); c == nil || c.Status != metav1.ConditionTrue ||
		!strings.Contains(c.Message, "allowDowngrade") {
		t.Errorf("Irreconcilable is %+v", c)
	}
}
