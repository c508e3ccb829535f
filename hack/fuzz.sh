#!/usr/bin/env bash
# Runs every fuzz test of the packages in internal/ for a share of a minute, or of the
# seconds given.
set -euo pipefail
seconds=${1:-60}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mapfile -t tests < <(grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9]*' internal | sed 's/:func /:/')
each=$(((seconds + ${#tests[@]} - 1) / ${#tests[@]}))
module=$(go list -m)
# "go test -fuzz" would compile all libraries once more, to be guided by what of them is
# reached as well: that takes longer than all fuzz tests.
guided="$module/...=-d=libfuzzer"
for test in "${tests[@]}"; do
    package=$(dirname "${test%%:*}")
    program=$dir/${package//\//-}.test
    echo "${test##*:} of $package"
    [[ -f $program ]] || go test -c -gcflags="$guided" -o "$program" "./$package"
    if ! (cd "$package" && "$program" -test.run '^$' -test.fuzz "^${test##*:}\$" -test.fuzztime "${each}s" \
        -test.fuzzcachedir "$(go env GOCACHE)/fuzz/$module/$package") 2>&1 | tee "$dir/log"; then
        # Go before 1.27 takes the end of the time for a failure now and then, and has no
        # input that fails: https://go.dev/issue/75804
        if grep -q 'Failing input written' "$dir/log" || ! grep -q '^ *context deadline exceeded$' "$dir/log"; then
            exit 1
        fi
        echo "No input has failed: the time was over."
    fi
done
