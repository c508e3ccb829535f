#!/usr/bin/env bash
# Fails when what is generated, formatted or resolved differs from what is
# committed. It works on a copy, so the work tree stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard --deduplicate |
	while IFS= read -r -d '' file; do [[ -e $file ]] && printf '%s\0' "$file"; done |
	tar --null --files-from=- --create | tar --extract --directory "$copy"
cp -a "$copy" "$copy.before"
trap 'rm -rf "$copy" "$copy.before"' EXIT

make -s -C "$copy" bundle
for module in . test/cluster hack/bundle; do
	go -C "$copy/$module" mod tidy
done
(cd "$copy" && gofmt -w $(find . -name '*.go'))

if ! diff --recursive --unified "$copy.before" "$copy"; then
	echo "The files above are not up to date: run 'make bundle fmt' and 'go mod tidy', and commit." >&2
	exit 1
fi
