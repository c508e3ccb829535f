package initialization

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
	"github.com/vault-operator/vault-operator/internal/problem"
)

// publicKey is a public PGP key that Vault is to encrypt something to.
type publicKey struct {
	// name in the ConfigMap.
	name        string
	fingerprint string
	// encoded is the base64 of it, as Vault takes it.
	encoded string
}

// holders are those whom Vault encrypts keys and the root token to. The zero value means
// that nothing is encrypted.
type holders struct {
	shares []publicKey
	root   *publicKey
}

// Public keys are of tenants, and reading one verifies its signatures. What is larger than
// people have could keep the operator busy for hours.
const (
	maxPublicKey = 64 << 10
	maxRSA       = 8192
	maxElGamal   = 4096
	// maxSignatures is how many signatures a key has at most: those of some curves take 20 ms each.
	maxSignatures = 64
)

// reading lets one public key be read at a time, so that all of them take one CPU at most, and nobody waits for
// those of one Vault.
var reading sync.Mutex

func notUsable(reason, format string, args ...any) error {
	return problem.New(v1alpha1.InitializationSucceededCondition, reason, format, args...)
}

// readHolders reads and checks the public keys that the Vault names. What the user has to fix
// is a *problem.Error. The reader must not be a cache.
func readHolders(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (holders, error) {
	configMap, err := readConfigMap(ctx, reader, vault)
	if err != nil || configMap == nil {
		return holders{}, err
	}
	return holdersIn(configMap, vault.Spec.Initialization)
}

// readConfigMap reads the ConfigMap with the public keys. It returns nil when the Vault names none.
func readConfigMap(ctx context.Context, reader client.Reader, vault *v1alpha1.Vault) (*corev1.ConfigMap, error) {
	name := string(vault.Spec.Initialization.PGPKeysConfigMapName)
	if name == "" {
		return nil, nil
	}
	var configMap corev1.ConfigMap
	err := reader.Get(ctx, types.NamespacedName{Namespace: vault.Namespace, Name: name}, &configMap)
	if apierrors.IsNotFound(err) {
		return nil, notUsable(v1alpha1.ReasonPGPKeysNotFound,
			"spec.initialization.pgpKeysConfigMapName: ConfigMap %q does not exist", name)
	}
	if err != nil {
		return nil, fmt.Errorf("reading ConfigMap %q: %w", name, err)
	}
	return &configMap, nil
}

// checkedHolders is what is wrong with the public keys of a version of the ConfigMap, for a
// generation of the Vault's spec, at a time: keys expire.
type checkedHolders struct {
	version    string
	generation int64
	when       time.Time
	err        error
}

// checkHolders returns what is wrong with the public keys. A check costs seconds of CPU with many large
// keys, and there may be many reconciliations before Vault is initialized.
func (r *Reconciler) checkHolders(ctx context.Context, vault *v1alpha1.Vault, m *memory) error {
	configMap, err := readConfigMap(ctx, r.APIReader, vault)
	if err != nil || configMap == nil {
		return err
	}
	now, version := r.Clock.Now(), string(configMap.UID)+"/"+configMap.ResourceVersion
	last := m.holders
	if last.version == version && last.generation == vault.Generation && now.Sub(last.when) < tryAgain {
		return last.err
	}
	_, err = holdersIn(configMap, vault.Spec.Initialization)
	m.holders = checkedHolders{version: version, generation: vault.Generation, when: now, err: err}
	return err
}

// holdersIn checks the public keys of a ConfigMap.
func holdersIn(configMap *corev1.ConfigMap, policy *v1alpha1.InitializationPolicy) (holders, error) {
	name := configMap.Name
	contents := maps.Clone(configMap.BinaryData)
	if contents == nil {
		contents = map[string][]byte{}
	}
	for key, text := range configMap.Data {
		contents[key] = []byte(text)
	}
	// Not one is read more than there can be.
	if count := len(contents); count != int(policy.WantedShares()) && count != int(policy.WantedShares())+1 {
		return holders{}, wrongNumber(name, count, policy)
	}
	var result holders
	for _, key := range slices.Sorted(maps.Keys(contents)) {
		public, err := parse(contents[key])
		if err != nil {
			return holders{}, notUsable(v1alpha1.ReasonPGPKeysInvalid, "ConfigMap %q, key %q: %v", name, key, err)
		}
		public.name = key
		result.shares = append(result.shares, *public)
		if key == policy.RootTokenPGPKey {
			result.root = public
		}
	}
	return result, result.assign(name, policy)
}

// assign checks that there is a public key for everything, and takes that of the root token
// from those of the shares when there is one more than these.
func (h *holders) assign(configMap string, policy *v1alpha1.InitializationPolicy) error {
	if policy.RootTokenPGPKey != "" && h.root == nil {
		return notUsable(v1alpha1.ReasonPGPKeysNotFound,
			"spec.initialization.rootTokenPGPKey: ConfigMap %q has no key %q", configMap, policy.RootTokenPGPKey)
	}
	if h.root != nil && len(h.shares) == int(policy.WantedShares())+1 {
		h.shares = slices.DeleteFunc(h.shares, func(key publicKey) bool { return key.name == h.root.name })
	}
	if len(h.shares) != int(policy.WantedShares()) {
		return wrongNumber(configMap, len(h.shares), policy)
	}
	return nil
}

func wrongNumber(configMap string, count int, policy *v1alpha1.InitializationPolicy) error {
	return notUsable(v1alpha1.ReasonPGPKeysInvalid,
		"ConfigMap %q has %d public keys for %d shares: each share needs one", configMap, count, policy.WantedShares())
}

// parse reads a public PGP key as gpg exports it, armored or not, or the base64 of that. It
// must be of use: Vault would notice too late, when it is initialized already, that it cannot
// encrypt the root token to one that has expired.
func parse(content []byte) (*publicKey, error) {
	if len(content) > maxPublicKey {
		return nil, fmt.Errorf("it is larger than %d KiB: export it with --export-options export-minimal",
			maxPublicKey>>10)
	}
	if block, err := armor.Decode(bytes.NewReader(content)); err == nil {
		if strings.Contains(block.Type, "PRIVATE") {
			return nil, errPrivate
		}
		if content, err = io.ReadAll(block.Body); err != nil {
			return nil, fmt.Errorf("the armor is damaged: %w", err)
		}
	} else if decoded, err := base64.StdEncoding.DecodeString(withoutSpace(content)); err == nil {
		content = decoded
	}
	if err := checkPackets(content); err != nil {
		return nil, err
	}
	reading.Lock()
	defer reading.Unlock()
	keys, err := openpgp.ReadKeyRing(bytes.NewReader(content))
	switch {
	case err != nil || len(keys) == 0:
		return nil, errNoKey
	case len(keys) > 1:
		return nil, fmt.Errorf("it holds %d public PGP keys, and Vault takes one", len(keys))
	case keys[0].PrivateKey != nil:
		return nil, errPrivate
	}
	plain, err := openpgp.Encrypt(io.Discard, keys, nil, nil, nil)
	if err == nil {
		_, err = plain.Write([]byte("probe"))
	}
	if err == nil {
		err = plain.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("nothing can be encrypted to this public PGP key, which may have expired: %w", err)
	}
	return &publicKey{
		fingerprint: fmt.Sprintf("%X", keys[0].PrimaryKey.Fingerprint),
		encoded:     base64.StdEncoding.EncodeToString(content),
	}, nil
}

// checkPackets refuses keys that are too costly to work with, before any signature is verified.
func checkPackets(content []byte) error {
	packets, signatures := packet.NewReader(bytes.NewReader(content)), 0
	for {
		next, err := packets.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return errNoKey
		}
		switch key := next.(type) {
		case *packet.PrivateKey:
			return errPrivate
		case *packet.Signature:
			if signatures++; signatures > maxSignatures {
				return fmt.Errorf("it has more than %d signatures: export it with --export-options export-minimal", maxSignatures)
			}
		case *packet.PublicKey:
			if err := checkAlgorithm(key); err != nil {
				return err
			}
		}
	}
}

func checkAlgorithm(key *packet.PublicKey) error {
	bits, err := key.BitLength()
	if err != nil {
		return errNoKey
	}
	switch key.PubKeyAlgo {
	case packet.PubKeyAlgoDSA:
		return errors.New("it is a DSA key, which is not supported: use an elliptic curve or RSA")
	case packet.PubKeyAlgoElGamal:
		if bits > maxElGamal {
			return fmt.Errorf("it has an ElGamal key of %d bits, and %d are supported at most", bits, maxElGamal)
		}
	case packet.PubKeyAlgoRSA, packet.PubKeyAlgoRSAEncryptOnly, packet.PubKeyAlgoRSASignOnly:
		if bits > maxRSA {
			return fmt.Errorf("it has an RSA key of %d bits, and %d are supported at most", bits, maxRSA)
		}
	}
	return nil
}

var errNoKey = errors.New("it is not a public PGP key")

var errPrivate = errors.New("it is a private PGP key, which nobody but its owner must have: take it out, " +
	"and replace it")

func withoutSpace(content []byte) string { return strings.Join(strings.Fields(string(content)), "") }
