#!/usr/bin/env bash
# Runs a command line as a step with a name: says when it begins and ends, and
# every half minute for how long it has been at it. hack/plan.sh tells next time for how
# long it was.
set -euo pipefail
name=$1 command=$2
source "$(dirname "$0")/cache.sh"

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
file=$(file_of_step "$name")
mkdir -p "$(dirname "$file")" && echo "$SECONDS" >"$file"
