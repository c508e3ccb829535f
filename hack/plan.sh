#!/usr/bin/env bash
# Prints the steps that a target of the Makefile consists of, and how long each took last
# time on this machine.
set -euo pipefail
cd "$(dirname "$0")/.."
source hack/cache.sh
all=0
echo "What comes, and how long it took last time on this machine:"
while read -r name; do
	seconds=$(cat "$(file_of_step "$name")" 2>/dev/null || true)
	all=$((all + ${seconds:-0}))
	printf '    %-50s %s\n' "$name" "${seconds:-not run yet}${seconds:+ s}"
done < <(make --dry-run "$1" | sed -n 's|^hack/step.sh "\([^"]*\)".*|\1|p')
printf '    %-50s %d min\n' "together" $(((all + 59) / 60))
