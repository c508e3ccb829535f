#!/usr/bin/env bash
# Runs the integration tests, or those that a pattern names, in several processes at once,
# each with a control plane of its own: the tests mostly wait.
set -euo pipefail
pattern=${1:-.}
processes=4

dir=$(mktemp -d)
pids=()
trap '((${#pids[@]})) && kill "${pids[@]}" 2>/dev/null; rm -rf "$dir"' EXIT
CGO_ENABLED=1 go test -c -race -tags integration -o "$dir/tests" ./test/integration
cd test/integration
mapfile -t tests < <(grep -oh '^func Test[A-Za-z0-9]*' ./*_test.go | sed 's/^func //; /^TestMain$/d' | grep -E "$pattern")
for ((p = 0; p < processes; p++)); do
    mine=()
    for ((i = p; i < ${#tests[@]}; i += processes)); do
        mine+=("${tests[i]}")
    done
    ((${#mine[@]})) || continue
    "$dir/tests" -test.v -test.timeout 40m -test.run "^($(IFS='|' && echo "${mine[*]}"))\$" >"$dir/$p.log" 2>&1 &
    pids+=($!)
done
failed=0
for p in "${!pids[@]}"; do
    if wait "${pids[p]}"; then
        continue
    fi
    failed=1
    awk -f ../../hack/failed.awk "$dir/$p.log"
    tail -n 40 "$dir/$p.log" # where it is no test that has failed
done
pids=()
../../hack/slowest.sh "$dir"/*.log
exit $failed
