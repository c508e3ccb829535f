package seal

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

func newDeployment(change func(*appsv1.Deployment)) *appsv1.Deployment {
	d := &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "example"},
		Spec: appsv1.DeploymentSpec{Replicas: new(int32(3)), Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{
				Annotations: map[string]string{v1alpha1.SealAnnotation: "transit:transit/keys/example", "a": "b"},
				Labels:      map[string]string{"l": "m"},
			},
			Spec: corev1.PodSpec{
				Volumes: []corev1.Volume{{Name: "config"}, {Name: volume,
					VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
						Sources: []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{
							LocalObjectReference: corev1.LocalObjectReference{Name: "one"},
						}}},
					}}}},
				Containers: []corev1.Container{{
					Name: "vault", Image: "hashicorp/vault:1.21.0", EnvFrom: []corev1.EnvFromSource{{Prefix: "a"}},
					VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/vault/config"}, {Name: volume,
						MountPath: "/vault/seal"}},
				}},
			},
		}},
	}
	if change != nil {
		change(d)
	}
	return d
}

func TestGate(t *testing.T) {
	bad := func(reason string) []metav1.Condition {
		return []metav1.Condition{{Type: v1alpha1.SealReadyCondition, Status: metav1.ConditionFalse, Reason: reason}}
	}
	good := []metav1.Condition{{Type: v1alpha1.SealReadyCondition, Status: metav1.ConditionTrue,
		Reason: v1alpha1.ReasonKeyServiceWorks}}
	unknown := []metav1.Condition{{Type: v1alpha1.SealReadyCondition, Status: metav1.ConditionUnknown,
		Reason: v1alpha1.ReasonNotObserved}}
	away := bad(v1alpha1.ReasonKeyServiceUnavailable)
	upgrade := func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "hashicorp/vault:1.21.1" }
	another := func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Volumes[1].Projected.Sources[0].Secret.Name = "two"
	}
	scripted := func(environment string) func(*appsv1.Deployment) {
		return func(d *appsv1.Deployment) {
			container := &d.Spec.Template.Spec.Containers[0]
			container.Command = []string{"# These\nunset VAULT_ADDR\n" + environment + "stop() { true; }\n"}
		}
	}
	keyed := scripted("# Vault would take these instead of what spec.seal says.\nunset VAULT_SEAL_TYPE\n")
	moved := func(d *appsv1.Deployment) {
		scripted("# Vault would take these instead of what spec.seal says.\nunset VAULT_TOKEN\nexport AWS_REGION=a\n")(d)
		another(d)
		d.Spec.Template.Annotations[v1alpha1.SealAnnotation] = "awskms:a/b"
		d.Spec.Template.Spec.Containers[0].Args = []string{stanzas}
		d.Spec.Template.Spec.Containers[0].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	}
	// What webhooks and controllers add to a Deployment.
	foreign := func(d *appsv1.Deployment) {
		template := &d.Spec.Template
		template.Annotations["cattle.io/timestamp"] = "now"
		template.Labels["policy"] = "kyverno"
		spec := &template.Spec
		spec.Volumes = slices.Insert(spec.Volumes, 0, corev1.Volume{Name: "foreign"})
		spec.NodeSelector = map[string]string{"pool": "a"}
		spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "foreign"}}
		vault := &spec.Containers[0]
		vault.Env = append(vault.Env, corev1.EnvVar{Name: "STAKATER_EXAMPLE", Value: "x"})
		vault.EnvFrom = slices.Insert(vault.EnvFrom, 0, corev1.EnvFromSource{Prefix: "foreign"})
		vault.TerminationMessagePath = corev1.TerminationMessagePathDefault
		spec.Containers = slices.Insert(spec.Containers, 0, corev1.Container{Name: "sidecar"})
	}
	mistake := func(d *appsv1.Deployment) {
		d.Spec.Template.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "HTTPS_PROXY", Value: "http://prxy"}}
	}
	// The template was changed by mistake, and its first node, c, cannot start.
	failing := v1alpha1.VaultStatus{UpdatedNodes: []string{"c"},
		VaultStatus: v1alpha1.NodesStatus{Active: "a", Standby: []string{"b"}}}
	halfway := v1alpha1.VaultStatus{UpdatedNodes: []string{"c", "d"},
		VaultStatus: v1alpha1.NodesStatus{Active: "a", Standby: []string{"d"}}}
	active := v1alpha1.VaultStatus{UpdatedNodes: []string{"a"}, VaultStatus: v1alpha1.NodesStatus{Active: "a"}}
	claimed := v1alpha1.VaultStatus{UpdatedNodes: []string{"a"},
		VaultStatus: v1alpha1.NodesStatus{ActiveClaims: []string{"a", "b"}}}
	silent := v1alpha1.VaultStatus{UpdatedNodes: []string{"ready"},
		VaultStatus: v1alpha1.NodesStatus{Unreachable: []string{"ready"}}}
	for name, tt := range map[string]struct {
		conditions    []metav1.Condition
		status        v1alpha1.VaultStatus
		uninitialized bool
		rendered      func(*appsv1.Deployment)
		living        func(*appsv1.Deployment)
		held          bool
	}{
		"set back": {conditions: away, status: failing, living: mistake, rendered: upgrade},
		"set back, and fewer nodes": {conditions: away, status: failing, living: mistake,
			rendered: func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(2)) }, held: true},
		"set back, and nothing is written": {status: failing, living: mistake, rendered: upgrade, held: true},
		"set back, and one was unsealed": {conditions: away, status: halfway, living: mistake, rendered: upgrade,
			held: true},
		"an upgrade, and the active node is of the template": {conditions: away, status: active, rendered: upgrade,
			held: true},
		"an upgrade, and two say that they are active": {conditions: away, status: claimed, rendered: upgrade, held: true},
		"an upgrade, and a node is silent that the kubelet calls ready": {conditions: away, status: silent,
			rendered: upgrade, held: true},
		"an upgrade":                 {conditions: good, rendered: upgrade},
		"an upgrade, and it is away": {conditions: away, rendered: upgrade, held: true},
		"an upgrade, and it refuses": {conditions: bad(v1alpha1.ReasonCredentialsRefused), rendered: upgrade,
			held: true},
		"an upgrade of a new Vault":          {conditions: away, uninitialized: true, rendered: upgrade},
		"an upgrade, and no node tells":      {conditions: unknown, rendered: upgrade},
		"an upgrade, and nothing is written": {rendered: upgrade, held: true},
		"nothing":                            {conditions: away},
		"nothing, and nothing is written":    {},
		"a Secret is missing":                {conditions: bad(v1alpha1.ReasonSecretNotFound), rendered: upgrade},
		// the translation has failed then
		"fewer nodes": {conditions: away,
			rendered: func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(2)) }, held: true},
		"more nodes": {conditions: away,
			rendered: func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(4)) }},
		"an annotation of the Deployment": {conditions: away,
			rendered: func(d *appsv1.Deployment) { d.Annotations = map[string]string{"a": "b"} }},
		"an annotation of the pods": {conditions: away,
			rendered: func(d *appsv1.Deployment) { d.Spec.Template.Annotations["a"] = "c" }, held: true},
		"an annotation less": {conditions: away,
			rendered: func(d *appsv1.Deployment) { delete(d.Spec.Template.Annotations, "a") }},
		"a label": {conditions: away,
			rendered: func(d *appsv1.Deployment) { d.Spec.Template.Labels["x"] = "y" }, held: true},
		"an environment less": {conditions: away,
			rendered: func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].EnvFrom = nil }},
		"an environment more": {conditions: away, rendered: func(d *appsv1.Deployment) {
			container := &d.Spec.Template.Spec.Containers[0]
			container.EnvFrom = append(container.EnvFrom, corev1.EnvFromSource{Prefix: "b"})
		}, held: true},
		"another environment": {conditions: away,
			rendered: func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].EnvFrom[0].Prefix = "b" }, held: true},
		"a node selector": {conditions: away, rendered: func(d *appsv1.Deployment) {
			d.Spec.Template.Spec.NodeSelector = map[string]string{"a": "b"}
		}, held: true},
		"a volume": {conditions: away,
			rendered: func(d *appsv1.Deployment) { d.Spec.Template.Spec.Volumes[0].Name = "other" }, held: true},
		"after kubectl rollout restart": {conditions: away, living: func(d *appsv1.Deployment) {
			d.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] = "now"
		}},
		"another key service":                     {conditions: away, status: halfway, rendered: moved, living: keyed},
		"another key service, and it is set back": {conditions: away, status: halfway, rendered: keyed, living: moved},
		"to Shamir's keys": {conditions: away, status: halfway, living: keyed, rendered: func(d *appsv1.Deployment) {
			moved(d)
			delete(d.Spec.Template.Annotations, v1alpha1.SealAnnotation)
		}},
		"another key service, and an upgrade": {conditions: away, status: halfway, living: keyed,
			rendered: func(d *appsv1.Deployment) {
				moved(d)
				upgrade(d)
			}, held: true},
		"another key service, and another script": {conditions: away, status: halfway, living: keyed,
			rendered: func(d *appsv1.Deployment) {
				moved(d)
				d.Spec.Template.Spec.Containers[0].Command[0] += "reboot\n"
			}, held: true},
		"another stanza, or Secret":                            {conditions: away, rendered: another},
		"another stanza, after others have changed what lives": {conditions: away, rendered: another, living: foreign},
		"an upgrade, after others have changed what lives": {conditions: away, rendered: upgrade, living: foreign,
			held: true},
		"another stanza, and an upgrade": {conditions: away, rendered: func(d *appsv1.Deployment) {
			another(d)
			upgrade(d)
		}, held: true},
		"a seal of the user's configuration": {conditions: away, rendered: upgrade, living: func(d *appsv1.Deployment) {
			delete(d.Spec.Template.Annotations, v1alpha1.SealAnnotation)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(nil)
			vault.Status = tt.status
			vault.Status.Initialized, vault.Status.Conditions = !tt.uninitialized, tt.conditions
			manifest, err := yaml.Marshal(newDeployment(tt.rendered))
			if err != nil {
				t.Fatal(err)
			}
			in := bytes.NewBufferString("kind: ServiceAccount\nmetadata: {name: example}\n---\n" + string(manifest))
			want := in.String()
			ready := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "ready", Labels: vault.PodLabels()},
				Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady,
					Status: corev1.ConditionTrue}}},
			}
			api := newClient(t, vault, newDeployment(tt.living), ready)
			out, err := TemplateGate(api, clientKey(vault)).Run(in)
			switch {
			case tt.held && (err == nil || !strings.Contains(err.Error(), "no node is replaced or taken away")):
				t.Errorf("error %v, want a refusal", err)
			case !tt.held && (err != nil || out.String() != want):
				t.Errorf("error %v, manifests %v", err, out)
			}
		})
	}
	if _, err := TemplateGate(newClient(t, newVault(nil)),
		clientKey(newVault(nil))).Run(bytes.NewBufferString("")); err != nil {
		t.Errorf("nothing rendered: %v", err)
	}
}

func clientKey(vault *v1alpha1.Vault) client.ObjectKey { return client.ObjectKeyFromObject(vault) }
