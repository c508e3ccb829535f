#!/usr/bin/env bash
# Removes every Vault, while the operator that uninstalls their releases still runs, and
# then what config/default has installed.
set -euo pipefail
cd "$(dirname "$0")/.."
if kubectl get crd vaults.vault.security.coreos.com >/dev/null 2>&1; then
    if ! kubectl delete vaults --all --all-namespaces --timeout=5m; then
        echo "Some Vaults are not gone; nothing else was removed. What keeps them is in their conditions:" \
            "kubectl get vaults -A -o wide" >&2
        exit 1
    fi
fi
kubectl delete -k config/default --ignore-not-found --timeout=3m
