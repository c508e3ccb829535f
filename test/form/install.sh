#!/usr/bin/env bash
# Installs what the form needs: Node.js, a browser, and the packages.
set -euo pipefail
cd "$(dirname "$0")"

missing=()
for package in nodejs npm chromium; do
	command -v "${package/nodejs/node}" >/dev/null || missing+=("$package")
done
if ((${#missing[@]})); then
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${missing[@]}"
fi
if (($(node --print 'parseInt(process.versions.node)') < 20)); then
	echo "Node.js 20 or newer is needed, this is $(node --version)" >&2
	exit 1
fi

if [[ ! -e node_modules/.package-lock.json || package-lock.json -nt node_modules/.package-lock.json ]]; then
	npm ci --no-audit --no-fund
fi
