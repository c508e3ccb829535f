#!/usr/bin/env bash
# Builds "kubectl vault" for all platforms into build/plugin: an archive for each, their
# sums, and the manifest by which krew installs them.
set -euo pipefail
cd "$(dirname "$0")/.."
version=$1
out=build/plugin
home=https://github.com/vault-operator/vault-operator

rm -rf "$out"
mkdir -p "$out"
platforms=()
for platform in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64; do
	os=${platform%/*} arch=${platform#*/}
	binary=kubectl-vault
	[[ $os == windows ]] && binary=kubectl-vault.exe
	folder=$(mktemp -d)
	CGO_ENABLED=0 GOOS=$os GOARCH=$arch go build -trimpath -ldflags "-s -w -X main.version=$version" -o "$folder/$binary" ./cmd/kubectl-vault
	cp LICENSE "$folder"
	archive=kubectl-vault_${version}_${os}_${arch}.tar.gz
	# The same sources make the same archive.
	tar --create --directory "$folder" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=go=rX,u+w LICENSE "$binary" |
		gzip --no-name >"$out/$archive"
	rm -rf "$folder"
	platforms+=("  - selector: {matchLabels: {os: $os, arch: $arch}}
    uri: $home/releases/download/v$version/$archive
    sha256: $(sha256sum "$out/$archive" | cut -d' ' -f1)
    bin: $binary")
done
(cd "$out" && sha256sum ./*.tar.gz | sed 's|\./||' >sha256sums)

# https://krew.sigs.k8s.io/docs/developer-guide/plugin-manifest/
cat >"$out/vault.yaml" <<MANIFEST
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: vault
spec:
  version: v$version
  homepage: $home
  shortDescription: Initialize, unseal and examine Vaults
  description: |
    For HashiCorp Vaults that the Vault Operator runs. It initializes a Vault, unseals all
    of its nodes with one prompt for each key share, seals it, makes the active node step
    down, generates a root token, runs the vault command of this machine against the active
    node, and shows what waits for whom. It needs no rights beyond your own.
  caveats: |
    Needs the right to forward ports to the pods of Vault, and to read its Vault resource,
    its pods and the Secret with its CA: $home/blob/main/docs/kubectl-plugin.md
  platforms:
$(printf '%s\n' "${platforms[@]}")
MANIFEST
ls -l "$out"
