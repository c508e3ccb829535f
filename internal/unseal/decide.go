// Package unseal is the controller that unseals nodes with keys of a Secret, for Vaults with
// spec.unseal.
//
// It must not undo what somebody has done who has sealed a node in an emergency. So it unseals
// a node once for each start of its container: when a node was seen unsealed, whoever did
// that, the start is written into the status, and a node of such a start that is sealed is
// left alone. What happened while no operator ran it cannot know.
//
// Keys are in the memory of this process while nodes are unsealed, and in no log, event,
// status or error.
package unseal

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
)

// starts are the starts of containers whose node was seen unsealed, by the UID of the pod.
type starts map[types.UID]string

// all says that the containers of the pods have started before.
func (s starts) all(list []corev1.Pod) bool {
	return !slices.ContainsFunc(list, func(pod corev1.Pod) bool { return s[pod.UID] != pods.Container(&pod) })
}

func startsOf(status *v1alpha1.UnsealStatus) starts {
	result := starts{}
	if status != nil {
		for _, start := range status.Unsealed {
			result[start.Pod] = start.Container
		}
	}
	return result
}

func (s starts) status() *v1alpha1.UnsealStatus {
	if len(s) == 0 {
		return nil
	}
	status := &v1alpha1.UnsealStatus{}
	for pod, container := range s {
		status.Unsealed = append(status.Unsealed, v1alpha1.UnsealedStart{Pod: pod, Container: container})
	}
	slices.SortFunc(status.Unsealed, func(a, b v1alpha1.UnsealedStart) int { return cmp.Compare(a.Pod, b.Pod) })
	return status
}

// plan is what to do about the nodes of a Vault.
type plan struct {
	// unsealed are the starts that were seen unsealed, by now.
	unsealed starts
	// sealed are the pods whose node has to be unsealed.
	sealed []corev1.Pod
	// byHand are the pods whose node somebody has sealed.
	byHand []string
}

// decide is a function of the pods, of what their nodes said, and of which starts were seen
// unsealed before.
func decide(list []corev1.Pod, observations map[types.UID]probe.Observation, before starts) plan {
	p := plan{unsealed: starts{}}
	for i := range list {
		pod := &list[i]
		if pods.Ended(pod) {
			continue
		}
		container := pods.Container(pod)
		if last, known := before[pod.UID]; known && last == container {
			p.unsealed[pod.UID] = container
		}
		if !pods.Running(pod) {
			continue
		}
		switch observations[pod.UID].State {
		case probe.Standby, probe.Active:
			p.unsealed[pod.UID] = container
		case probe.Sealed:
			switch {
			case pods.Terminating(pod):
			case p.unsealed[pod.UID] == container:
				p.byHand = append(p.byHand, pod.Name)
			default:
				p.sealed = append(p.sealed, *pod)
			}
		}
	}
	return p
}

// Lengths of a key share, and the least that is certainly one encrypted by PGP.
const (
	minKey       = 16
	maxKey       = 33
	minEncrypted = 64

	// maxKeys is how many shares Vault makes at most.
	maxKeys = 255
)

func notUsable(reason, format string, args ...any) error {
	return problem.New(v1alpha1.UnsealKeysValidCondition, reason, format, args...)
}

// keysOf are the unseal keys in a Secret, in the order of their names, each once.
func keysOf(secret *corev1.Secret) ([]string, error) {
	var keys []string
	for _, name := range slices.Sorted(maps.Keys(secret.Data)) {
		if !strings.HasPrefix(name, v1alpha1.UnsealKeyPrefix) {
			continue
		}
		key := strings.TrimSpace(string(secret.Data[name]))
		switch length := keyLength(key); {
		case length >= minEncrypted:
			return nil, notUsable(v1alpha1.ReasonSecretInvalid,
				"Secret %q, key %q: it is too long for an unseal key; one that is encrypted by PGP is of no use here",
				secret.Name, name)
		case length < minKey || length > maxKey:
			return nil, notUsable(v1alpha1.ReasonSecretInvalid,
				"Secret %q, key %q: it is not an unseal key in hexadecimal or base64", secret.Name, name)
		}
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	}
	if len(keys) > maxKeys {
		return nil, notUsable(v1alpha1.ReasonSecretInvalid,
			"Secret %q has %d unseal keys, and Vault makes %d at most", secret.Name, len(keys), maxKeys)
	}
	if len(keys) == 0 {
		return nil, notUsable(v1alpha1.ReasonSecretInvalid,
			"Secret %q has no unseal keys: their keys have to begin with %q", secret.Name, v1alpha1.UnsealKeyPrefix)
	}
	return keys, nil
}

// keyLength is the number of bytes of a key, or 0 when it is none. As Vault does it takes
// what has a fitting length in hexadecimal for that.
func keyLength(key string) int {
	if decoded, err := hex.DecodeString(key); err == nil && len(decoded) <= maxKey {
		return len(decoded)
	}
	decoded, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return 0
	}
	return len(decoded)
}
