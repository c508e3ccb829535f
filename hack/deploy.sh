#!/usr/bin/env bash
# Installs the operator from config/default with the given image, or the one
# that was built last, and waits until it runs.
set -euo pipefail
cd "$(dirname "$0")/.."
image=${1:-$(<build/image.name)}

mkdir -p build/deploy
cat >build/deploy/kustomization.yaml <<EOF
resources:
- ../../config/default
images:
- name: quay.io/vault-operator/vault-operator
  newName: ${image%:*}
  newTag: ${image##*:}
EOF
kubectl apply -k build/deploy
kubectl -n vault-operator-system rollout status deployment/vault-operator-controller-manager --timeout=180s
