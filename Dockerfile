# The operator's image. The binary is built before, by "make build", so that
# the same file serves a release, a laptop and the local cluster, where no
# registry and no compiler image can be had.
ARG BASE_IMAGE=gcr.io/distroless/static:nonroot
FROM ${BASE_IMAGE}
WORKDIR /
COPY build/vault-operator /usr/local/bin/vault-operator
COPY watches.yaml /watches.yaml
COPY helm-charts /helm-charts
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/vault-operator"]
