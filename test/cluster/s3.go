package main

import "context"

// s3Name is the image of an S3 server that keeps its objects in files. Only the tests need it.
// https://github.com/versity/versitygw
const s3Name = "localhost/versitygw:1"

// prepareS3 makes the image of the S3 server known to the nodes. The binary is for tests that
// need no cluster.
func prepareS3(ctx context.Context) error {
	const module = "versitygw"
	if err := ensureParts(ctx, []part{{module: module, packages: map[string]string{
		module: "github.com/versity/versitygw/cmd/versitygw",
	}}}); err != nil {
		return err
	}
	return ensureImages(ctx, []image{{name: s3Name, entrypoint: []string{"/bin/" + module},
		files: map[string]string{"/bin/" + module: bin(module)}}})
}
