#!/usr/bin/env bash
# Makes the previous version of the operator, with its manifests and its image, from the
# history of this repository, and prints the folder.
set -euo pipefail
cd "$(dirname "$0")/.."
commit=$(<hack/previous-version)

dir=$PWD/build/previous/$commit
if [[ ! -f $dir/build/image.tar ]]; then
	rm -rf build/previous
	mkdir -p "$dir"
	git archive "$commit" | tar --extract --directory="$dir"
	GOFLAGS="${GOFLAGS:-} -buildvcs=false" make -C "$dir" image BASE_IMAGE=scratch
fi
echo "$dir"
