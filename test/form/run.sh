#!/usr/bin/env bash
# Draws the console's form for a Vault in a headless browser and checks it.
# Needs the bundle that "make bundle" generates. FORM_OUTPUT is the path of a file
# for the Vault that the form makes, FORM_RAFT_OUTPUT of one for that with integrated storage,
# FORM_PICTURE of one for a picture of the form; all are absolute.
set -euo pipefail
cd "$(dirname "$0")"

./install.sh
exec node --test form.test.js
