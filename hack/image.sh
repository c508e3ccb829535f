#!/usr/bin/env bash
# Builds the operator image from the Dockerfile and writes it, tagged by its
# content, to build/image.tar; build/image.name says what it is called.
set -euo pipefail
cd "$(dirname "$0")/.."
base=$1 name=$2

# The content decides the tag, so that deploying the same again changes nothing.
tag=dev-$(cat Dockerfile build/vault-operator watches.yaml $(git ls-files --cached --others --exclude-standard helm-charts) | sha256sum | cut -c1-12)
if [[ -f build/image.tar && -f build/image.name && $(<build/image.name) == "$name:$tag" ]]; then
	echo "image $name:$tag is built"
	exit
fi
if ! command -v buildah >/dev/null; then
	echo "installing buildah"
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends buildah >/dev/null
fi
# vfs and chroot need neither overlay mounts nor a daemon.
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot
rm -f build/image.tar build/image.name
buildah bud --quiet --build-arg BASE_IMAGE="$base" --tag "$name:$tag" --file Dockerfile .
buildah push --quiet "$name:$tag" "docker-archive:build/image.tar:$name:$tag"
buildah rmi "$name:$tag" >/dev/null
echo "$name:$tag" >build/image.name
echo "image $name:$tag is built"
