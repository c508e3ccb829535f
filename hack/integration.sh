#!/usr/bin/env bash
# Runs the integration tests, or those that a pattern names, in several processes at once,
# each with a control plane of its own: the tests mostly wait.
set -euo pipefail
source "$(dirname "$0")/cache.sh"
pattern=${1:-.}
processes=4

dir=$(mktemp -d)
pids=()
trap '((${#pids[@]})) && kill "${pids[@]}" 2>/dev/null; rm -rf "$dir"' EXIT
CGO_ENABLED=1 go test -c -race -tags integration -o "$dir/tests" ./test/integration

# Those that took longest last time come first, and each goes to the process that has least
# to do. durations has lines of seconds and a name; where it is missing the longest ones are known.
durations=$(file_of_step "integration tests one by one")
long="TestConfigurationStaysWithItsPods TestAnnotationsOfOthersTakeNoMemory TestConfigMapOfThePreviousVersion
    TestBackupFaults TestDefragmentation TestRemovalWhileTheOperatorIsDown TestPendingReleaseRecovers"
share() {
    awk -v durations="$durations" -v long="${long//$'\n'/ }" 'BEGIN {
        for (i = split(long, field); i > 0; i--) last[field[i]] = 120
        while ((getline line < durations) > 0) { split(line, field); last[field[2]] = field[1] }
    }
    { print ($1 in last ? last[$1] : 15), $1 }' | sort -rn | awk -v processes="$processes" '{
        least = 0
        for (p = 1; p < processes; p++) if (load[p] < load[least]) least = p
        load[least] += $1
        mine[least] = mine[least] (mine[least] == "" ? "" : "|") $2
    }
    END { for (p = 0; p < processes; p++) if (mine[p] != "") print mine[p] }'
}
cd test/integration
mapfile -t shares < <(grep -oh '^func Test[A-Za-z0-9]*' ./*_test.go | sed 's/^func //; /^TestMain$/d' |
    grep -E "$pattern" | share)
for p in "${!shares[@]}"; do
    "$dir/tests" -test.v -test.timeout 40m -test.run "^(${shares[p]})\$" >"$dir/$p.log" 2>&1 &
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
if [[ $pattern == . ]]; then
    mkdir -p "$(dirname "$durations")"
    sed -n 's/^--- PASS: \([A-Za-z0-9]*\) (\([0-9.]*\)s)$/\2 \1/p' "$dir"/*.log >"$durations"
fi
exit $failed
