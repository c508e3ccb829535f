#!/usr/bin/env bash
# Draws the console's form for a Vault in a headless browser and checks it.
# Needs the bundle that "make bundle" generates. FORM_OUTPUT is the path of a file
# for the Vault that the form makes, FORM_PICTURE of one for a picture of the form;
# both are absolute.
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
exec node --test form.test.js
