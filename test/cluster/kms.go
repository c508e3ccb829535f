package main

import "context"

// kmsName is the image of a fake of AWS KMS, by https. Only the tests need it.
// https://github.com/nsmithuk/local-kms
const kmsName = "localhost/local-kms:1"

// prepareKMS makes the image of the fake of AWS KMS known to the nodes.
func prepareKMS(ctx context.Context) error {
	const module = "local-kms"
	if err := ensureParts(ctx, []part{{module: module, packages: map[string]string{
		module: "github.com/vault-operator/vault-operator/test/cluster/parts/" + module,
	}}}); err != nil {
		return err
	}
	return ensureImages(ctx, []image{{name: kmsName, entrypoint: []string{"/bin/" + module},
		files: map[string]string{"/bin/" + module: bin(module)}}})
}
