package backupproof

import (
	"cmp"
	"context"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/vaultclient"
)

const (
	// canaryTimeout is how long a node may take for each request about a canary.
	canaryTimeout = 5 * time.Second
	// maxCanary is the most bytes that a token or a value may have.
	maxCanary = 8 << 10
	// renewPath renews the token of a request.
	// https://developer.hashicorp.com/vault/api-docs/auth/token#renew-a-token-self
	renewPath = "auth/token/renew-self"
)

// canary is what is known of a value that is read from what was restored.
type canary struct {
	spec         v1alpha1.BackupCanary
	token, value string
	// read says that the path has a value, and same that it is the one of the Secret.
	read, same bool
	// unusable is why it cannot be read however often that is tried, or nothing.
	unusable string
	// failure is why it was not read this time, if it may be the next time.
	failure string
}

// canary reads the canary from what was restored, once that is active. It is nil where none is wanted. The token is
// sent to nobody but the Vault of the proof, after that has told that it is the one that was backed up.
func (r *Reconciler) canary(ctx context.Context, f *facts, node *vaultclient.Client) *canary {
	s := f.Schedule
	if s.Spec.Proof.Canary == nil {
		return nil
	}
	c := &canary{spec: *s.Spec.Proof.Canary}
	if !s.IsOf(f.Vault) || !f.unsealed() || !f.sameCluster() {
		return c
	}
	var secret corev1.Secret
	name := types.NamespacedName{Namespace: s.Namespace, Name: string(c.spec.SecretName)}
	switch err := r.APIReader.Get(ctx, name, &secret); {
	case apierrors.IsNotFound(err):
		c.unusable = "there is none"
	case err != nil:
		c.failure = "its Secret could not be read"
	default:
		c.take(&secret)
	}
	if c.token != "" {
		c.readFrom(ctx, node)
	}
	return c
}

// take takes over what is in the Secret, if it is usable. Files tend to end with a newline, so white space at the
// ends does not count.
func (c *canary) take(secret *corev1.Secret) {
	token := strings.TrimSpace(string(secret.Data[v1alpha1.CanaryTokenKey]))
	value := strings.TrimSpace(string(secret.Data[v1alpha1.CanaryValueKey]))
	usable := func(text string) bool { return text != "" && len(text) <= maxCanary }
	switch {
	case !usable(token) || strings.ContainsFunc(token, func(char rune) bool { return char <= ' ' || char > '~' }):
		c.unusable = fmt.Sprintf("its key %q is no token of Vault", v1alpha1.CanaryTokenKey)
	case !usable(value):
		c.unusable = fmt.Sprintf("its key %q must have 1 to %d bytes", v1alpha1.CanaryValueKey, maxCanary)
	default:
		c.token, c.value = token, value
	}
}

// readFrom reads the canary from a node. What may be otherwise soon, such as a node that is not active any more, is a
// failure.
func (c *canary) readFrom(ctx context.Context, node *vaultclient.Client) {
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	var data struct {
		Value any             `json:"value"`
		Data  json.RawMessage `json:"data"`
	}
	err := node.Read(ctx, c.token, c.spec.Path, &data)
	status := vaultclient.StatusOf(err)
	switch {
	case status == http.StatusForbidden:
		c.unusable = "its token may not do so, was not there yet when the backup was made, or is not valid any more"
	case status == http.StatusNotFound:
		c.unusable = `there is nothing; with version 2 of the key/value store "data/" comes after its mount`
	case status == http.StatusMethodNotAllowed:
		c.unusable = "nothing can be read there"
	case status != 0:
		c.failure = fmt.Sprintf("the node responds with the HTTP status %d", status)
	case err != nil:
		c.failure = "the node has no usable response"
	default:
		c.compare(data.Value, data.Data)
	}
}

// compare says whether the value is that of the Secret. Version 2 of the key/value store has it one level deeper.
// https://developer.hashicorp.com/vault/api-docs/secret/kv/kv-v2#read-secret-version
func (c *canary) compare(value any, deeper json.RawMessage) {
	if value == nil {
		var data struct {
			Value any `json:"value"`
		}
		if err := json.Unmarshal(deeper, &data); err == nil {
			value = data.Value
		}
	}
	text, isText := value.(string)
	if !isText {
		c.unusable = `there is no field "value" with a text`
		return
	}
	c.read = true
	c.same = subtle.ConstantTimeCompare([]byte(strings.TrimSpace(text)), []byte(c.value)) == 1
}

// renewCanary renews the token in the Vault that was backed up, so that it is valid in later backups.
func (r *Reconciler) renewCanary(ctx context.Context, f *facts) {
	if !f.ofOrigin() {
		return // of another Vault it is not a token
	}
	why := "no node is active"
	if node, active, err := r.node(ctx, f.Origin); node != nil && active && err == nil {
		why = f.Canary.renew(ctx, node)
	}
	if why != "" {
		r.Recorder.Eventf(f.Schedule, corev1.EventTypeWarning, eventNotRenewed, "The token of Secret %s could not be "+
			"renewed in %s: %s", f.Canary.spec.SecretName, f.Origin.Name, why)
	}
}

// renew renews the token, or says why that is not so.
func (c *canary) renew(ctx context.Context, node *vaultclient.Client) string {
	ctx, cancel := context.WithTimeout(ctx, canaryTimeout)
	defer cancel()
	err := node.Write(ctx, c.token, renewPath, nil)
	if err == nil {
		return ""
	}
	return cmp.Or(strings.Join(vaultclient.ReasonsOf(err), "; "), err.Error())
}
