#!/usr/bin/env bash
# Runs the integration tests, or those that a pattern names, in several processes at once,
# each with a control plane of its own: the tests mostly wait.
set -euo pipefail
source "$(dirname "$0")/cache.sh"
pattern=${1:-.}
processes=4

dir=$(mktemp -d)
declare -A logs=() # by the process
trap '((${#logs[@]})) && kill "${!logs[@]}" 2>/dev/null; rm -rf "$dir"' EXIT
CGO_ENABLED=1 go test -c -race -tags integration -o "$dir/tests" ./test/integration

# Those that took longest last time come first, and each goes to the share that has least
# to do. There are two for each process, since they never take as long as last time.
# durations has lines of seconds and a name; where it is missing the longest ones are known.
durations=$(file_of_step "integration tests one by one")
long="TestConfigurationStaysWithItsPods TestAnnotationsOfOthersTakeNoMemory TestConfigMapOfThePreviousVersion
    TestBackupFaults TestDefragmentation TestRemovalWhileTheOperatorIsDown TestPendingReleaseRecovers"
share() {
    awk -v durations="$durations" -v long="${long//$'\n'/ }" 'BEGIN {
        for (i = split(long, field); i > 0; i--) last[field[i]] = 120
        while ((getline line < durations) > 0) { split(line, field); last[field[2]] = field[1] }
    }
    { print ($1 in last ? last[$1] : 15), $1 }' | sort -rn | awk -v shares=$((2 * processes)) '{
        least = 0
        for (i = 1; i < shares; i++) if (load[i] < load[least]) least = i
        load[least] += $1
        mine[least] = mine[least] (mine[least] == "" ? "" : "|") $2
    }
    END { for (i = 0; i < shares; i++) if (mine[i] != "") print mine[i] }'
}
cd test/integration
mapfile -t shares < <(grep -oh '^func Test[A-Za-z0-9]*' ./*_test.go | sed 's/^func //; /^TestMain$/d' |
    grep -E "$pattern" | share)
failed=0
# end_one waits until a process ends, and shows what failed in it.
end_one() {
    local pid code=0
    wait -n -p pid "${!logs[@]}" || code=$?
    if ((code != 0)); then
        failed=1
        awk -f ../../hack/failed.awk "${logs[$pid]}"
        tail -n 40 "${logs[$pid]}" # where it is no test that has failed
    fi
    unset "logs[$pid]"
}
for i in "${!shares[@]}"; do
    ((${#logs[@]} < processes)) || end_one
    "$dir/tests" -test.v -test.timeout 40m -test.run "^(${shares[i]})\$" >"$dir/$i.log" 2>&1 &
    logs[$!]=$dir/$i.log
done
while ((${#logs[@]})); do end_one; done
../../hack/slowest.sh "$dir"/*.log
if [[ $pattern == . ]]; then
    mkdir -p "$(dirname "$durations")"
    sed -n 's/^--- PASS: \([A-Za-z0-9]*\) (\([0-9.]*\)s)$/\2 \1/p' "$dir"/*.log >"$durations"
fi
exit $failed
