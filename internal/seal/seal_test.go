package seal

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/certs"
	"github.com/vault-operator/vault-operator/internal/problem"
)

func newClient(t *testing.T, objects ...client.Object) client.WithWatch {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	return fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).Build()
}

func newVault(policy *v1alpha1.SealPolicy) *v1alpha1.Vault {
	return &v1alpha1.Vault{
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "example"},
		Spec:       v1alpha1.VaultSpec{Seal: policy},
	}
}

func transit(address string) *v1alpha1.SealPolicy {
	return &v1alpha1.SealPolicy{Transit: &v1alpha1.TransitSeal{Address: address, KeyName: "example",
		CredentialsSecretName: "token"}}
}

func secret(name string, data map[string]string) *corev1.Secret {
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: name}, Data: map[string][]byte{}}
	for key, value := range data {
		s.Data[key] = []byte(value)
	}
	return s
}

func TestCheckSecrets(t *testing.T) {
	ca, err := certs.NewCA("root", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	const elsewhere = "https://root.apps.svc:8200"
	withCA := transit(elsewhere)
	withCA.Transit.CASecretName = "ca"
	aws := &v1alpha1.SealPolicy{AWSKMS: &v1alpha1.AWSKMSSeal{Region: "r", KMSKeyID: "k", CredentialsSecretName: "aws"}}
	gcp := &v1alpha1.SealPolicy{GCPCKMS: &v1alpha1.GCPCKMSSeal{CredentialsSecretName: "gcp"}}
	oci := &v1alpha1.SealPolicy{OCIKMS: &v1alpha1.OCIKMSSeal{CredentialsSecretName: "oci"}}
	token := secret("token", map[string]string{"token": "hvs.MARKER"})
	for name, tt := range map[string]struct {
		policy  *v1alpha1.SealPolicy
		secrets []client.Object
		reason  string
		says    string
	}{
		"none": {},
		"no credentials, but an identity": {policy: &v1alpha1.SealPolicy{AWSKMS: &v1alpha1.AWSKMSSeal{Region: "r",
			KMSKeyID: "k"}}},
		"good": {policy: transit(elsewhere), secrets: []client.Object{token}},
		"missing": {policy: transit(elsewhere), reason: v1alpha1.ReasonSecretNotFound,
			says: `spec.seal.transit.credentialsSecretName: Secret "token" does not exist`},
		"without the key": {
			policy: transit(elsewhere), secrets: []client.Object{secret("token", map[string]string{"tokn": "hvs.MARKER"})},
			reason: v1alpha1.ReasonSecretInvalid, says: `Secret "token" has no key "token"`,
		},
		"empty": {
			policy: transit(elsewhere), secrets: []client.Object{secret("token", map[string]string{"token": ""})},
			reason: v1alpha1.ReasonSecretInvalid, says: `key "token" is empty`,
		},
		"with a newline": {
			policy: transit(elsewhere), secrets: []client.Object{secret("token", map[string]string{"token": "hvs.MARKER\n"})},
			reason: v1alpha1.ReasonSecretInvalid, says: `Secret "token", key "token" has a space, a newline`,
		},
		"CA of another Vault": {policy: withCA, secrets: []client.Object{token, secret("ca",
			map[string]string{"vault-client-ca.crt": string(ca.Cert)})}},
		"CA of cert-manager": {policy: withCA, secrets: []client.Object{token, secret("ca",
			map[string]string{"ca.crt": string(ca.Cert)})}},
		"CA that is missing": {policy: withCA, secrets: []client.Object{token}, reason: v1alpha1.ReasonSecretNotFound,
			says: `caSecretName: Secret "ca" does not exist`},
		"CA under another name": {policy: withCA, secrets: []client.Object{token, secret("ca",
			map[string]string{"x": "MARKER"})}, reason: v1alpha1.ReasonSecretInvalid,
			says: `neither a key "vault-client-ca.crt" nor "ca.crt"`},
		"CA that is none": {policy: withCA, secrets: []client.Object{token, secret("ca",
			map[string]string{"ca.crt": "MARKER"})}, reason: v1alpha1.ReasonSecretInvalid,
			says: `key "ca.crt" holds no certificate`},
		"half of AWS": {
			policy: aws, secrets: []client.Object{secret("aws", map[string]string{"access_key": "MARKER"})},
			reason: v1alpha1.ReasonSecretInvalid, says: `Secret "aws" has no key "secret_key"`,
		},
		"AWS": {policy: aws, secrets: []client.Object{secret("aws", map[string]string{"access_key": "a",
			"secret_key": "a+b/c="})}},
		"Google": {policy: gcp, secrets: []client.Object{secret("gcp",
			map[string]string{"credentials.json": `{"type": "service_account"}` + "\n"})}},
		"Google, not JSON": {policy: gcp, secrets: []client.Object{secret("gcp",
			map[string]string{"credentials.json": `MARKER`})}, reason: v1alpha1.ReasonSecretInvalid, says: "not a key file"},
		"Oracle": {policy: oci, secrets: []client.Object{secret("oci", map[string]string{"config": "[DEFAULT]\n",
			"key.pem": "x\n"})}},
		"Oracle, half of it": {policy: oci, secrets: []client.Object{secret("oci",
			map[string]string{"config": "[DEFAULT]\n"})}, reason: v1alpha1.ReasonSecretInvalid, says: `no key "key.pem"`},
	} {
		t.Run(name, func(t *testing.T) {
			err := Check(t.Context(), newClient(t, tt.secrets...), newVault(tt.policy))
			wrong := problem.In(err)
			switch {
			case tt.reason == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.reason != "" && (wrong == nil || wrong.Condition != v1alpha1.SealReadyCondition ||
				wrong.Reason != tt.reason || !strings.Contains(wrong.Message, tt.says)):
				t.Errorf("error %+v, want %s: %s", wrong, tt.reason, tt.says)
			}
			if err != nil && strings.Contains(err.Error(), "MARKER") {
				t.Errorf("the error quotes the Secret: %v", err)
			}
		})
	}
	broken := interceptor.NewClient(newClient(t), interceptor.Funcs{Get: func(context.Context, client.WithWatch,
		client.ObjectKey, client.Object, ...client.GetOption) error {
		return errors.New("timeout")
	}})
	if err := Check(t.Context(), broken, newVault(transit(elsewhere))); err == nil || problem.In(err) != nil {
		t.Errorf("an API server that is away makes %v", err)
	}
}

// A Vault that unseals itself by itself is found out by each of its names.
func TestOwnAddress(t *testing.T) {
	token := secret("token", map[string]string{"token": "hvs.x"})
	for address, own := range map[string]bool{
		"https://example:8200": true, "https://example.apps:8200": true, "https://example.apps.svc": true,
		"https://EXAMPLE.apps.SVC:8200/":               true,
		"https://example.apps.svc.cluster.local.:8200": true, "https://example.apps.svc.other.domain": true,
		"https://example-nodes.apps.svc:8200":                   true,
		"https://10-0-0-1.example-nodes.apps.svc.cluster.local": true, "https://pod.example-nodes": true,
		"https://10-0-0-1.example.apps.svc": true,
		"https://localhost:8200":            true, "https://127.0.0.1:8200": true, "https://127.1.2.3": true,
		"https://[::1]:8200": true, "https://0.0.0.0": true,
		"https://example.other.svc:8200": false, "https://example2.apps.svc:8200": false, "https://root.apps.svc:8200": false,
		"https://vault.example.com": false, "https://example.com": false, "https://apps.example": false,
		"https://10.0.0.1:8200": false, "https://nodes.example.org": false,
	} {
		err := Check(t.Context(), newClient(t, token), newVault(transit(address)))
		wrong := problem.In(err)
		if own && (wrong == nil || wrong.Reason != v1alpha1.ReasonSealInvalid || !strings.Contains(wrong.Message,
			"spec.seal.transit.address") || !strings.Contains(wrong.Message, "this Vault itself")) {
			t.Errorf("%s: %v, want a refusal", address, err)
		}
		if !own && err != nil {
			t.Errorf("%s is refused: %v", address, err)
		}
	}
}

// Vault reads credentials from files from a version on, and the clients of Google and Oracle
// have always done so.
func TestVersionThatReadsCredentials(t *testing.T) {
	aws := func(name v1alpha1.ObjectName) *v1alpha1.SealPolicy {
		return &v1alpha1.SealPolicy{AWSKMS: &v1alpha1.AWSKMSSeal{Region: "r", KMSKeyID: "k", CredentialsSecretName: name}}
	}
	azure := &v1alpha1.SealPolicy{AzureKeyVault: &v1alpha1.AzureKeyVaultSeal{CredentialsSecretName: "all"}}
	alibaba := &v1alpha1.SealPolicy{AliCloudKMS: &v1alpha1.AliCloudKMSSeal{CredentialsSecretName: "all"}}
	google := &v1alpha1.SealPolicy{GCPCKMS: &v1alpha1.GCPCKMSSeal{CredentialsSecretName: "all"}}
	oracle := &v1alpha1.SealPolicy{OCIKMS: &v1alpha1.OCIKMSSeal{CredentialsSecretName: "all"}}
	other := transit("https://root:8200")
	other.Transit.CredentialsSecretName = "all"
	all := secret("all", map[string]string{"token": "t", "access_key": "a", "secret_key": "s", "client_secret": "c",
		"credentials.json": `{"type": "service_account"}`, "config": "c", "key.pem": "k"})
	for _, tt := range []struct {
		policy  *v1alpha1.SealPolicy
		version string
		refused bool
	}{
		{other, "1.18.5", true}, {other, "1.18.15-ent", true}, {other, "1.19.0", false}, {other, "1.19.0-ent", false},
		{other, "1.21.0", false}, {other, "2.0.0", false}, {other, "", false},
		{aws("all"), "1.18.5", true}, {aws("all"), "1.19.0", false}, {aws(""), "1.18.5", false},
		{azure, "1.18.5", true}, {alibaba, "1.18.5", true}, {google, "1.18.5", false}, {oracle, "1.18.5", false},
	} {
		vault := newVault(tt.policy)
		vault.Spec.Version = tt.version
		err := Check(t.Context(), newClient(t, all), vault)
		wrong := problem.In(err)
		refused := wrong != nil && wrong.Reason == v1alpha1.ReasonSealInvalid && strings.Contains(wrong.Message,
			"spec.seal."+tt.policy.Type()+".credentialsSecretName needs Vault 1.19.0 or later")
		if refused != tt.refused || !tt.refused && err != nil {
			t.Errorf("%s with Vault %q: %v", tt.policy.Type(), tt.version, err)
		}
	}
}

func TestMountsInThePlaceOfTheSeal(t *testing.T) {
	token := secret("token", map[string]string{"token": "hvs.x"})
	for says, change := range map[string]func(*v1alpha1.PodPolicy){
		"spec.pod.volumes": func(p *v1alpha1.PodPolicy) { p.Volumes = []v1alpha1.PodVolume{{Name: "seal"}} },
		"spec.pod.volumeMounts": func(p *v1alpha1.PodPolicy) {
			p.VolumeMounts = []v1alpha1.PodVolumeMount{{MountPath: "/vault/seal/x"}}
		},
	} {
		vault := newVault(transit("https://root:8200"))
		change(&vault.Spec.Pod)
		if wrong := problem.In(Check(t.Context(), newClient(t, token), vault)); wrong == nil ||
			!strings.HasPrefix(wrong.Message, says) {
			t.Errorf("%s: %v", says, wrong)
		}
		vault.Spec.Seal = nil
		if err := Check(t.Context(), newClient(t), vault); err != nil {
			t.Errorf("%s is refused without spec.seal: %v", says, err)
		}
	}
}

func TestCheckChange(t *testing.T) {
	mine, other := transit("https://root:8200"), transit("https://root:8200")
	other.Transit.KeyName = "other"
	moved := transit("https://elsewhere:8200")
	moved.Transit.CASecretName, moved.Transit.CredentialsSecretName, moved.Transit.TLSServerName,
		moved.Transit.MountPath = "a", "b", "c", "transit/"
	aws := &v1alpha1.SealPolicy{AWSKMS: &v1alpha1.AWSKMSSeal{Region: "r", KMSKeyID: "k"}}
	shamir := &v1alpha1.SealStatus{Type: "shamir"}
	keyed := &v1alpha1.SealStatus{Type: "transit", Key: mine.Key()}
	byUser := &v1alpha1.SealStatus{Type: "transit"}
	for name, tt := range map[string]struct {
		policy        *v1alpha1.SealPolicy
		has           *v1alpha1.SealStatus
		uninitialized bool
		// deployed is the key of the pods that run; "-" is no Deployment.
		deployed       string
		refused, waits bool
	}{
		"nothing to do with seals":         {has: shamir},
		"the same":                         {policy: mine, has: keyed, deployed: mine.Key()},
		"other parameters of the same key": {policy: moved, has: keyed, deployed: mine.Key()},
		"another key":                      {policy: other, has: keyed, deployed: mine.Key(), refused: true},
		"another kind":                     {policy: aws, has: keyed, deployed: mine.Key(), refused: true},
		"from Shamir":                      {policy: mine, has: shamir, refused: true},
		"to Shamir":                        {has: keyed, deployed: mine.Key(), refused: true},
		"before it is initialized":         {policy: aws, has: keyed, uninitialized: true, deployed: mine.Key()},
		"to Shamir, before it is initialized": {has: &v1alpha1.SealStatus{Type: "transit"}, uninitialized: true,
			deployed: mine.Key()},
		"a seal of the user's configuration":     {has: byUser},
		"from there to the spec":                 {policy: mine, has: byUser},
		"from there to another kind":             {policy: aws, has: byUser, refused: true},
		"back after another was deployed":        {policy: mine, has: keyed, deployed: other.Key()},
		"not observed, and the same is deployed": {policy: mine, deployed: mine.Key()},
		"not observed, and another is deployed":  {policy: other, deployed: mine.Key(), waits: true},
		"not observed, and none is deployed":     {policy: mine, waits: true},
		"not observed, and it was removed":       {deployed: mine.Key(), waits: true},
		"not observed, and there never was one":  {},
		"not observed, and nothing runs":         {policy: mine, deployed: "-"},
	} {
		t.Run(name, func(t *testing.T) {
			vault := newVault(tt.policy)
			vault.Status = v1alpha1.VaultStatus{Initialized: !tt.uninitialized, Seal: tt.has}
			var objects []client.Object
			if tt.deployed != "-" {
				deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: "example"}}
				if tt.deployed != "" {
					deployment.Spec.Template.Annotations = map[string]string{v1alpha1.SealAnnotation: tt.deployed}
				}
				objects = append(objects, deployment)
			}
			err := CheckChange(t.Context(), newClient(t, objects...), vault)
			wrong := problem.In(err)
			if (wrong != nil) != tt.refused || wrong != nil && (wrong.Reason != v1alpha1.ReasonSealChangeRefused ||
				!strings.Contains(wrong.Message, "moved to another seal")) {
				t.Errorf("refused: %v", err)
			}
			if waits := err != nil && strings.Contains(err.Error(), "waiting until a node tells"); waits != tt.waits ||
				(err != nil) != (tt.refused || tt.waits) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// A key has one name, however it is written, and another key has another one.
func TestKey(t *testing.T) {
	azure := func(environment, resource string) *v1alpha1.SealPolicy {
		return &v1alpha1.SealPolicy{AzureKeyVault: &v1alpha1.AzureKeyVaultSeal{VaultName: "v", KeyName: "k",
			Environment: environment, Resource: resource, TenantID: "t", ClientID: "c"}}
	}
	mount := transit("https://root:8200")
	mount.Transit.MountPath, mount.Transit.Namespace = "team/transit/", "admin"
	for want, policies := range map[string][]*v1alpha1.SealPolicy{
		"":                             {nil},
		"transit:transit/keys/example": {transit("https://root:8200"), transit("https://elsewhere")},
		"transit:admin/team/transit/keys/example": {mount},
		"awskms:eu-central-1/alias/vault": {{AWSKMS: &v1alpha1.AWSKMSSeal{Region: "eu-central-1",
			KMSKeyID: "alias/vault", Endpoint: "https://a"}}},
		"gcpckms:projects/p/locations/l/keyRings/r/cryptoKeys/k": {{GCPCKMS: &v1alpha1.GCPCKMSSeal{Project: "p",
			Region: "l", KeyRing: "r", CryptoKey: "k"}}},
		"azurekeyvault:vault.azure.net/v/k": {azure("", ""), azure("AzurePublicCloud", ""),
			azure("AzureUSGovernmentCloud", "vault.azure.net")},
		"azurekeyvault:vault.azure.cn/v/k":          {azure("AzureChinaCloud", ""), azure("", "vault.azure.cn")},
		"azurekeyvault:vault.usgovcloudapi.net/v/k": {azure("AzureUSGovernmentCloud", "")},
		"azurekeyvault:managedhsm.azure.net/v/k":    {azure("", "managedhsm.azure.net")},
		"azurekeyvault:AzureStackCloud/v/k":         {azure("AzureStackCloud", "")},
		"ocikms:ocid1.key":                          {{OCIKMS: &v1alpha1.OCIKMSSeal{KeyID: "ocid1.key"}}},
		"alicloudkms:eu-central-1/id": {{AliCloudKMS: &v1alpha1.AliCloudKMSSeal{Region: "eu-central-1",
			KMSKeyID: "id", Domain: "d"}}},
	} {
		for _, policy := range policies {
			if got := policy.Key(); got != want {
				t.Errorf("the key is %q, want %q", got, want)
			}
		}
	}
}

// The messages are what Vault 1.21.0 has said with each fault, and what the clients of the
// clouds say.
func TestCause(t *testing.T) {
	const refused = failed + " Error making API request.\n\nURL: PUT https://root:8200/v1/transit/encrypt/example\n"
	for message, want := range map[string]string{
		failed + ` Put "https://root:8200/v1/transit/encrypt/x": dial tcp 10.0.0.1:8200: connect: connection ` +
			`refused`: v1alpha1.ReasonKeyServiceUnavailable,
		failed + ` Put "https://root:8200/v1/transit/encrypt/x": dial tcp: lookup root on 10.0.0.10:53: no such ` +
			`host`: v1alpha1.ReasonKeyServiceUnavailable,
		failed + ` Put "https://root:8200/v1/transit/encrypt/x": net/http: TLS handshake ` +
			`timeout`: v1alpha1.ReasonKeyServiceUnavailable,
		refused + "Code: 503. Errors:\n\n* Vault is " +
			"sealed": v1alpha1.ReasonKeyServiceUnavailable,
		failed + ` Put "https://root:8200/x": tls: failed to verify certificate: x509: certificate signed by unknown ` +
			`authority`: v1alpha1.ReasonKeyServiceUnverified,
		refused + "Code: 403. Errors:\n\n* 1 error occurred:\n\t* permission " +
			"denied\n\n": v1alpha1.ReasonCredentialsRefused,
		refused + "Code: 403. Errors:\n\n* 2 errors occurred:\n\t* permission denied\n\t* invalid " +
			"token\n\n": v1alpha1.ReasonCredentialsRefused,
		failed + " configured Vault token contains non-printable characters and cannot be " +
			"used": v1alpha1.ReasonCredentialsRefused,
		failed + " error reading file at file:///vault/seal/token: open /vault/seal/token: no such file or " +
			"directory": v1alpha1.ReasonCredentialsRefused,
		refused + "Code: 400. Errors:\n\n* encryption key not " +
			"found": v1alpha1.ReasonKeyNotUsable,
		failed + " error fetching AWS KMS wrapping key information: RequestError: send request failed\ncaused by: Post " +
			"\"https://127.0.0.1:1/\": dial tcp 127.0.0.1:1: connect: connection refused": v1alpha1.ReasonKeyServiceUnavailable,
		failed + " error fetching AWS KMS wrapping key information: AccessDeniedException: User: arn:aws:sts::1:x is not " +
			"authorized to perform: kms:DescribeKey": v1alpha1.ReasonCredentialsRefused,
		failed + " error fetching AWS KMS wrapping key information: NotFoundException: Key 'arn:aws:kms:x' does not " +
			"exist": v1alpha1.ReasonKeyNotUsable,
		failed + " error initializing GCP CKMS wrapper client: failed to create KMS client: credentials: could not find " +
			"default credentials.": v1alpha1.ReasonCredentialsRefused,
		failed + " error checking key existence: rpc error: code = PermissionDenied desc = Permission " +
			"denied": v1alpha1.ReasonCredentialsRefused,
		failed + " error checking key existence: rpc error: code = Unavailable desc " +
			"= x": v1alpha1.ReasonKeyServiceUnavailable,
		failed + ` error fetching Azure Key Vault wrapper key information: Get "https://v.vault.azure.net/keys/k/": ` +
			`proxyconnect tcp: dial tcp 127.0.0.1:1: connect: connection ` +
			`refused`: v1alpha1.ReasonKeyServiceUnavailable,
		failed + " error fetching Azure Key Vault wrapper key information: DefaultAzureCredential: failed to acquire a " +
			"token.": v1alpha1.ReasonCredentialsRefused,
		failed + " something that nobody has seen " +
			"yet": v1alpha1.ReasonKeyServiceFailing,
		// Something else, and what was said before.
		"Error initializing core: cannot seal migrate from \"transit\" to Shamir": "",
		"connection refused": "",
		"permission denied\n" + failed + " x509: certificate signed by unknown " +
			"authority": v1alpha1.ReasonKeyServiceUnverified,
		strings.Repeat("permission denied ", 1000): "",
		"": "",
	} {
		ended := &corev1.ContainerStateTerminated{ExitCode: 1, Message: message}
		for _, container := range []corev1.ContainerStatus{{State: corev1.ContainerState{Terminated: ended}},
			{LastTerminationState: corev1.ContainerState{Terminated: ended}}} {
			if got := Cause(&container); got != want {
				t.Errorf("%q is taken for %q, want %q", message, got, want)
			}
		}
	}
	// What ended weeks ago says nothing of a node that listens, and does not answer now.
	again := corev1.ContainerStatus{
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1,
			Message: failed + " permission denied"}},
	}
	for _, started := range []*bool{nil, new(false), new(true)} {
		again.Started = started
		want := v1alpha1.ReasonCredentialsRefused
		if started != nil && *started {
			want = ""
		}
		if got := Cause(&again); got != want {
			t.Errorf("a container that runs again, started %v, is taken for %q, want %q", started, got, want)
		}
	}
	well := &corev1.ContainerStateTerminated{Message: failed}
	if got := Cause(&corev1.ContainerStatus{State: corev1.ContainerState{Terminated: well}}); got != "" {
		t.Errorf("a container that has ended well is taken for %q", got)
	}
}
