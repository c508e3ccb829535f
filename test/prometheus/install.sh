#!/usr/bin/env bash
# Puts Debian's Prometheus into the cache, without its service, and prints the folder with
# its binaries.
set -euo pipefail
source "$(dirname "$0")/../../hack/cache.sh"
dir=$cache/prometheus
if [[ ! -x $dir/usr/bin/prometheus ]]; then
	new=$(mktemp -d)
	trap 'rm -rf "$new"' EXIT
	(
		cd "$new"
		apt-get update -qq
		# The user that downloads by default may not write here.
		apt-get download -q -o APT::Sandbox::User=root prometheus
		dpkg --extract prometheus_*.deb root
	) >&2
	mkdir -p "$(dirname "$dir")"
	rm -rf "$dir"
	mv "$new/root" "$dir"
fi
echo "$dir/usr/bin"
