# To be sourced: cache is the folder with what outlives the work tree, as test/cluster has it.
# shellcheck shell=bash
cache=${VAULT_OPERATOR_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/vault-operator}

# file_of_step is where it is kept how long a step took.
file_of_step() { echo "$cache/steps/${1//[^A-Za-z0-9]/-}"; }
