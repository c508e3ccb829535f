#!/usr/bin/env bash
# Downloads the Go modules that the modules in the given folders need, so that no build
# stops for them one by one.
set -euo pipefail
cd "$(dirname "$0")/.."
for dir in "$@"; do
	(cd "$dir" && go mod download)
done
