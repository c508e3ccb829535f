package plugin

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptrace"
	"slices"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	vaultapi "github.com/hashicorp/vault/api"
	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// initTimeout is for how long a node may take to initialize Vault, which gives itself 90
// seconds for a request.
const initTimeout = 3 * time.Minute

type initOptions struct {
	shares, threshold int
	pgpKeys           []string
	rootTokenPGPKey   string
	output            string
}

func (p *plugin) initCommand() *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init NAME",
		Short: "Initialize a Vault, and print its unseal keys and root token once",
		Long: `Initialize a Vault, and print its unseal keys and root token once, as "vault operator init"
does. Nobody can get them a second time. A Vault with auto-unseal has recovery keys instead.

With --pgp-keys each key share is printed encrypted to one of the public keys, so that
nobody sees the shares of others.`,
		Example: `  # Five key shares, three of which unseal
  kubectl vault init example

  # A share for each of three administrators, whose public keys are in files
  kubectl vault init example --key-shares=3 --key-threshold=2 \
    --pgp-keys=ann.asc,ben.asc,cleo.asc --root-token-pgp-key=ann.asc`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.vaultNames,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.init(cmd.Context(), args[0], o) },
	}
	cmd.Flags().IntVar(&o.shares, "key-shares", 5, "Number of key shares to split the root key into")
	cmd.Flags().IntVar(&o.threshold, "key-threshold", 3, "Number of key shares that unseal Vault")
	cmd.Flags().StringSliceVar(&o.pgpKeys, "pgp-keys", nil,
		"Files with public PGP keys, one for each key share, in their order")
	cmd.Flags().StringVar(&o.rootTokenPGPKey, "root-token-pgp-key", "",
		"File with the public PGP key that the root token is encrypted to")
	addOutput(cmd, &o.output)
	return cmd
}

// addOutput adds the flag -o.
func addOutput(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "", "Output format: json or yaml")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"json", "yaml"},
		cobra.ShellCompDirectiveNoFileComp)) // the flag is there
}

// encode prints a value in an output format.
func encode(w io.Writer, format string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	switch {
	case err != nil:
	case format == "yaml":
		text, err = yaml.JSONToYAML(text)
	case format != "json":
		err = fmt.Errorf("unknown output format %q: json and yaml are known", format)
	}
	if err == nil {
		_, err = fmt.Fprintln(w, strings.TrimSuffix(string(text), "\n"))
	}
	return err
}

func checkOutput(format string) error {
	if format != "" && format != "json" && format != "yaml" {
		return fmt.Errorf("unknown output format %q: json and yaml are known", format)
	}
	return nil
}

func (p *plugin) init(ctx context.Context, name string, o initOptions) error {
	if err := checkOutput(o.output); err != nil {
		return err
	}
	if len(o.pgpKeys) > 0 && len(o.pgpKeys) != o.shares {
		return fmt.Errorf("%d PGP keys were given for %d key shares", len(o.pgpKeys), o.shares)
	}
	pgpKeys, rootKey, err := o.publicKeys()
	if err != nil {
		return err
	}
	t, err := p.target(ctx, name)
	if err != nil {
		return err
	}
	defer t.close()
	if t.vault.Spec.Initialization != nil {
		return exit(exitRefused, "Vault %s is initialized by the operator: 'kubectl describe vault %[1]s -n %s' tells how "+
			"far it has come. To do it yourself remove spec.initialization", line(name), t.namespace)
	}
	if err := t.refuseWhileRestored(ctx, name); err != nil {
		return err
	}
	node, seal, err := t.uninitialized(ctx)
	if err != nil {
		return err
	}
	request := &vaultapi.InitRequest{RootTokenPGPKey: rootKey}
	if seal.RecoverySeal {
		request.RecoveryShares, request.RecoveryThreshold, request.RecoveryPGPKeys = o.shares, o.threshold, pgpKeys
	} else {
		request.SecretShares, request.SecretThreshold, request.PGPKeys = o.shares, o.threshold, pgpKeys
	}
	surviveBrokenPipe()
	fmt.Fprintf(p.errOut, "Initializing Vault %s through %s\n", line(name), node.Pod)
	response, err := t.initialize(context.WithoutCancel(ctx), node, request)
	if err != nil {
		return err
	}
	if err := p.printKeys(response, o); err != nil {
		return err
	}
	if !seal.RecoverySeal {
		fmt.Fprintf(p.errOut, "\nNext: kubectl vault unseal %s -n %s\n", line(name), t.namespace)
	}
	return nil
}

// initialize sends a request whose answer has the keys, and has to be waited for: whoever
// interrupts it would lose them.
func (t *target) initialize(ctx context.Context, node *Node, request *vaultapi.InitRequest) (*vaultapi.InitResponse,
	error) {
	connected := false
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected = true },
	})
	node.api.SetClientTimeout(initTimeout)
	response, err := node.api.Sys().InitWithContext(traced, request)
	switch {
	case err == nil:
		return response, nil
	case !connected:
		return nil, fmt.Errorf("%s cannot be reached any more (%s). Nothing was sent to it, so nothing was initialized",
			node.Pod, reason(err))
	}
	return nil, fmt.Errorf("%s did not answer with keys (%s). %s", node.Pod, reason(err), t.afterInit(ctx, node.Pod))
}

// afterInit asks the nodes what has become of an initialization that has failed: Vault tells
// in the same way of what comes before it has written anything and of what comes after.
func (t *target) afterInit(ctx context.Context, pod string) string {
	t.close() // the connections may be why it has failed
	all, err := t.look(ctx)
	if err != nil {
		all = nil
	}
	responded := false
	for _, s := range all {
		if s.err != nil {
			continue
		}
		if s.seal.Initialized {
			return "Vault is initialized now, and these keys are lost, unless somebody else has initialized it. " +
				"If nobody has keys, delete the Vault together with its data, and begin again"
		}
		responded = responded || s.pod.Name == pod || !ownStorage(&s.pod)
	}
	if responded {
		return "Nothing was initialized: run it again"
	}
	return "No node tells whether Vault is initialized now. If 'kubectl vault status' says so later, these keys " +
		"are lost: delete the Vault together with its data, and begin again"
}

// ownStorage says that a node may have storage of its own, which could be initialized for
// itself.
func ownStorage(pod *corev1.Pod) bool {
	owner := metav1.GetControllerOf(pod)
	return owner != nil && owner.Kind == "StatefulSet"
}

// uninitialized finds the node to initialize a Vault through, which must not be initialized
// as far as any node knows.
func (t *target) uninitialized(ctx context.Context) (*Node, *SealStatus, error) {
	all, err := t.look(ctx)
	if err != nil {
		return nil, nil, err
	}
	var reasons []string
	for _, s := range all {
		if s.err == nil && s.seal.Initialized {
			return nil, nil, exit(exitRefused, "Vault %s is initialized already, as %s says", t.vault.Name, s.pod.Name)
		}
		if s.err != nil {
			reasons = append(reasons, s.pod.Name+": "+reason(s.err))
		}
	}
	for _, s := range all {
		if ownStorage(&s.pod) && t.vault.Status.Initialized {
			// It has lost its volume, and would become another Vault.
			return nil, nil, exit(exitRefused, "Vault %s was initialized, as its status says, and the nodes that have its "+
				"data do not answer", t.vault.Name)
		}
		// The first one of a StatefulSet is the one that the others join.
		if s.err == nil && (!ownStorage(&s.pod) || strings.HasSuffix(s.pod.Name, "-0")) {
			return s.node, s.seal, nil
		}
	}
	if len(all) == 0 {
		reasons = append(reasons, "there are no pods yet")
	}
	return nil, nil, fmt.Errorf("no node of Vault %s can be initialized: %s", t.vault.Name, strings.Join(reasons, ", "))
}

// publicKeys reads the files with public keys.
func (o *initOptions) publicKeys() (keys []string, root string, err error) {
	for _, file := range o.pgpKeys {
		key, err := publicKey(file)
		if err != nil {
			return nil, "", err
		}
		keys = append(keys, key)
	}
	if o.rootTokenPGPKey != "" {
		root, err = publicKey(o.rootTokenPGPKey)
	}
	return keys, root, err
}

// publicKey reads a public PGP key as gpg exports it, armored or not, or as base64, and
// returns it as Vault takes it.
func publicKey(file string) (string, error) {
	content, err := readFile(file)
	if err != nil {
		return "", err
	}
	if block, err := armor.Decode(bytes.NewReader(content)); err == nil {
		if block.Type != "PGP PUBLIC KEY BLOCK" {
			return "", fmt.Errorf("%s holds a %s and no public key", file, line(block.Type))
		}
		if content, err = io.ReadAll(block.Body); err != nil {
			return "", fmt.Errorf("%s: %w", file, err)
		}
	} else if decoded, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(content))); err == nil {
		content = decoded
	}
	keys, err := openpgp.ReadKeyRing(bytes.NewReader(content))
	if err != nil || len(keys) == 0 {
		return "", fmt.Errorf("%s holds no public PGP key", file)
	}
	for _, key := range keys {
		private := func(subkey openpgp.Subkey) bool { return subkey.PrivateKey != nil }
		if key.PrivateKey != nil || slices.ContainsFunc(key.Subkeys, private) {
			return "", fmt.Errorf("%s holds a private key, which is to be shown to nobody", file)
		}
	}
	return base64.StdEncoding.EncodeToString(content), nil
}

// initOutput is named as "vault operator init -format=json" prints it.
type initOutput struct {
	UnsealKeysB64         []string `json:"unseal_keys_b64"`
	UnsealKeysHex         []string `json:"unseal_keys_hex"`
	UnsealShares          int      `json:"unseal_shares"`
	UnsealThreshold       int      `json:"unseal_threshold"`
	RecoveryKeysB64       []string `json:"recovery_keys_b64"`
	RecoveryKeysHex       []string `json:"recovery_keys_hex"`
	RecoveryKeysShares    int      `json:"recovery_keys_shares"`
	RecoveryKeysThreshold int      `json:"recovery_keys_threshold"`
	RootToken             string   `json:"root_token"`
}

func (p *plugin) printKeys(response *vaultapi.InitResponse, o initOptions) error {
	text, err := keysText(response, o)
	if err != nil {
		return err
	}
	shown, err := p.printOnce(text)
	switch {
	case err == nil:
		return nil
	case shown:
		return fmt.Errorf("standard output cannot be written to (%w): the keys are above, and nowhere else", err)
	}
	return fmt.Errorf("the keys could not be printed (%w), and are lost: delete the Vault together with its data, "+
		"and begin again", err)
}

func keysText(response *vaultapi.InitResponse, o initOptions) (string, error) {
	kept := initOutput{
		UnsealKeysB64: response.KeysB64, UnsealKeysHex: response.Keys,
		RecoveryKeysB64: response.RecoveryKeysB64, RecoveryKeysHex: response.RecoveryKeys,
		RootToken: response.RootToken,
	}
	if len(response.Keys) > 0 {
		kept.UnsealShares, kept.UnsealThreshold = o.shares, o.threshold
	}
	if len(response.RecoveryKeys) > 0 {
		kept.RecoveryKeysShares, kept.RecoveryKeysThreshold = o.shares, o.threshold
	}
	var text strings.Builder
	if o.output != "" {
		err := encode(&text, o.output, kept)
		return text.String(), err
	}
	for i, key := range response.KeysB64 {
		fmt.Fprintf(&text, "Unseal Key %d: %s\n", i+1, key)
	}
	for i, key := range response.RecoveryKeysB64 {
		fmt.Fprintf(&text, "Recovery Key %d: %s\n", i+1, key)
	}
	fmt.Fprintf(&text, "\nInitial Root Token: %s\n", cmp.Or(response.RootToken, "none"))
	if len(response.KeysB64) > 0 {
		fmt.Fprintf(&text, `
Vault initialized with %d key shares and a key threshold of %d. Please securely
distribute the key shares printed above. When a node is restarted, replaced or sealed, you
must supply at least %[2]d of these keys to unseal it before it can serve requests.

Vault does not store the generated root key. Without at least %[2]d keys to reconstruct
the root key, Vault will remain permanently sealed!
`, o.shares, o.threshold)
	} else {
		fmt.Fprintf(&text, `
Vault initialized with %d recovery key shares and a key threshold of %d. Please securely
distribute the key shares printed above. They do not unseal Vault.
`, o.shares, o.threshold)
	}
	return text.String(), nil
}
