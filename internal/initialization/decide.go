// Package initialization is the controller that initializes Vaults which have no data yet.
//
// "vault operator init" cannot be repeated: whoever loses its response has lost the keys. So
// each step leaves behind what tells the next process how far it came:
//
//  1. All that can be checked is: the public keys, that no node is initialized, that the
//     Secret can be made and is not there yet.
//  2. The attempt is written into the status, on top of the version of the Vault that the
//     checks were made of: of two processes one fails. (PhaseRequested)
//  3. One node is asked, once.
//  4. All that has to be kept goes into one immutable Secret, which has the attempt as an
//     annotation, before anything else happens. It has no owner: volumes may outlive the Vault.
//  5. The status says so. (PhaseInitialized)
//  6. With rootToken Revoke the token is revoked once a node is active. Meanwhile it is in
//     the memory of this process and nowhere else. With spec.operatorLogin it authorizes the
//     operator first. (PhaseRootTokenRevoked)
//
// A process that finds an attempt which is not its own looks for the Secret. When there is
// none it waits until nobody can be at it any more, neither another process nor the node that
// was asked. If Vault is initialized by then the keys are lost, which a condition says, and
// which loses nothing else: nobody could have unsealed this Vault to write into it. If it is
// not, nothing came of the attempt, and there is another.
//
// What is decided follows from facts (decide), and is done by the Reconciler. It is the only
// one that writes the Secret with keys, status.initialization and the condition
// InitializationSucceeded.
package initialization

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

// settle is for how long another process may be at an attempt, and nodes may say what they
// said before it: longer than requestTimeout and storeTimeout together.
const settle = 2 * time.Minute

// nodes is what the nodes of a Vault say of it together.
type nodes int

const (
	// nodesUnknown means that none has told anything.
	nodesUnknown nodes = iota
	// nodesUninitialized means that some have said that Vault is not initialized, and none
	// that it is.
	nodesUninitialized
	// nodesInitialized means that one has said that Vault is initialized.
	nodesInitialized
)

// facts is all that the next step is decided by.
type facts struct {
	vault *v1alpha1.Vault
	nodes nodes
	// active says that a node is active.
	active bool
	// unsealed says that a node is unsealed whose key shares administrators have: it does not unseal itself.
	unsealed bool
	// storageReady says that the storage can be relied on.
	storageReady bool
	// problem is why Vault cannot be initialized before somebody fixes that; nil when it can.
	problem *problem.Error
	// secret is the name of the Secret that the keys would be stored in, if there is one.
	secret string
	// stored is the name of the Secret with the keys of the attempt in the status; empty when
	// there is none.
	stored string
	// refusal is why Vault refused to be initialized as this generation of the spec says.
	refusal string
	// holdsKeys and holdsToken say what of the attempt is in the memory of this process.
	holdsKeys, holdsToken bool
	// since is for how long this process has known the attempt.
	since time.Duration
	// failed is how many attempts of this process in a row had no response that counts, the
	// one in the status included.
	failed int
	// pending says that the node which was asked may still be at it.
	pending bool
}

const (
	// maxPause is the longest time between two attempts.
	maxPause = time.Hour
	// tryAgain is how long it takes until something is tried again of which no event tells that it
	// would go well now. Vault refuses as it does a wrong request when its storage has no leader.
	tryAgain = 5 * time.Minute
)

// pause is how long the next attempt waits. A node that has no answer time and again costs each
// time what the checks before it cost, and may one day be found to have done what it was asked.
func (f *facts) pause() time.Duration {
	pause := settle
	for i := 1; i < f.failed && pause < maxPause; i++ {
		pause *= 2
	}
	return min(pause, maxPause)
}

// step is what to do next.
type step int

const (
	// report does nothing but to report what is waited for.
	report step = iota
	// begin makes an attempt.
	begin
	// store stores keys that this process has.
	store
	// noteStored notes that the keys of the attempt are stored.
	noteStored
	// noteLost notes that the keys of the attempt are lost.
	noteLost
	// noteBefore notes that Vault was initialized by somebody else.
	noteBefore
	// noteRefused notes that Vault has refused the attempt.
	noteRefused
	// revoke revokes the root token.
	revoke
)

// decision is what to do, and what to tell if nothing is.
type decision struct {
	step      step
	condition metav1.Condition
	// recheck is when time alone makes another decision; zero if never.
	recheck time.Duration
}

func waitFor(status metav1.ConditionStatus, reason, format string, args ...any) decision {
	return decision{condition: metav1.Condition{Status: status, Reason: reason, Message: fmt.Sprintf(format, args...)}}
}

// after is the decision when it is made anew after a while.
func (d decision) after(recheck time.Duration) decision {
	d.recheck = recheck
	return d
}

const (
	isTrue    = metav1.ConditionTrue
	isFalse   = metav1.ConditionFalse
	isUnknown = metav1.ConditionUnknown
)

// decide is a function of the facts alone.
func decide(f *facts) decision {
	status := f.vault.Status.Initialization
	if status == nil {
		if f.nodes == nodesInitialized {
			return decision{step: noteBefore}
		}
		return decideNew(f)
	}
	switch status.Phase {
	case v1alpha1.PhaseRequested:
		return decideRequested(f)
	case v1alpha1.PhaseKeysLost:
		switch { // the process that had them was slow
		case f.holdsKeys:
			return decision{step: store}
		case f.stored != "":
			return decision{step: noteStored}
		case f.nodes == nodesInitialized && f.unsealed:
			return decision{step: noteBefore}
		}
		return waitFor(isFalse, v1alpha1.ReasonKeysLost, "Pod %s was asked to initialize Vault, which is initialized, and "+
			"the response with its keys was lost. Unless somebody else has initialized it, and has its keys, nobody can use "+
			"it, and nothing is in it: delete the Vault together with its volumes, and create it again", status.Pod)
	case v1alpha1.PhaseInitialized:
		return decideInitialized(f)
	}
	if d := dataLost(f); d != nil {
		return *d
	}
	if status.Phase == v1alpha1.PhaseRootTokenRevoked {
		return waitFor(isTrue, reasonStored(status), "%s. The root token was revoked: "+
			"generate another one with 'vault operator generate-root'", storedText(status))
	}
	return waitFor(isTrue, v1alpha1.ReasonInitializedBefore,
		"Vault was not initialized by the operator: somebody else did, or it has the data of a Vault from before, "+
			"and is unsealed with the keys of that one")
}

// decideNew decides for a Vault that was not initialized as far as is known.
func decideNew(f *facts) decision {
	switch {
	case f.nodes == nodesUnknown:
		return waitFor(isUnknown, v1alpha1.ReasonNotObserved, "No Vault node has told yet whether Vault is initialized")
	case f.vault.Status.DataVersion != "":
		return waitFor(isFalse, v1alpha1.ReasonDataLost, "%s", lostText)
	case f.problem != nil:
		return waitFor(isFalse, f.problem.Reason, "%s", f.problem.Message).after(tryAgain)
	case f.secret != "":
		return waitFor(isFalse, v1alpha1.ReasonSecretExists, "Secret %q exists already, and may have the keys of another "+
			"Vault: keep a copy of it elsewhere if it has, and delete it", f.secret)
	case f.refusal != "":
		return waitFor(isFalse, v1alpha1.ReasonInitializationRefused, "Vault has refused to be initialized: %s. It is tried "+
			"again every %d minutes, and when the spec has changed", f.refusal, int(tryAgain.Minutes())).after(tryAgain)
	case !f.storageReady:
		return waitFor(isUnknown, v1alpha1.ReasonNotObserved,
			"Vault is initialized when all of its storage is known: see the condition %s", v1alpha1.StorageReadyCondition)
	default:
		return decision{step: begin}
	}
}

const lostText = "Vault was initialized before and is not any more: its data is gone. It is not initialized again by " +
	"itself. Restore the data, or delete the Vault together with its volumes and create it again"

// decideRequested decides while it is not known what came of an attempt.
func decideRequested(f *facts) decision {
	status := f.vault.Status.Initialization
	switch {
	case f.holdsKeys:
		return decision{step: store} // whatever Secret says that they are in it
	case f.stored != "":
		return decision{step: noteStored}
	case f.refusal != "":
		return decision{step: noteRefused}
	case f.since < settle:
		return waitFor(isUnknown, v1alpha1.ReasonInitializing, "Pod %s was asked to initialize Vault", status.Pod).
			after(settle - f.since)
	case f.nodes == nodesInitialized && f.unsealed:
		return decision{step: noteBefore}
	case f.nodes == nodesInitialized:
		return decision{step: noteLost}
	case f.nodes == nodesUninitialized && f.pending:
		return waitFor(isUnknown, v1alpha1.ReasonInitializing, "Pod %s was asked to initialize Vault, and may still be at "+
			"it: no other node is asked before it says that Vault is not initialized, or is started again", status.Pod)
	case f.nodes == nodesUninitialized && f.since < f.pause():
		return waitFor(isUnknown, v1alpha1.ReasonInitializing, "Pod %s was asked to initialize Vault, and nothing came of "+
			"it, %d times in a row. It is tried again after a while", status.Pod, f.failed).after(f.pause() - f.since)
	case f.nodes == nodesUninitialized:
		return decideNew(f) // nothing came of it
	default:
		return waitFor(isUnknown, v1alpha1.ReasonInitializing,
			"Pod %s was asked to initialize Vault, and no node tells what came of it", status.Pod)
	}
}

// storingKeys is what is told while keys cannot be stored.
func storingKeys(why error) *metav1.Condition {
	d := waitFor(isFalse, v1alpha1.ReasonStoringKeys, "Vault is initialized, and its keys, which the operator has in "+
		"memory, cannot be stored: %v. Do not restart the operator", why)
	return &d.condition
}

// decideInitialized decides when the keys are stored.
func decideInitialized(f *facts) decision {
	status := f.vault.Status.Initialization
	if d := dataLost(f); d != nil {
		return *d
	}
	switch {
	case status.RootToken != v1alpha1.RevokeRootToken:
		return waitFor(isTrue, reasonStored(status), "%s", storedText(status))
	case f.holdsToken && f.active:
		return decision{step: revoke, condition: waitFor(isUnknown, v1alpha1.ReasonRevokingRootToken,
			"%s. The root token is being revoked", storedText(status)).condition}
	case f.holdsToken:
		return waitFor(isUnknown, v1alpha1.ReasonRevokingRootToken,
			"%s. The root token, which is stored nowhere, is revoked when a node is active", storedText(status))
	default:
		return waitFor(isFalse, v1alpha1.ReasonRootTokenNotRevoked, "%s. The operator ended before it had made sure that "+
			"the root token is revoked. It is stored nowhere, and known to nobody. Revoke it by its accessor, and then "+
			"remove spec.initialization", storedText(status))
	}
}

// dataLost is the decision for a Vault that was initialized and is not any more, or nil. For
// a moment nodes say what they said before they were.
func dataLost(f *facts) *decision {
	if f.nodes != nodesUninitialized {
		return nil
	}
	d := waitFor(isFalse, v1alpha1.ReasonDataLost, "%s", lostText)
	if f.since < settle {
		d = waitFor(isUnknown, v1alpha1.ReasonInitializing, "Vault was initialized, and no node tells so yet").
			after(settle - f.since)
	}
	return &d
}

func reasonStored(status *v1alpha1.InitializationStatus) string {
	if plaintext(status) {
		return v1alpha1.ReasonKeysInPlaintext
	}
	return v1alpha1.ReasonKeysStored
}

func plaintext(status *v1alpha1.InitializationStatus) bool {
	return !status.Encrypted || status.RootToken == v1alpha1.StoreRootToken
}

func storedText(status *v1alpha1.InitializationStatus) string {
	text := fmt.Sprintf("Vault was initialized by the operator, and its keys were stored in Secret %q", status.SecretName)
	switch {
	case !status.Encrypted:
		return text + ", unencrypted: whoever may read Secrets of this namespace, or a backup of them, can unseal Vault, " +
			"and get at all that is in it"
	case status.RootToken == v1alpha1.StoreRootToken:
		return text + ". The root token in it is not encrypted: whoever may read Secrets of this namespace, or a backup " +
			"of them, can read all that is in Vault"
	default:
		return text + ", each encrypted to the public PGP key of its holder. Nobody else can read them"
	}
}
