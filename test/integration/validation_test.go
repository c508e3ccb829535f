//go:build integration

package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// parseVault returns the Vault of a spec in YAML, as a user writes it.
func parseVault(t *testing.T, namespace, name, spec string) *unstructured.Unstructured {
	t.Helper()
	vault := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal([]byte(spec), &vault.Object); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	vault.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("Vault"))
	vault.SetNamespace(namespace)
	vault.SetName(name)
	return vault
}

// strict refuses unknown fields, as kubectl does.
func strict() client.Client {
	return client.WithFieldValidation(admin, metav1.FieldValidationStrict)
}

func TestBadInputIsRefusedWithTheNameOfTheField(t *testing.T) {
	namespace := newNamespace(t)
	tests := []struct {
		name string
		// spec is the object from "spec:" on.
		spec string
		// vault is the object's name, "example" when it is empty.
		vault string
		want  []string
	}{
		{name: "zero nodes", spec: `spec: {nodes: 0}`, want: []string{"spec.nodes", "greater than or equal to 1"}},
		{name: "negative nodes", spec: `spec: {nodes: -1}`, want: []string{"spec.nodes", "greater than or equal to 1"}},
		{name: "too many nodes", spec: `spec: {nodes: 100}`, want: []string{"spec.nodes", "less than or equal to 99"}},
		{name: "nodes in words", spec: `spec: {nodes: two}`, want: []string{"spec.nodes", "integer"}},
		{name: "half a node", spec: `spec: {nodes: 1.5}`, want: []string{"spec.nodes", "integer"}},

		{name: "an unknown field", spec: `spec: {replicas: 2}`, want: []string{`unknown field "spec.replicas"`}},
		{name: "a field in the wrong case", spec: `spec: {configMapname: mine}`,
			want: []string{`unknown field "spec.configMapname"`}},
		{name: "an unknown field of the pods", spec: `spec: {pod: {nodeSelecto: {}}}`,
			want: []string{`unknown field "spec.pod.nodeSelecto"`}},
		{name: "an unknown storage", spec: `spec: {storage: {etcd: {}, consul: {}}}`,
			want: []string{`unknown field "spec.storage.consul"`}},
		{name: "an unknown field of the storage", spec: `spec: {storage: {etcd: {size: 1Gi}}}`,
			want: []string{`unknown field "spec.storage.etcd.size"`}},

		{name: "a version that is a word", spec: `spec: {version: latest}`, want: []string{"spec.version", "1.21.0"}},
		{name: "half a version", spec: `spec: {version: "1.21"}`, want: []string{"spec.version", "1.21.0"}},
		{name: "a version that is a number", spec: `spec: {version: 1.21}`, want: []string{"spec.version", "string"}},
		{name: "a version with a v", spec: `spec: {version: v1.21.0}`, want: []string{"spec.version"}},
		{name: "an empty version", spec: `spec: {version: ""}`, want: []string{"spec.version"}},
		{name: "a version with a command in it", spec: `spec: {version: "1.21.0; reboot"}`, want: []string{"spec.version"}},
		{name: "a version over two lines", spec: "spec: {version: \"1.21.0\\n\"}", want: []string{"spec.version"}},
		{name: "a version that is too long for a tag", spec: `spec: {version: "1.21.0-` + strings.Repeat("x", 60) + `"}`,
			want: []string{"spec.version"}},

		{name: "an image with a tag", spec: `spec: {baseImage: "hashicorp/vault:1.21.0"}`,
			want: []string{"spec.baseImage", "without a tag"}},
		{name: "an image with a digest", spec: `spec: {baseImage: "hashicorp/vault@sha256:0000"}`,
			want: []string{"spec.baseImage", "without a tag"}},
		{name: "an empty image", spec: `spec: {baseImage: ""}`, want: []string{"spec.baseImage"}},
		{name: "an image with a space", spec: `spec: {baseImage: "hashicorp/vault --privileged"}`,
			want: []string{"spec.baseImage"}},

		{name: "an empty ConfigMap name", spec: `spec: {configMapName: ""}`, want: []string{"spec.configMapName"}},
		{name: "a ConfigMap name that is too long", spec: `spec: {configMapName: ` + strings.Repeat("x", 254) + `}`,
			want: []string{"spec.configMapName"}},

		{name: "the operator's own label", spec: `spec: {pod: {labels: {vault.security.coreos.com/active: "true"}}}`,
			want: []string{"spec.pod.labels", "set by the operator"}},
		{name: "a recommended label", spec: `spec: {pod: {labels: {app.kubernetes.io/instance: other}}}`,
			want: []string{"spec.pod.labels", "set by the operator"}},
		{name: "resources that are no quantity", spec: `spec: {pod: {resources: {requests: {cpu: lots}}}}`,
			want: []string{"spec.pod.resources.requests.cpu"}},

		{name: "a digest that is a tag", spec: `spec: {imageDigest: latest}`, want: []string{"spec.imageDigest", "sha256"}},
		{name: "half a digest of etcd", spec: `spec: {storage: {etcd: {imageDigest: "sha256:00"}}}`,
			want: []string{"spec.storage.etcd.imageDigest", "sha256"}},
		{name: "a proxy by name", spec: `spec: {listener: {xForwardedForAuthorizedAddrs: [proxy.example.com]}}`,
			want: []string{"spec.listener.xForwardedForAuthorizedAddrs[0]"}},
		{name: "a variable of the operator", spec: `spec: {pod: {env: [{name: VAULT_API_ADDR, value: "https://me"}]}}`,
			want: []string{"spec.pod.env", "set by the operator"}},
		{name: "a variable that moves the storage",
			spec: `spec: {pod: {env: [{name: ETCD_ADDR, value: "https://other:2379"}]}}`,
			want: []string{"spec.pod.env", "ETCD_*"}},
		{name: "a hook of Helm", spec: `spec: {pod: {serviceAccountAnnotations: {helm.sh/hook: x}}}`,
			want: []string{"spec.pod.serviceAccountAnnotations", "helm.sh/"}},
		{name: "a hook of Helm on the Service", spec: `spec: {service: {annotations: {helm.sh/hook: x}}}`,
			want: []string{"spec.service.annotations", "helm.sh/"}},
		{name: "the owner of Helm", spec: `spec: {service: {annotations: {meta.helm.sh/release-name: other}}}`,
			want: []string{"spec.service.annotations", "helm.sh/"}},
		{name: "a variable twice", spec: `spec: {pod: {env: [{name: A, value: b}, {name: A, value: c}]}}`,
			want: []string{"spec.pod.env", "Duplicate"}},
		{name: "an environment from nothing", spec: `spec: {pod: {envFrom: [{prefix: a}]}}`,
			want: []string{"spec.pod.envFrom", "exactly one"}},
		{name: "a volume of the operator", spec: `spec: {pod: {volumes: [{name: tls, emptyDir: {}}]}}`,
			want: []string{"spec.pod.volumes", "the operator's"}},
		{name: "the audit volume, twice", spec: `spec: {audit: {}, pod: {volumes: [{name: audit, emptyDir: {}}]}}`,
			want: []string{"spec.pod.volumes", "while spec.audit is set"}},
		{name: "a mount in the audit volume",
			spec: `spec: {audit: {}, pod: {volumeMounts: [{name: a, mountPath: /vault/audit/b}]}}`,
			want: []string{"spec.pod.volumeMounts", "while spec.audit is set"}},
		{name: "a tiny audit volume", spec: `spec: {audit: {volumeSize: 63Mi}}`,
			want: []string{"spec.audit.volumeSize", "at least 64Mi"}},
		{name: "an audit volume of no size", spec: `spec: {audit: {volumeSize: big}}`,
			want: []string{"spec.audit.volumeSize"}},
		{name: "an audit volume of no class", spec: `spec: {audit: {storageClassName: ""}}`,
			want: []string{"spec.audit.storageClassName"}},
		{name: "a volume of nothing", spec: `spec: {pod: {volumes: [{name: a}]}}`,
			want: []string{"spec.pod.volumes[0]", "exactly one"}},
		{name: "a volume of two kinds", spec: `spec: {pod: {volumes: [{name: a, emptyDir: {}, secret: {secretName: a}}]}}`,
			want: []string{"spec.pod.volumes[0]", "exactly one"}},
		{name: "a volume of the Kubernetes node", spec: `spec: {pod: {volumes: [{name: a, hostPath: {path: /}}]}}`,
			want: []string{"hostPath"}},
		{name: "a volume with a bad name", spec: `spec: {pod: {volumes: [{name: A_B, emptyDir: {}}]}}`,
			want: []string{"spec.pod.volumes[0].name", "lower case"}},
		{name: "a mount over the certificates", spec: `spec: {pod: {volumeMounts: [{name: a, mountPath: /vault/tls}]}}`,
			want: []string{"spec.pod.volumeMounts", "the operator's"}},
		{name: "a mount in the configuration",
			spec: `spec: {pod: {volumeMounts: [{name: a, mountPath: /vault/config/more}]}}`,
			want: []string{"spec.pod.volumeMounts", "the operator's"}},
		{name: "a mount above the configuration", spec: `spec: {pod: {volumeMounts: [{name: a, mountPath: /vault}]}}`,
			want: []string{"spec.pod.volumeMounts", "the operator's"}},
		{name: "a mount over everything", spec: `spec: {pod: {volumeMounts: [{name: a, mountPath: /}]}}`,
			want: []string{"spec.pod.volumeMounts", "absolute path"}},
		{name: "a mount by a detour", spec: `spec: {pod: {volumeMounts: [{name: a, mountPath: /vault/plugins/../tls}]}}`,
			want: []string{"spec.pod.volumeMounts", "absolute path"}},
		{name: "a mount over the home directory", spec: `spec: {pod: {volumeMounts: [{name: a, mountPath: /tmp}]}}`,
			want: []string{"spec.pod.volumeMounts", "the operator's"}},

		{name: "a Service of an unknown type", spec: `spec: {service: {type: ExternalName}}`,
			want: []string{"spec.service.type", "LoadBalancer"}},

		{name: "half of the certificates", spec: `spec: {tls: {static: {serverSecret: mine}}}`,
			want: []string{"spec.tls.static.clientSecret", "Required"}},
		{name: "the other half", spec: `spec: {tls: {static: {clientSecret: mine}}}`,
			want: []string{"spec.tls.static.serverSecret", "Required"}},
		{name: "an empty Secret name", spec: `spec: {tls: {static: {serverSecret: "", clientSecret: mine}}}`,
			want: []string{"spec.tls.static.serverSecret"}},

		{name: "both kinds of storage", spec: `spec: {nodes: 3, storage: {etcd: {}, raft: {}}}`,
			want: []string{"spec.storage", "only one kind"}},
		{name: "etcd beside an external storage",
			spec: `spec: {storage: {etcd: {}, external: {type: consul, configSecretName: a}}}`,
			want: []string{"spec.storage", "only one kind"}},
		{name: "two nodes on a storage without a lock",
			spec: `spec: {nodes: 2, storage: {external: {type: s3, configSecretName: a}}}`,
			want: []string{"spec.nodes", "must be 1 with this type"}},
		{name: "the default number of nodes on an unknown storage",
			spec: `spec: {storage: {external: {type: mine, configSecretName: a}}}`,
			want: []string{"spec.nodes", "must be 1 with this type"}},
		{name: "a lock that there is not",
			spec: `spec: {nodes: 1, storage: {external: {type: s3, configSecretName: a, highAvailability: true}}}`,
			want: []string{"spec.storage.external.highAvailability", "several nodes cannot share it"}},
		{name: "raft as an external storage",
			spec: `spec: {nodes: 1, storage: {external: {type: raft, configSecretName: a}}}`,
			want: []string{"spec.storage.external.type", "raft is storage.raft"}},
		{name: "a storage with a strange name",
			spec: `spec: {nodes: 1, storage: {external: {type: "a\" {", configSecretName: a}}}`,
			want: []string{"spec.storage.external.type", "must be the type of a storage"}},
		{name: "an external storage without a Secret", spec: `spec: {nodes: 1, storage: {external: {type: consul}}}`,
			want: []string{"spec.storage.external.configSecretName", "Required value"}},
		{name: "raft of the default number of nodes", spec: `spec: {storage: {raft: {}}}`,
			want: []string{"spec.nodes", "must be 1, 3, 5 or 7"}},
		{name: "an even number of raft nodes", spec: `spec: {nodes: 4, storage: {raft: {}}}`,
			want: []string{"spec.nodes", "must be 1, 3, 5 or 7"}},
		{name: "too many raft nodes", spec: `spec: {nodes: 9, storage: {raft: {}}}`,
			want: []string{"spec.nodes", "must be 1, 3, 5 or 7"}},
		{name: "a small volume of raft", spec: `spec: {nodes: 3, storage: {raft: {volumeSize: 512Mi}}}`,
			want: []string{"spec.storage.raft.volumeSize", "at least 1Gi"}},
		{name: "a multiplier of nothing", spec: `spec: {nodes: 3, storage: {raft: {performanceMultiplier: 0}}}`,
			want: []string{"spec.storage.raft.performanceMultiplier", "greater than or equal to 1"}},
		{name: "a volume in place of raft's",
			spec: `spec: {nodes: 3, storage: {raft: {}}, pod: {volumes: [{name: data, emptyDir: {}}]}}`,
			want: []string{"spec.pod.volumes", "the volume data is the operator's"}},
		{name: "a mount in raft's volume", spec: `spec: {nodes: 3, storage: {raft: {}}, pod: {
			volumes: [{name: a, emptyDir: {}}], volumeMounts: [{name: a, mountPath: /vault/data/raft}]}}`,
			want: []string{"spec.pod.volumeMounts", "/vault/data is the operator's"}},
		{name: "an even etcd size", spec: `spec: {storage: {etcd: {nodes: 2}}}`,
			want: []string{"spec.storage.etcd.nodes", "must be odd"}},
		{name: "no etcd member", spec: `spec: {storage: {etcd: {nodes: 0}}}`,
			want: []string{"spec.storage.etcd.nodes", "greater than or equal to 1"}},
		{name: "a negative etcd size", spec: `spec: {storage: {etcd: {nodes: -1}}}`,
			want: []string{"spec.storage.etcd.nodes", "greater than or equal to 1"}},
		{name: "too many etcd members", spec: `spec: {storage: {etcd: {nodes: 9}}}`,
			want: []string{"spec.storage.etcd.nodes", "less than or equal to 7"}},
		{name: "an etcd that is too old", spec: `spec: {storage: {etcd: {version: 3.5.21}}}`,
			want: []string{"spec.storage.etcd.version", "3.6 or later"}},
		{name: "an etcd version with a v", spec: `spec: {storage: {etcd: {version: v3.6.16}}}`,
			want: []string{"spec.storage.etcd.version"}},
		{name: "an etcd image with a tag", spec: `spec: {storage: {etcd: {baseImage: "quay.io/coreos/etcd:v3.6.0"}}}`,
			want: []string{"spec.storage.etcd.baseImage", "without a tag"}},
		{name: "a volume of no size", spec: `spec: {storage: {etcd: {volumeSize: "0"}}}`,
			want: []string{"spec.storage.etcd.volumeSize", "at least 512Mi"}},
		{name: "a volume of no size, as a number", spec: `spec: {storage: {etcd: {volumeSize: 0}}}`,
			want: []string{"spec.storage.etcd.volumeSize", "must be of type string"}},
		{name: "a volume that cannot hold etcd's log", spec: `spec: {storage: {etcd: {volumeSize: 511Mi}}}`,
			want: []string{"spec.storage.etcd.volumeSize", "at least 512Mi"}},
		{name: "a negative volume", spec: `spec: {storage: {etcd: {volumeSize: -1Gi}}}`,
			want: []string{"spec.storage.etcd.volumeSize"}},
		{name: "a volume of words", spec: `spec: {storage: {etcd: {volumeSize: big}}}`,
			want: []string{"spec.storage.etcd.volumeSize"}},
		{name: "an empty class", spec: `spec: {storage: {etcd: {storageClassName: ""}}}`,
			want: []string{"spec.storage.etcd.storageClassName"}},
		{name: "neither keep nor delete", spec: `spec: {storage: {etcd: {whenDeleted: Maybe}}}`,
			want: []string{"spec.storage.etcd.whenDeleted", "Retain"}},

		{name: "what no ConfigMap can be named", spec: `spec: {configMapName: "Not A Name"}`,
			want: []string{"spec.configMapName", "name of an object"}},
		{name: "what no Secret can be named", spec: `spec: {configSecretName: my_secret}`,
			want: []string{"spec.configSecretName", "name of an object"}},
		{name: "what no Secret with a certificate can be named",
			spec: `spec: {tls: {static: {serverSecret: -a, clientSecret: a}}}`,
			want: []string{"spec.tls.static.serverSecret", "name of an object"}},
		{name: "what no Secret with a CA can be named", spec: `spec: {tls: {static: {serverSecret: a, clientSecret: a.}}}`,
			want: []string{"spec.tls.static.clientSecret", "name of an object"}},
		{name: "what no class can be named", spec: `spec: {storage: {etcd: {storageClassName: Fast}}}`,
			want: []string{"spec.storage.etcd.storageClassName", "name of an object"}},
		{name: "what no priority can be named", spec: `spec: {pod: {priorityClassName: "a b"}}`,
			want: []string{"spec.pod.priorityClassName", "name of an object"}},
		{name: "what no priority of etcd can be named", spec: `spec: {storage: {etcd: {pod: {priorityClassName: "a b"}}}}`,
			want: []string{"spec.storage.etcd.pod.priorityClassName", "name of an object"}},
		{name: "an empty toleration", spec: `spec: {pod: {tolerations: [{}]}}`,
			want: []string{"spec.pod.tolerations", "Exists"}},
		{name: "a toleration of an unknown effect", spec: `spec: {pod: {tolerations: [{key: a, effect: -a}]}}`,
			want: []string{"spec.pod.tolerations", "NoSchedule"}},
		{name: "an empty toleration of etcd", spec: `spec: {storage: {etcd: {pod: {tolerations: [{}]}}}}`,
			want: []string{"spec.storage.etcd.pod.tolerations", "Exists"}},
		{name: "a limit of nothing", spec: `spec: {pod: {resources: {limits: {"null": 1}}}}`,
			want: []string{"spec.pod.resources", "ephemeral-storage"}},
		{name: "a request of nothing", spec: `spec: {storage: {etcd: {resources: {requests: {disk: 1}}}}}`,
			want: []string{"spec.storage.etcd.resources", "ephemeral-storage"}},

		{name: "a name that is too long", vault: strings.Repeat("x", 41), want: []string{"metadata.name", "at most 40"}},
		{name: "a name that begins with a digit", vault: "1example", want: []string{"metadata.name", "start with a letter"}},
		{name: "a name with a dot", vault: "my.vault", want: []string{"metadata.name", "start with a letter"}},
		{name: "a namespace of specs", spec: `spec: nothing`, want: []string{"spec"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := "example"
			if tt.vault != "" {
				name = tt.vault
			}
			requireRefused(t, parseVault(t, namespace, name, tt.spec), tt.want)
		})
	}
}

// requireRefused fails the test unless the API server refuses the Vault, with a message that has
// all of the texts.
func requireRefused(t *testing.T, vault client.Object, texts []string) {
	t.Helper()
	err := strict().Create(t.Context(), vault, client.DryRunAll)
	if !apierrors.IsInvalid(err) && !apierrors.IsBadRequest(err) {
		t.Fatalf("Create() = %v, want a refusal", err)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("message %q does not contain %q", err, text)
		}
	}
}

func TestGoodInputIsAccepted(t *testing.T) {
	namespace := newNamespace(t)
	for name, tt := range map[string]struct{ vault, spec string }{
		"nothing":                {},
		"one node":               {spec: `spec: {nodes: 1}`},
		"an image by its digest": {spec: `spec: {imageDigest: "sha256:` + strings.Repeat("0a", 32) + `"}`},
		"proxies": {spec: `spec: {listener: {unauthenticatedMetricsAccess: true, ` +
			`xForwardedForAuthorizedAddrs: [10.0.0.0/8, "fd00::1"]}}`},
		"variables": {spec: `spec: {pod: {env: [{name: HTTPS_PROXY, value: "http://proxy"}, {name: ` +
			`VAULT_LICENSE, valueFrom: {secretKeyRef: {name: a, key: b}}}], envFrom: [{prefix: AWS_, secretRef: {name: a}}, ` +
			`{configMapRef: {name: b}}]}}`},
		"volumes": {spec: `spec: {pod: {volumes: [{name: a, configMap: {name: b}}, {name: c, ` +
			`emptyDir: {}}, {name: d, persistentVolumeClaim: {claimName: e}}], volumeMounts: [{name: a, mountPath: ` +
			`/vault/plugins}, {name: c, mountPath: /var/cache, subPath: a}, {name: d, mountPath: /vault/tls-old/a.b_c}]}}`},
		"an identity": {spec: `spec: {pod: {serviceAccountAnnotations: {"eks.amazonaws.com/role-arn": ` +
			`"arn:aws:iam::1:role/vault"}}}`},
		"many nodes":                  {spec: `spec: {nodes: 99}`},
		"the longest name":            {vault: "x" + strings.Repeat("-", 38) + "x"},
		"the shortest name":           {vault: "x"},
		"an enterprise version":       {spec: `spec: {version: "1.21.0-ent.hsm"}`},
		"a release candidate":         {spec: `spec: {version: "1.22.0-rc1"}`},
		"versions of many digits":     {spec: `spec: {version: "10.200.3000", storage: {etcd: {version: 3.60.1}}}`},
		"a registry with a port":      {spec: `spec: {baseImage: "registry.example.com:5000/team/vault"}`},
		"an upper case tag of a path": {spec: `spec: {baseImage: "quay.io/Team/vault"}`},
		"one etcd member":             {spec: `spec: {storage: {etcd: {nodes: 1}}}`},
		"seven etcd members":          {spec: `spec: {storage: {etcd: {nodes: 7}}}`},
		"one raft node":               {spec: `spec: {nodes: 1, storage: {raft: {}}}`},
		"seven raft nodes":            {spec: `spec: {nodes: 7, storage: {raft: {volumeSize: 1Gi}}}`},
		"PostgreSQL":                  {spec: `spec: {storage: {external: {type: postgresql, configSecretName: a}}}`},
		"one node on S3":              {spec: `spec: {nodes: 1, storage: {external: {type: s3, configSecretName: a}}}`},
		"a storage of one's own": {
			spec: `spec: {nodes: 3, storage: {external: {type: mine, configSecretName: a, highAvailability: true}}}`,
		},
		"a volume in bytes":            {spec: `spec: {storage: {etcd: {volumeSize: "1073741824"}}}`},
		"a fraction of a volume":       {spec: `spec: {storage: {etcd: {volumeSize: 0.5Gi}}}`},
		"data that goes with the CR":   {spec: `spec: {storage: {etcd: {whenDeleted: Delete}}}`},
		"certificates of one's own":    {spec: `spec: {tls: {static: {serverSecret: a, clientSecret: a}}}`},
		"a policy that says nothing":   {spec: `spec: {tls: {}, pod: {}}`},
		"labels of one's own":          {spec: `spec: {pod: {labels: {example.com/tier: security, app: vault}}}`},
		"a ConfigMap of a long name":   {spec: `spec: {configMapName: ` + strings.Repeat("x", 253) + `}`},
		"resources as numbers":         {spec: `spec: {pod: {resources: {limits: {cpu: 2, memory: 1Gi}}}}`},
		"an empty resources object":    {spec: `spec: {pod: {resources: {}}}`},
		"null for what has a default":  {spec: `spec: {nodes: null, storage: {etcd: {nodes: null, volumeSize: null}}}`},
		"null for what has no default": {spec: `spec: {tls: null}`},
	} {
		t.Run(name, func(t *testing.T) {
			if tt.vault == "" {
				tt.vault = "example"
			}
			if err := strict().Create(t.Context(), parseVault(t, namespace, tt.vault, tt.spec), client.DryRunAll); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDefaultsAreFilledIn(t *testing.T) {
	namespace := newNamespace(t)
	for _, spec := range []string{"", "spec: {}", "spec: {storage: {}}", "spec: {pod: {}}"} {
		t.Run(spec, func(t *testing.T) {
			object := parseVault(t, namespace, "example", spec)
			if err := strict().Create(t.Context(), object, client.DryRunAll); err != nil {
				t.Fatal(err)
			}
			want := map[string]any{
				"nodes": int64(2), "version": "1.21.0", "baseImage": "hashicorp/vault",
				"pod": map[string]any{"resources": map[string]any{"requests": map[string]any{"cpu": "100m",
					"memory": "256Mi"}}},
				"service": map[string]any{"type": "ClusterIP"},
				"storage": map[string]any{}, // what is set here would be in forms beside another kind of storage
			}
			if got := object.Object["spec"]; !equalJSON(t, got, want) {
				t.Errorf("spec %v, want %v", got, want)
			}
		})
	}
}

func TestWhatCannotBeChanged(t *testing.T) {
	tests := []struct {
		name         string
		spec, change string
		want         []string // none when the change is fine
	}{
		{name: "fewer etcd members", spec: `spec: {storage: {etcd: {nodes: 3}}}`,
			change: `spec: {storage: {etcd: {nodes: 1}}}`, want: []string{"spec.storage.etcd.nodes", "cannot be changed"}},
		{name: "more etcd members", spec: `spec: {storage: {etcd: {nodes: 1}}}`,
			change: `spec: {storage: {etcd: {nodes: 3}}}`, want: []string{"spec.storage.etcd.nodes", "cannot be changed"}},
		{name: "the default of etcd members", spec: `spec: {storage: {etcd: {nodes: 1}}}`,
			change: `spec: {storage: {etcd: {nodes: null}}}`, want: []string{"spec.storage.etcd.nodes", "cannot be changed"}},
		{name: "the default storage", change: `spec: {storage: {etcd: null}}`},
		{name: "a larger volume", change: `spec: {storage: {etcd: {volumeSize: 3Gi}}}`},
		{name: "a smaller volume", change: `spec: {storage: {etcd: {volumeSize: 1Gi}}}`,
			want: []string{"spec.storage.etcd.volumeSize", "cannot be made smaller"}},
		{name: "the default volume", spec: `spec: {storage: {etcd: {volumeSize: 3Gi}}}`,
			change: `spec: {storage: {etcd: {volumeSize: null}}}`, want: []string{"spec.storage.etcd.volumeSize",
				"cannot be made smaller"}},
		{name: "another class", spec: `spec: {storage: {etcd: {storageClassName: fast}}}`,
			change: `spec: {storage: {etcd: {storageClassName: slow}}}`,
			want:   []string{"spec.storage.etcd.storageClassName", "cannot be changed"}},
		{name: "a class where there was none", change: `spec: {storage: {etcd: {storageClassName: slow}}}`,
			want: []string{"spec.storage.etcd.storageClassName", "cannot be changed"}},
		{name: "no class where there was one", spec: `spec: {storage: {etcd: {storageClassName: fast}}}`,
			change: `spec: {storage: {etcd: {storageClassName: null}}}`,
			want:   []string{"spec.storage.etcd.storageClassName", "cannot be changed"}},
		{name: "the default storage, and its volumes", spec: `spec: {storage: {etcd: {volumeSize: 3Gi}}}`,
			change: `spec: {storage: {etcd: null}}`, want: []string{"spec.storage.etcd.volumeSize", "cannot be made smaller"}},
		{name: "the default storage, and its members", spec: `spec: {storage: {etcd: {nodes: 1}}}`,
			change: `spec: {storage: {etcd: null}}`, want: []string{"spec.storage.etcd.nodes", "cannot be changed"}},
		{name: "from the default storage to raft", change: `spec: {nodes: 3, storage: {raft: {}}}`,
			want: []string{"spec.storage", "cannot be changed", "docs/moving-storage.md"}},
		{name: "another kind of storage", change: `spec: {nodes: 3, storage: {etcd: null, raft: {}}}`,
			want: []string{"spec.storage", "cannot be changed", "docs/moving-storage.md"}},
		{name: "from raft to an external storage", spec: `spec: {nodes: 3, storage: {raft: {}}}`,
			change: `spec: {storage: {raft: null, external: {type: consul, configSecretName: a}}}`,
			want:   []string{"spec.storage", "cannot be changed", "docs/moving-storage.md"}},
		{name: "another type of external storage", spec: `spec: {storage: {external: {type: consul, configSecretName: a}}}`,
			change: `spec: {storage: {external: {type: mysql}}}`,
			want:   []string{"spec.storage.external.type", "another storage has other data"}},
		{name: "another Secret of an external storage",
			spec:   `spec: {storage: {external: {type: consul, configSecretName: a}}}`,
			change: `spec: {storage: {external: {configSecretName: b}}}`},
		{name: "a larger volume of raft", spec: `spec: {nodes: 3, storage: {raft: {}}}`,
			change: `spec: {storage: {raft: {volumeSize: 20Gi}}}`},
		{name: "another class of raft", spec: `spec: {nodes: 3, storage: {raft: {}}}`,
			change: `spec: {storage: {raft: {storageClassName: slow}}}`, want: []string{"spec.storage.raft.storageClassName",
				"cannot be changed"}},
		{name: "more nodes with raft", spec: `spec: {nodes: 3, storage: {raft: {}}}`, change: `spec: {nodes: 5}`},
		{name: "the performance of raft", spec: `spec: {nodes: 3, storage: {raft: {}}}`,
			change: `spec: {storage: {raft: {performanceMultiplier: 1, whenDeleted: Delete}}}`},
		{name: "bad input on a good Vault", change: `spec: {nodes: 0}`, want: []string{"spec.nodes"}},

		{name: "the same volume in other words", change: `spec: {storage: {etcd: {volumeSize: 2048Mi}}}`},
		{name: "the same number of members", change: `spec: {storage: {etcd: {nodes: 3}}}`},
		{name: "the number of nodes", change: `spec: {nodes: 5}`},
		{name: "the versions", change: `spec: {version: 1.21.1, storage: {etcd: {version: 3.6.17}}}`},
		{name: "what becomes of the data", change: `spec: {storage: {etcd: {whenDeleted: Delete}}}`},
		{name: "certificates and configuration",
			change: `spec: {configMapName: mine, tls: {static: {serverSecret: a, clientSecret: b}}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			namespace := newNamespace(t)
			vault := parseVault(t, namespace, "example", tt.spec)
			if err := strict().Create(t.Context(), vault); err != nil {
				t.Fatal(err)
			}
			founded := `{"status": {"initialized": true,
				"storage": {"volumes": [{"claim": "data-example-etcd-0", "uid": "x"}]}}}`
			if err := admin.Status().Patch(t.Context(), vault, client.RawPatch("application/merge-patch+json",
				[]byte(founded))); err != nil {
				t.Fatal(err)
			}
			change, err := yaml.ToJSON([]byte(tt.change))
			if err != nil {
				t.Fatal(err)
			}
			err = strict().Patch(t.Context(), vault, client.RawPatch("application/merge-patch+json", change))
			if len(tt.want) == 0 {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !apierrors.IsInvalid(err) {
				t.Fatalf("Patch() = %v, want a refusal", err)
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("message %q does not contain %q", err, want)
				}
			}
		})
	}
}

// A status that another writer broke is refused, and so is one without reasons:
// both writers rely on the schema.
func TestStatusIsValidated(t *testing.T) {
	namespace := newNamespace(t)
	vault := createVault(t, namespace, "")
	for name, status := range map[string]string{
		"a condition without a reason": `{"status": {"conditions": [{"type": "Deployed", "status": "True", "reason": "", ` +
			`"message": "", "lastTransitionTime": "2025-01-01T00:00:00Z"}]}}`,
		"an unknown phase": `{"status": {"phase": "Sleeping"}}`,
	} {
		err := admin.Status().Patch(t.Context(), vault.DeepCopy(),
			client.RawPatch("application/merge-patch+json", []byte(status)))
		if !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v, want a refusal", name, err)
		}
	}
}

func TestSamplesAreAccepted(t *testing.T) {
	namespace := newNamespace(t)
	files, err := filepath.Glob(filepath.Join(repository, "config", "samples", "vault*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("samples %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sample := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(text, &sample.Object); err != nil {
				t.Fatal(err)
			}
			sample.SetNamespace(namespace)
			if err := strict().Create(t.Context(), sample, client.DryRunAll); err != nil {
				t.Error(err)
			}
		})
	}
}

// WantedNodes is for objects that did not pass the API server; both defaults
// have to be the same.
func TestDefaultsOfTheTypesAreThoseOfTheCRD(t *testing.T) {
	vault := createVault(t, newNamespace(t), "")
	if want := (&v1alpha1.Vault{}).WantedNodes(); vault.WantedNodes() != want {
		t.Errorf("spec.nodes %d, want %d", vault.WantedNodes(), want)
	}
}
