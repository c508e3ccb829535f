package initialization

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/wait"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/pods"
	"github.com/vault-operator/vault-operator/internal/probe"
	"github.com/vault-operator/vault-operator/internal/problem"
	"github.com/vault-operator/vault-operator/internal/restore"
	"github.com/vault-operator/vault-operator/internal/storage"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
	"github.com/vault-operator/vault-operator/internal/vaultversion"
)

const (
	// requestTimeout is how long Vault has to initialize. It encrypts to 255 PGP keys at
	// most, and writes some dozen entries into its storage.
	requestTimeout = time.Minute
	storeRetry     = 500 * time.Millisecond
	// readTimeout is for requests that change little.
	readTimeout = 5 * time.Second
	// authorizeTimeout is for the requests that authorize the operator, which is tried
	// authorizeTries times more when they fail.
	authorizeTimeout = 20 * time.Second
	authorizeTries   = 3
	// generateRootNeedsToken is the version of Vault from which on generate-root needs a token
	// by default, so that recovery keys alone lead to none.
	generateRootNeedsToken = "2.0.0"
)

// storeTimeout is for how long the keys are tried to be stored at once, whether or not the
// process is to end; after that it is as urgent as other errors. Tests have less time.
var storeTimeout = 20 * time.Second

// secrets returns the name of a Secret where the keys of the Vault would be stored, and that
// of the one with the keys of the attempt in its status; either is empty if there is none.
func (r *Reconciler) secrets(
	ctx context.Context, vault *v1alpha1.Vault, m *memory,
) (found, stored string, err error) {
	names := []string{vault.KeysSecretName()}
	status := vault.Status.Initialization
	if status != nil && status.Attempt != "" {
		names = append(names, otherSecretName(vault, status.Attempt))
	}
	for _, name := range names {
		metadata := &metav1.PartialObjectMetadata{}
		metadata.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
		err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: name}, metadata)
		switch {
		case apierrors.IsNotFound(err):
			continue
		case err != nil:
			return "", "", fmt.Errorf("looking for Secret %q: %w", name, err)
		}
		if found == "" {
			found = name
		}
		if status == nil || !says(metadata, status.Attempt) {
			continue
		}
		switch is, err := r.isOf(ctx, vault, name, status.Attempt, m.keys); {
		case err != nil:
			return "", "", fmt.Errorf("reading Secret %q: %w", name, err)
		case is:
			stored = name
		}
	}
	return found, stored, nil
}

// says says that a Secret claims to have the keys of the attempt.
func says(secret client.Object, attempt types.UID) bool {
	return attempt != "" && secret.GetAnnotations()[v1alpha1.AttemptAnnotation] == string(attempt)
}

// isOf says that a Secret has the keys of the attempt: it claims that, cannot be changed, as
// the operator makes it, and has what this process has, if that has the keys. Whoever may make
// Secrets could otherwise have the operator forget the keys.
func (r *Reconciler) isOf(
	ctx context.Context, vault *v1alpha1.Vault, name string, attempt types.UID, keys map[string][]byte,
) (bool, error) {
	var secret corev1.Secret
	if err := r.APIReader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: name}, &secret); err != nil {
		return false, err
	}
	immutable := secret.Immutable != nil && *secret.Immutable
	return says(&secret, attempt) && immutable && (keys == nil || maps.EqualFunc(secret.Data, keys, bytes.Equal)), nil
}

// otherSecretName is the name for the keys when somebody has taken the right one meanwhile.
func otherSecretName(vault *v1alpha1.Vault, attempt types.UID) string {
	return vault.KeysSecretName() + "-" + string(attempt)
}

// check returns why the Vault cannot be initialized before somebody fixes that, or nil. What
// only the node knows is checked by requestFor.
func (r *Reconciler) check(ctx context.Context, vault *v1alpha1.Vault, m *memory) (*problem.Error, error) {
	err := r.checkHolders(ctx, vault, m)
	if wrong := problem.In(err); wrong != nil {
		return wrong, nil
	}
	if err != nil {
		return nil, err
	}
	err = r.Create(ctx, secretOf(vault, vault.KeysSecretName(), "dry-run", map[string][]byte{}), client.DryRunAll)
	switch {
	case err == nil, apierrors.IsAlreadyExists(err): // that it exists is told elsewhere
		return nil, nil
	case problem.Refused(err), apierrors.IsNotFound(err): // its namespace may be gone
		return problem.In(notUsable(v1alpha1.ReasonSecretRefused,
			"The Secret %q with the keys could not be made: %v", vault.KeysSecretName(), err)), nil
	}
	return nil, fmt.Errorf("trying whether Secret %q can be made: %w", vault.KeysSecretName(), err)
}

// secretOf is a Secret with keys. It belongs to no Vault, since it must outlive it.
func secretOf(vault *v1alpha1.Vault, name string, attempt types.UID, data map[string][]byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: vault.Namespace, Name: name,
			Labels: map[string]string{v1alpha1.NameLabel: v1alpha1.AppName},
			Annotations: map[string]string{
				v1alpha1.AttemptAnnotation: string(attempt),
				storage.KeepAnnotation:     "Prune=false,Delete=false",
			},
		},
		Immutable: new(true),
		Data:      data,
	}
}

// begin makes an attempt: one node is asked once, and what it says is stored.
func (r *Reconciler) begin(ctx context.Context, vault *v1alpha1.Vault, m *memory, pod *corev1.Pod) error {
	key := client.ObjectKeyFromObject(vault)
	target, known := r.Engine.Target(key, pod.UID)
	if !known || r.Engine.Confirm(ctx, key, pod.UID).State != probe.Uninitialized {
		return nil // the engine calls again
	}
	if under, err := restore.Into(ctx, r.APIReader, vault); err != nil {
		return err
	} else if under != "" {
		return fmt.Errorf("the Vault is not initialized while VaultRestore %s is at it", under)
	}
	node := vaultclient.New(target)
	h, err := readHolders(ctx, r.APIReader, vault)
	if err != nil {
		m.holders = checkedHolders{} // one may have expired since
		return err
	}
	seal, err := node.SealStatus(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("reading the seal of pod %s: %w", pod.Name, err)
	case seal.Initialized:
		return nil // the engine calls again
	}
	if wrong := problem.In(checkRevocation(vault, seal)); wrong != nil {
		return r.write(ctx, vault, vault.Status.Initialization, &metav1.Condition{
			Status: isFalse, Reason: wrong.Reason, Message: wrong.Message,
		})
	}
	now := metav1.Time{Time: r.Clock.Now()}.Rfc3339Copy()
	status := &v1alpha1.InitializationStatus{
		Phase: v1alpha1.PhaseRequested, Attempt: uuid.NewUUID(), Pod: pod.Name, Time: &now,
		RootToken: vault.Spec.Initialization.RootToken, Encrypted: len(h.shares) > 0,
	}
	// If another process has written anything meanwhile this fails.
	err = r.write(ctx, vault, status, &metav1.Condition{
		Status: isUnknown, Reason: v1alpha1.ReasonInitializing,
		Message: fmt.Sprintf("Pod %s was asked to initialize Vault", pod.Name),
	})
	if err != nil {
		return err
	}
	*m = memory{
		vault: vault.UID, attempt: status.Attempt, seen: r.Clock.Now(), generation: vault.Generation,
		failed: m.failed + 1,
	}
	return r.initialize(ctx, vault, m, node, requestFor(vault, seal, h), h)
}

// initialize sends the request to a node, once, and keeps what it says.
func (r *Reconciler) initialize(ctx context.Context, vault *v1alpha1.Vault, m *memory, node *vaultclient.Client,
	request *vaultclient.InitRequest, h holders,
) error {
	// That the process is to end must not lose the response.
	requestCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTimeout)
	defer cancel()
	response, err := node.Init(requestCtx, request)
	if err == nil {
		err = checkResponse(request, response)
	}
	if err != nil {
		return r.notInitialized(ctx, vault, m, node, err)
	}
	m.keys = keysIn(vault, response, h)
	if vault.Spec.Initialization.RootToken == v1alpha1.RevokeRootToken {
		m.token = response.RootToken
	}
	return r.store(ctx, vault, m)
}

// maxKeys is how many bytes of keys are stored: etcd takes no Secret of more than 1 MiB.
const maxKeys = 900 << 10

// checkResponse refuses what cannot be what was asked for, of which nothing is kept: it would
// not fit into a Secret, or not unseal Vault.
func checkResponse(request *vaultclient.InitRequest, response *vaultclient.InitResponse) error {
	keys := slices.Concat(response.Keys, response.RecoveryKeys)
	size := len(response.RootToken)
	for _, key := range keys {
		size += len(key)
	}
	if len(keys) != int(request.SecretShares+request.RecoveryShares) || size > maxKeys {
		return errors.New("the response does not have the keys that were asked for")
	}
	return nil
}

// notInitialized tells that nothing came of an attempt, if that is certain. Otherwise the
// attempt stays open.
func (r *Reconciler) notInitialized(
	ctx context.Context, vault *v1alpha1.Vault, m *memory, node *vaultclient.Client, err error,
) error {
	log.FromContext(ctx).Info("Vault was not initialized, or its response was lost",
		"pod", vault.Status.Initialization.Pod, "error", err.Error())
	var refusal *vaultclient.Error
	if !errors.As(err, &refusal) || refusal.Status >= http.StatusInternalServerError {
		return fmt.Errorf("initializing Vault: %w", err)
	}
	seal, err := node.SealStatus(ctx)
	if err != nil || seal.Initialized {
		return fmt.Errorf("initializing Vault: %w", errors.Join(refusal, err))
	}
	m.refusal, m.refused = strings.Join(refusal.Reasons, ", "), r.Clock.Now()
	if m.refusal == "" {
		m.refusal = refusal.Error()
	}
	return r.noteRefused(ctx, vault, m)
}

// noteRefused notes that nothing came of the attempt, and why.
func (r *Reconciler) noteRefused(ctx context.Context, vault *v1alpha1.Vault, m *memory) error {
	d := decideNew(&facts{vault: vault, nodes: nodesUninitialized, refusal: m.refusal})
	if err := r.write(ctx, vault, nil, &d.condition); err != nil {
		return err
	}
	m.attempt, m.failed = "", 0
	return nil
}

// requestFor is the request to initialize the Vault.
func requestFor(vault *v1alpha1.Vault, seal *vaultclient.SealStatus, h holders) *vaultclient.InitRequest {
	policy := vault.Spec.Initialization
	shares, threshold := policy.WantedShares(), policy.WantedThreshold()
	request := &vaultclient.InitRequest{}
	var keys []string
	for _, share := range h.shares {
		keys = append(keys, share.encoded)
	}
	if seal.RecoverySeal {
		request.RecoveryShares, request.RecoveryThreshold, request.RecoveryPGPKeys = shares, threshold, keys
	} else {
		request.SecretShares, request.SecretThreshold, request.PGPKeys = shares, threshold, keys
	}
	if h.root != nil {
		request.RootTokenPGPKey = h.root.encoded
	}
	return request
}

// checkRevocation refuses to revoke a root token when there would be no way to another one,
// or when it cannot be revoked soon: it is stored nowhere.
func checkRevocation(vault *v1alpha1.Vault, seal *vaultclient.SealStatus) error {
	switch {
	case vault.Spec.Initialization.RootToken != v1alpha1.RevokeRootToken:
		return nil
	case !vaultversion.Lower(vault.Spec.Version, generateRootNeedsToken):
		return notUsable(v1alpha1.ReasonRevocationRefused, "spec.initialization.rootToken: Revoke would leave no way to a "+
			"token: from Vault %s on 'vault operator generate-root' needs one by default. Use PGP", generateRootNeedsToken)
	case !seal.RecoverySeal && !unsealedAtOnce(vault):
		return notUsable(v1alpha1.ReasonRevocationRefused, "spec.initialization.rootToken: Revoke needs a Vault that is "+
			"unsealed at once, by spec.seal or by spec.unseal with the keys that are not encrypted, of Secret %q: until then "+
			"the token would have to be kept somewhere. Use PGP, and have its holder revoke it", vault.KeysSecretName())
	}
	return nil
}

// unsealedAtOnce says whether the operator can unseal with the keys that it stores.
func unsealedAtOnce(vault *v1alpha1.Vault) bool {
	return vault.Spec.Unseal != nil && string(vault.Spec.Unseal.KeysSecretName) == vault.KeysSecretName() &&
		vault.Spec.Initialization.PGPKeysConfigMapName == ""
}

// keysIn is what has to be kept of a response. A token that is to be revoked is not.
func keysIn(vault *v1alpha1.Vault, response *vaultclient.InitResponse, h holders) map[string][]byte {
	data := map[string][]byte{}
	var holdersText strings.Builder
	add := func(prefix string, keys []string) {
		for i, key := range keys {
			// In their order, whatever reads them.
			name := fmt.Sprintf("%s%0*d", prefix, len(strconv.Itoa(len(keys))), i+1)
			data[name] = []byte(key)
			if i < len(h.shares) {
				fmt.Fprintf(&holdersText, "%s %s %s\n", name, h.shares[i].fingerprint, h.shares[i].name)
			}
		}
	}
	add(v1alpha1.UnsealKeyPrefix, response.Keys)
	add(v1alpha1.RecoveryKeyPrefix, response.RecoveryKeys)
	if vault.Spec.Initialization.RootToken != v1alpha1.RevokeRootToken {
		data[v1alpha1.RootTokenKey] = []byte(response.RootToken)
	}
	if h.root != nil {
		fmt.Fprintf(&holdersText, "%s %s %s\n", v1alpha1.RootTokenKey, h.root.fingerprint, h.root.name)
	}
	if holdersText.Len() > 0 {
		data[v1alpha1.PGPKeysKey] = []byte(holdersText.String())
	}
	return data
}

// store makes the Secret with the keys that this process has, and notes that it is there.
func (r *Reconciler) store(ctx context.Context, vault *v1alpha1.Vault, m *memory) error {
	storing, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	var name string
	var last error
	err := wait.PollUntilContextCancel(storing, storeRetry, true, func(ctx context.Context) (bool, error) {
		name, last = r.createSecret(ctx, vault, m)
		return last == nil, nil
	})
	if err != nil {
		if last != nil {
			err = last
		}
		// It is of the API server, and does not quote the Secret. Storing comes before telling:
		// what tells may be what fails.
		telling, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		return errors.Join(fmt.Errorf("storing the keys of Vault: %w", err),
			r.write(telling, vault, vault.Status.Initialization.DeepCopy(), storingKeys(err)))
	}
	m.keys = nil
	return r.note(storing, vault, v1alpha1.PhaseInitialized, name)
}

// createSecret makes the Secret in one request, under another name if somebody has taken the
// right one.
func (r *Reconciler) createSecret(ctx context.Context, vault *v1alpha1.Vault, m *memory) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	for _, name := range []string{vault.KeysSecretName(), otherSecretName(vault, m.attempt)} {
		err := r.Create(ctx, secretOf(vault, name, m.attempt, m.keys))
		if err == nil {
			return name, nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return "", secretError(err)
		}
		// It may be that of an earlier request, whose response was lost.
		is, err := r.isOf(ctx, vault, name, m.attempt, m.keys)
		if err != nil {
			return "", secretError(err)
		}
		if is {
			return name, nil
		}
	}
	return "", errors.New("there are Secrets of its names already, which hold something else")
}

// secretError is an error about a Secret with keys. The API server may quote what it refuses,
// so that only the kind of the error is told.
func secretError(err error) error {
	if reason := apierrors.ReasonForError(err); reason != metav1.StatusReasonUnknown {
		return fmt.Errorf("the API server says %s", reason)
	}
	return errors.New("the API server does not answer")
}

// authorize authorizes the operator where the spec has it log in. The root token is revoked
// soon, so that what Vault refuses is left to an administrator: the condition Authorized says so.
func (r *Reconciler) authorize(
	ctx context.Context, vault *v1alpha1.Vault, m *memory, node *vaultclient.Client,
) error {
	if !vault.HasOperatorLogin() || r.Authorize == nil || m.authorized {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, authorizeTimeout)
	defer cancel()
	err := r.Authorize(ctx, vault, node, m.token)
	if err != nil && m.tries < authorizeTries && vaultclient.StatusOf(err) != http.StatusForbidden {
		m.tries++
		return err
	}
	if err != nil {
		log.FromContext(ctx).Info("The operator was not authorized before the root token is revoked", "error", err.Error())
	}
	m.authorized = true
	return nil
}

// revoke revokes the root token that this process has, and makes sure that it is.
func (r *Reconciler) revoke(ctx context.Context, vault *v1alpha1.Vault, m *memory) error {
	key := client.ObjectKeyFromObject(vault)
	list, err := pods.List(ctx, r, vault)
	if err != nil {
		return err
	}
	observations := r.Engine.Observations(key)
	for i := range list {
		pod := &list[i]
		target, known := r.Engine.Target(key, pod.UID)
		if !known || observations[pod.UID].State != probe.Active || pods.Terminating(pod) {
			continue
		}
		node := vaultclient.New(target)
		if err := r.authorize(ctx, vault, m, node); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 2*readTimeout)
		defer cancel()
		// That it was revoked before, by a request whose response was lost, shows below.
		if err := node.RevokeSelf(ctx, m.token); err != nil && vaultclient.StatusOf(err) != http.StatusForbidden {
			return fmt.Errorf("revoking the root token: %w", err)
		}
		if err := node.LookupSelf(ctx, m.token); vaultclient.StatusOf(err) != http.StatusForbidden {
			return errors.Join(errors.New("the root token is not known to be revoked"), err)
		}
		if err := r.note(ctx, vault, v1alpha1.PhaseRootTokenRevoked, vault.Status.Initialization.SecretName); err != nil {
			return err
		}
		m.token = ""
		return nil
	}
	return nil // the engine calls again
}
