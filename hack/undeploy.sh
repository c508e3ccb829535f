#!/usr/bin/env bash
# Removes every Vault, while the operator that uninstalls their releases still runs, and
# then what config/default has installed.
set -euo pipefail
cd "$(dirname "$0")/.."
# Backups whose content is deleted with them need the operator as well. What is stored of the others stays.
if kubectl get crd vaultbackups.vault.security.coreos.com >/dev/null 2>&1; then
    kubectl delete vaultbackupschedules --all --all-namespaces --timeout=1m
    if ! kubectl delete vaultbackups --all --all-namespaces --timeout=5m; then
        echo "Some VaultBackups are not gone; nothing else was removed. Their condition Deleted says why:" \
            "kubectl get vaultbackups -A -o yaml" >&2
        exit 1
    fi
fi
if kubectl get crd vaultrestores.vault.security.coreos.com >/dev/null 2>&1; then
    kubectl delete vaultrestores --all --all-namespaces --timeout=1m
fi
if kubectl get crd vaults.vault.security.coreos.com >/dev/null 2>&1; then
    if ! kubectl delete vaults --all --all-namespaces --timeout=5m; then
        echo "Some Vaults are not gone; nothing else was removed. What keeps them is in their conditions:" \
            "kubectl get vaults -A -o wide" >&2
        exit 1
    fi
fi
kubectl delete -k config/default --ignore-not-found --timeout=3m
