package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// vaultVersion is the version of Vault that the cluster has an image of, and of the CLI
// in the PATH. Upgrades are tried to the newer one.
const (
	vaultVersion = "1.21.0"
	newerVersion = "1.21.1"
)

const vaultModule = "github.com/hashicorp/vault"

// vaultAddons takes the place of a file of Vault's that adds nothing to what a minimal
// Vault can do. Vault's tag "minimal" leaves out the storages and plugins that need the
// libraries of all clouds and databases, and take most of the time of a build (more
// than half of 15 minutes, on two CPUs). The operator needs one of them, etcd, its users the
// auth method of Kubernetes, and the tests of external storage PostgreSQL.
const (
	vaultAddonsFile = "command/commands_min.go"
	vaultAddons     = `//go:build minimal

package command

import (
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	_ "github.com/hashicorp/vault/helper/builtinplugins"
	"github.com/hashicorp/vault/physical/etcd"
	"github.com/hashicorp/vault/physical/postgresql"
)

func extendAddonHandlers(handlers *vaultHandlers) {
	handlers.physicalBackends["etcd"] = etcd.NewEtcdBackend
	handlers.physicalBackends["postgresql"] = postgresql.NewPostgreSQLBackend
	handlers.credentialBackends["kubernetes"] = kubernetes.Factory
}
`
)

func vaultPart(version string) part {
	return part{
		module: "vault-" + version, packages: map[string]string{"vault-" + version: vaultModule}, tags: "minimal",
		replaced: &replacedFile{module: vaultModule, path: vaultAddonsFile, content: vaultAddons},
	}
}

// vaultImage is like the official one, which is made on Alpine, and has a shell.
func vaultImage(version string) image {
	return image{name: "docker.io/hashicorp/vault:" + version, busybox: true, entrypoint: []string{"vault"},
		files: map[string]string{"/bin/vault": bin("vault-" + version)}}
}

// prepareNewerVault makes the image of the newer version known to the nodes.
func prepareNewerVault(ctx context.Context) error {
	if err := ensureParts(ctx, []part{vaultPart(newerVersion)}); err != nil {
		return err
	}
	return ensureImages(ctx, []image{vaultImage(newerVersion)})
}

// replacedFile is a file of a module that is built with other content.
type replacedFile struct {
	module, path, content string
}

// modfile copies the module into dir, with the file replaced, and returns a module
// file for "go build -modfile" that takes it from there. An overlay can't do that, as
// Go refuses one for a file of its module cache.
func (r replacedFile) modfile(ctx context.Context, partDir, dir string) (string, error) {
	download := exec.CommandContext(ctx, "go", "mod", "download", "-json", r.module)
	download.Dir = partDir
	out, err := download.Output()
	if err != nil {
		return "", fmt.Errorf("downloading %s: %w\n%s", r.module, err, out)
	}
	var downloaded struct{ Dir string }
	if err := json.Unmarshal(out, &downloaded); err != nil {
		return "", err
	}
	// The part's module file, and the sums that belong to it.
	if err := os.CopyFS(dir, os.DirFS(partDir)); err != nil {
		return "", err
	}
	source := filepath.Join(dir, "source")
	if err := os.CopyFS(source, os.DirFS(downloaded.Dir)); err != nil {
		return "", err
	}
	file := filepath.Join(source, r.path)
	if _, err := os.Stat(file); err != nil {
		return "", err
	}
	if err := os.WriteFile(file, []byte(r.content), 0o644); err != nil {
		return "", err
	}
	modfile := filepath.Join(dir, "go.mod")
	return modfile, exec.CommandContext(ctx, "go", "mod", "edit", "-replace="+r.module+"="+source, modfile).Run()
}
