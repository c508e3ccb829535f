#!/usr/bin/env bash
# Runs a command line as a step with a name: says when it begins and ends, and
# every half minute for how long it has been at it. hack/plan.sh tells next time for how
# long it was.
set -euo pipefail
name=$1 command=$2

echo "==> $name"
# The sleep must not keep the output open when the step has ended.
(while sleep 30 >/dev/null 2>&1; do echo "    $name: ${SECONDS}s so far"; done) &
ticker=$!
trap 'kill $ticker' EXIT
if ! bash -euo pipefail -c "$command"; then
	echo "==> FAILED after ${SECONDS}s: $name" >&2
	exit 1
fi
echo "==> done in ${SECONDS}s: $name"
steps=${VAULT_OPERATOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vault-operator}/steps
mkdir -p "$steps" && echo "$SECONDS" >"$steps/${name//[^A-Za-z0-9]/-}"
