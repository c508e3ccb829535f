package seal

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
)

// maxLog is how much of what a container has said last is looked at. The kubelet keeps two
// kilobytes.
const maxLog = 4 << 10

// failed begins what Vault says when it cannot use its seal at its start. It ends then,
// whichever seal it is, instead of being sealed.
// https://github.com/hashicorp/vault/blob/v1.21.0/command/server.go
const failed = "error parsing Seal configuration:"

// causes are told apart by what Vault, Go and the clients of the key services say. The first
// that fits counts. What is said is never quoted: it may hold addresses with signatures.
var causes = []struct {
	reason string
	says   *regexp.Regexp
}{
	{v1alpha1.ReasonKeyServiceUnverified, oneOf(`x509: `, `failed to verify certificate`)},
	// A transit Vault that is sealed, or no node of which is active, and gateways before it.
	{v1alpha1.ReasonKeyServiceUnavailable, oneOf(
		`Vault is sealed`, `Code: 50[0-9]`, `Code: 429`, `Code: 47[23]`,
		`code = (Unavailable|DeadlineExceeded|ResourceExhausted|Internal)`, `ServiceUnavailable`, `ThrottlingException`,
		`KMSInternalException`, `RESPONSE 5[0-9][0-9]`,
	)},
	{v1alpha1.ReasonKeyServiceUnavailable, oneOf(
		`connection refused`, `connection reset`, `no such host`, `server misbehaving`, `i/o timeout`,
		`TLS handshake timeout`, `deadline exceeded`, `Client\.Timeout`, `network is unreachable`, `no route to host`,
		`proxyconnect`, `unexpected EOF`, `: EOF`,
	)},
	{v1alpha1.ReasonKeyNotUsable, oneOf(
		`encryption key not found`, `NotFoundException`, `DisabledException`, `KMSInvalidStateException`,
		`code = (NotFound|FailedPrecondition)`, `KeyNotFound`, `KeyDisabled`, `Forbidden\.Key`, `no handler for route`,
	)},
	{v1alpha1.ReasonCredentialsRefused, oneOf(
		`Code: 40[013]`, `permission denied`, `AccessDenied`, `UnrecognizedClient`, `InvalidSignature`,
		`InvalidClientTokenId`, `SignatureDoesNotMatch`, `ExpiredToken`, `NoCredentialProviders`,
		`code = (PermissionDenied|Unauthenticated)`, `could not find default credentials`, `permissions check failed`,
		`AADSTS`, `DefaultAzureCredential`, `ClientSecretCredential`, `Unauthorized`, `Forbidden`, `NotAuthenticated`,
		`NotAuthorized`, `InvalidAccessKey`, `non-printable characters`, `error reading file at`,
	)},
}

func oneOf(patterns ...string) *regexp.Regexp { return regexp.MustCompile(strings.Join(patterns, "|")) }

// Cause is why a node could not use its seal when it was started last, by what its container
// has said last: a reason of the condition SealReady, or nothing when it was something else.
//
// One that listens has been able to use it since, whatever its container said before.
func Cause(container *corev1.ContainerStatus) string {
	text := pods.LastFailure(container)
	if len(text) > maxLog {
		text = text[len(text)-maxLog:]
	}
	at := strings.LastIndex(text, failed)
	if at < 0 {
		return ""
	}
	for _, cause := range causes {
		if cause.says.MatchString(text[at:]) {
			return cause.reason
		}
	}
	return v1alpha1.ReasonKeyServiceFailing
}
