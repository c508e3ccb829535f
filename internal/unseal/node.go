package unseal

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

const (
	// readTimeout is for requests that change little, and openTimeout for one with a key: with
	// the last one Vault sets everything up that it mounts.
	readTimeout = 5 * time.Second
	openTimeout = 30 * time.Second
	// nodeTimeout is for all keys of one node: others wait for it.
	nodeTimeout = 2 * time.Minute
	// othersTurn is for how long keys that others have given a node may stay there, until they
	// are taken for forgotten ones, or those of an operator that has ended.
	othersTurn  = time.Minute
	othersPause = 15 * time.Second
	// joinPause is for how long a node that has got all keys may stay sealed before it is given them
	// again, at first: it doubles up to maxJoinPause.
	joinPause    = time.Minute
	maxJoinPause = 30 * time.Minute
)

// progress is how many keys a node has got, and since when.
type progress struct {
	keys  int
	since time.Time
}

// attempt is the last time that a node was given keys and did not say that it is unsealed.
type attempt struct {
	container string
	next      time.Time
	pause     time.Duration
}

// outcome is what came of giving a node keys.
type outcome int

const (
	// leftAlone means that it needs none, has all, or is no node to give keys to.
	leftAlone outcome = iota
	// opened means that it is unsealed.
	opened
	// othersAreAtIt means that others are giving it keys.
	othersAreAtIt
)

// giveTo gives a node as many keys as it needs. What a user has to fix is a *problem.Error.
// After any error the node has none of the keys.
func (r *Reconciler) giveTo(ctx context.Context, vault *v1alpha1.Vault, m *memory, pod *corev1.Pod,
	target probe.Target, keys []string,
) (outcome, error) {
	node := vaultclient.New(target)
	seal, err := node.SealStatus(ctx)
	if err != nil || !seal.Initialized || !seal.Sealed {
		return leftAlone, err
	}
	name := vault.Spec.Unseal.KeysSecretName
	if err := check(seal, name, keys); err != nil {
		return leftAlone, err
	}
	if seal.Progress > 0 {
		if !r.forgotten(m, pod, seal.Progress) {
			return othersAreAtIt, nil
		}
		if err := reset(ctx, node); err != nil {
			return leftAlone, err
		}
	}
	delete(m.others, pod.UID)
	opens, err := giveKeys(ctx, node, keys[:seal.Threshold])
	if err == nil && opens {
		delete(m.joins, pod.UID)
		return opened, nil
	}
	if err == nil || vault.HasRaft() && vaultclient.StatusOf(err) == 0 {
		m.mayJoin(pod, target.Container, r.Clock.Now())
	}
	if err == nil {
		return leftAlone, nil
	}
	if isWrong(err) {
		err = notUsable(v1alpha1.ReasonKeysWrong, "The keys of Secret %q do not unseal this Vault, as pod %s says: "+
			"they are of another one, or one of them is wrong", name, pod.Name)
	}
	return leftAlone, errors.Join(err, ignoreUnsealed(reset(ctx, node)))
}

// mayJoin notes that a node may have all keys and join the others, from which it gets the data of
// its integrated storage. It unseals itself then. If it is unsealed by another request in that moment,
// Vault sets itself up twice, and does not notice any more when it is not active: the second waits
// for the lock of the storage, and takes what is meant for the first.
// https://github.com/hashicorp/vault/blob/v1.21.0/vault/core.go#L1797
// https://github.com/hashicorp/vault/issues/18117
func (m *memory) mayJoin(pod *corev1.Pod, container string, now time.Time) {
	pause := joinPause
	if last := m.joins[pod.UID]; last.container == container {
		pause = min(2*last.pause, maxJoinPause)
	}
	m.joins[pod.UID] = attempt{container, now.Add(pause), pause}
}

// joining is for how long a node that may have all keys is left alone.
func (m *memory) joining(pod *corev1.Pod, container string, now time.Time) time.Duration {
	last := m.joins[pod.UID]
	if last.container != container {
		return 0
	}
	return max(last.next.Sub(now), 0)
}

// check says why the keys cannot be given to a node.
func check(seal *vaultclient.SealStatus, name v1alpha1.ObjectName, keys []string) error {
	switch {
	case seal.Type != v1alpha1.ShamirSeal || seal.Migration:
		return notUsable(v1alpha1.ReasonKeysNotNeeded,
			"Nodes unseal themselves by a key service, or wait to be migrated to another seal: keys are not given to them")
	case seal.Threshold < 1 || seal.Threshold > maxKeys || seal.Progress < 0:
		return errors.New("what the node says of its seal is not what Vault would say")
	case len(keys) < seal.Threshold:
		return notUsable(v1alpha1.ReasonTooFewKeys,
			"Secret %q has %d different unseal keys, and %d unseal this Vault", name, len(keys), seal.Threshold)
	}
	return nil
}

// forgotten says that the keys that others have given a node are there for long.
func (r *Reconciler) forgotten(m *memory, pod *corev1.Pod, keys int) bool {
	now := r.Clock.Now()
	others, known := m.others[pod.UID]
	if !known || others.keys != keys {
		m.others[pod.UID] = progress{keys, now}
		return false
	}
	return now.Sub(others.since) >= othersTurn
}

// giveKeys gives a node keys, and says whether it is unsealed then.
func giveKeys(ctx context.Context, node *vaultclient.Client, keys []string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	for _, key := range keys {
		opening, cancel := context.WithTimeout(ctx, openTimeout)
		seal, err := node.Unseal(opening, key)
		cancel()
		if err != nil {
			return false, err
		}
		if !seal.Sealed {
			return true, nil
		}
	}
	return false, nil
}

// isWrong says that Vault has refused the keys, and does not only fail.
func isWrong(err error) bool {
	var refusal *vaultclient.Error
	if !errors.As(err, &refusal) || problem.In(err) != nil {
		return false
	}
	says := func(text string) bool {
		return slices.ContainsFunc(refusal.Reasons, func(reason string) bool { return strings.Contains(reason, text) })
	}
	if refusal.Status == http.StatusBadRequest {
		return !says("Vault is ") // not initialized, sealed, in standby mode
	}
	return says("failed to decrypt keys from storage")
}

// reset has the node forget the keys that it has got, even while the process is to end.
func reset(ctx context.Context, node *vaultclient.Client) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	return node.ResetUnseal(ctx)
}

// ignoreUnsealed drops the error of resetting a node that is unsealed by now.
func ignoreUnsealed(err error) error {
	if vaultclient.StatusOf(err) == http.StatusBadRequest {
		return nil
	}
	return err
}
