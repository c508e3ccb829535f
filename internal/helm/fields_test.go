package helm

import "testing"

func TestFieldsOfVault(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{
			`Deployment.apps "a" is invalid: [spec.template.spec.tolerations[0].operator: Invalid value, ` +
				`spec.template.annotations: Invalid value: "Ä"]`,
			`Deployment.apps "a" is invalid: [spec.pod.tolerations[0].operator: Invalid value, ` +
				`spec.pod.annotations: Invalid value: "Ä"]`,
		},
		{
			`Deployment.apps "a" is invalid: spec.template.spec.containers[0].resources.requests: Invalid value: ` +
				`"100m"`,
			`Deployment.apps "a" is invalid: spec.pod.resources.requests: Invalid value: "100m"`,
		},
		{
			`StatefulSet.apps "a-etcd" is invalid: spec.template.spec.containers[0].resources.limits[null]: ` +
				`Invalid value`,
			`StatefulSet.apps "a-etcd" is invalid: spec.storage.etcd.resources.limits[null]: Invalid value`,
		},
		{
			`StatefulSet.apps "a-etcd" is invalid: spec.template.spec.tolerations[0].effect: Unsupported value ` +
				`&& Deployment.apps "a" is invalid: spec.template.spec.tolerations[0].effect: other`,
			`StatefulSet.apps "a-etcd" is invalid: spec.storage.etcd.pod.tolerations[0].effect: Unsupported ` +
				`value && Deployment.apps "a" is invalid: spec.pod.tolerations[0].effect: other`,
		},
		{
			`Deployment.apps "a" is invalid: spec.template.labels: x && StatefulSet.apps "a-etcd" is invalid: ` +
				`spec.template.spec.affinity: y`,
			`Deployment.apps "a" is invalid: spec.pod.labels: x && StatefulSet.apps "a-etcd" is invalid: ` +
				`spec.storage.etcd.pod.affinity: y`,
		},
		{
			`Deployment.apps "a" is invalid: [spec.template.spec.containers[0].env[0].name: x, ` +
				`spec.template.spec.containers[0].envFrom[1].prefix: y]`,
			`Deployment.apps "a" is invalid: [spec.pod.env[0].name: x, spec.pod.envFrom[1].prefix: y]`,
		},
		{
			`Deployment.apps "a" is invalid: [spec.template.spec.containers[0].volumeMounts[0].name: Not found: ` +
				`"b", spec.template.spec.volumes[1].csi: z]`,
			`Deployment.apps "a" is invalid: [spec.pod.volumeMounts[0].name: Not found: "b", ` +
				`spec.pod.volumes[1].csi: z]`,
		},
		{
			`StatefulSet.apps "a" is invalid: spec.template.spec.tolerations[0].effect: Unsupported value`,
			`StatefulSet.apps "a" is invalid: spec.pod.tolerations[0].effect: Unsupported value`,
		},
		{"no quota", "no quota"},
	} {
		if got := fieldsOfVault(tt.text); got != tt.want {
			t.Errorf("fieldsOfVault(%q) =\n%q, want\n%q", tt.text, got, tt.want)
		}
	}
}
