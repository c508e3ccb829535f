#!/usr/bin/env bash
# Runs every fuzz test of the packages in internal/ for a share of a minute, or of the
# seconds given.
set -euo pipefail
seconds=${1:-60}
mapfile -t tests < <(grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9]*' internal | sed 's/:func /:/')
each=$(((seconds + ${#tests[@]} - 1) / ${#tests[@]}))
for test in "${tests[@]}"; do
    package=$(dirname "${test%%:*}")
    echo "${test##*:} of $package"
    go test "./$package" -run '^$' -fuzz "^${test##*:}\$" -fuzztime "${each}s"
done
