// Package manifests looks at what Helm has rendered before it is deployed.
package manifests

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"helm.sh/helm/v3/pkg/postrender"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/controller-runtime/pkg/client"
	syaml "sigs.k8s.io/yaml"

	"github.com/vault-operator/vault-operator/api/v1alpha1"
)

// timeout bounds the reads of one check.
const timeout = 10 * time.Second

// Manifests are the objects that Helm has rendered, in YAML.
type Manifests []byte

// Gate returns a post-renderer that changes nothing. It refuses the manifests of a Vault for
// which the check returns an error.
func Gate(reader client.Reader, vault client.ObjectKey,
	check func(context.Context, *v1alpha1.Vault, Manifests) error,
) postrender.PostRenderer {
	return gate{reader, vault, check}
}

type gate struct {
	reader client.Reader
	vault  client.ObjectKey
	check  func(context.Context, *v1alpha1.Vault, Manifests) error
}

// Run returns the manifests as they are, or an error.
func (g gate) Run(manifests *bytes.Buffer) (*bytes.Buffer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	var vault v1alpha1.Vault
	if err := g.reader.Get(ctx, g.vault, &vault); err != nil {
		return nil, err
	}
	if err := g.check(ctx, &vault, manifests.Bytes()); err != nil {
		return nil, err
	}
	return manifests, nil
}

// Find reads the object of a kind and a name, if it is among the manifests.
func (m Manifests) Find(kind, name string, into client.Object) (found bool, err error) {
	reader := yaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(m)))
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		var meta metav1.PartialObjectMetadata
		if !bytes.Contains(document, []byte("kind: "+kind)) || syaml.Unmarshal(document, &meta) != nil ||
			meta.Kind != kind || meta.Name != name {
			continue
		}
		if err := syaml.Unmarshal(document, into); err != nil {
			return false, fmt.Errorf("reading the rendered %s: %w", kind, err)
		}
		return true, nil
	}
}
