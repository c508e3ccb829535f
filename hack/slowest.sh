#!/usr/bin/env bash
# Lists how long the tests of a log of "go test -v" took, the slowest first.
set -euo pipefail
echo "How long the tests took, the slowest first, in seconds:"
sed -nE 's/^--- (PASS|FAIL): ([^ ]+) \(([0-9.]+)s\)$/\3 \2/p' "$@" | sort -rn | sed -n '1,20s/^/    /p'
