package main

import (
	"context"
	"fmt"
	"os/exec"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// Where what the Operator Lifecycle Manager consists of comes from. Only the tests of
// the bundle need it.
// https://olm.operatorframework.io
const (
	olmModule  = "github.com/operator-framework/operator-lifecycle-manager"
	olmVersion = "v0.42.0"
	opmModule  = "github.com/operator-framework/operator-registry"
	opmName    = "quay.io/operator-framework/opm:v1.65.0"
)

// olmParts are built with the libraries of the cluster, so that those are compiled once.
func olmParts() []part {
	const tags = "json1,containers_image_openpgp,exclude_graphdriver_btrfs"
	return []part{{module: "olm", tags: tags, packages: map[string]string{
		"olm": olmModule + "/cmd/olm", "catalog": olmModule + "/cmd/catalog",
		"copy-content": olmModule + "/cmd/copy-content", "cpb": olmModule + "/util/cpb",
		"opm": opmModule + "/cmd/opm", "grpc_health_probe": "github.com/grpc-ecosystem/grpc-health-probe",
	}}}
}

func olmImages() []image {
	files := func(names ...string) map[string]string {
		all := map[string]string{}
		for _, program := range names {
			all["/bin/"+program] = bin(program)
		}
		return all
	}
	return []image{
		{name: "quay.io/operator-framework/olm:" + olmVersion, busybox: true, user: "1001",
			files: files("olm", "catalog", "copy-content", "cpb")},
		{name: opmName, busybox: true, user: "1001",
			files: files("opm", "grpc_health_probe")},
	}
}

// prepareOLM makes the images of the Operator Lifecycle Manager known to the nodes,
// and prints the directory of the chart that installs it, and the image of opm by its digest:
// OLM pulls anew what has a tag.
func prepareOLM(ctx context.Context) error {
	if err := ensureParts(ctx, olmParts()); err != nil {
		return err
	}
	if err := ensureImages(ctx, olmImages()); err != nil {
		return err
	}
	opm, err := name.NewTag(opmName)
	if err != nil {
		return err
	}
	byDigest, err := nameByDigest(ctx, opm)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", olmModule)
	cmd.Dir = "parts/olm"
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("where %s is: %w", olmModule, err)
	}
	fmt.Println(strings.TrimSpace(string(out))+"/deploy/chart", byDigest)
	return nil
}
