# Vault Operator. "make help" lists what can be done.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= 0.2.0
IMAGE_NAME := quay.io/vault-operator/vault-operator
# IMG is the operator image to deploy. When it is given, together with a
# KUBECONFIG, that cluster is used instead of the local one.
IMG ?=
# BASE_IMAGE is what the operator image is built on.
BASE_IMAGE ?= scratch

# All is compiled in one way, so that what two programs share is compiled once. Only the
# race detector needs another. Without what a debugger needs a tenth of the time is saved.
# The linters vet, and need not be followed by "go test", which would vet all libraries.
export CGO_ENABLED := 0
export GOFLAGS ?= -trimpath -gcflags=all=-dwarf=false -vet=off
race := CGO_ENABLED=1 go
# What lives as short as a compiler need not collect garbage. The limit is for what is large.
brief := GOGC=off GOMEMLIMIT=3GiB

BUILD := build
CLUSTER := $(brief) go run -C test/cluster .
# Tools are pinned in a module each, so that none decides another's libraries.
tool = $(brief) go tool -modfile=hack/tools/$(1)/go.mod $(1)

# step runs a command line, and tells for how long it has been at it.
step = @hack/step.sh "$(1)" '$(2)'

##@ The two commands

.PHONY: demo
demo: plan-demo modules cluster deploy ## Set everything up on this machine and run a Vault through the usage guide.
	$(call step,the demo,$(in_cluster) go run ./test/demo)

.PHONY: test
test: plan-test all-modules unit fuzz integration last ## Set everything up on this machine and run every test.

# The end-to-end tests wait a lot. What has no time limits runs beside them, on the CPUs that they leave idle.
.PHONY: last
last:
	@chrt --idle 0 $(MAKE) --no-print-directory lint verify & e2e=0; $(MAKE) --no-print-directory e2e || e2e=$$?; wait $$! && exit $$e2e

.PHONY: plan-%
plan-%:
	@hack/plan.sh $*

.PHONY: modules all-modules
modules:
	$(call step,downloading Go modules,hack/modules.sh . test/cluster)
all-modules:
	$(call step,downloading Go modules,hack/modules.sh . test/cluster hack/bundle hack/tools/*)

##@ Development

.PHONY: help
help: ## Print this list.
	@awk 'BEGIN {FS = ":.*##"} /^[a-z0-9-]+:.*##/ {printf "  %-16s %s\n", $$1, $$2} /^##@/ {printf "\n%s\n", substr($$0, 5)}' $(MAKEFILE_LIST)

.PHONY: generate
generate: ## Generate code, manifests, the chart's schema and the reference from the Go types.
	$(call tool,controller-gen) object paths=./api/...
	$(call tool,controller-gen) crd paths=./api/... output:crd:dir=config/crd/bases
	$(call tool,controller-gen) rbac:roleName=manager-role paths=./internal/operator/ output:rbac:dir=config/rbac
	go run ./hack/values-schema
	$(call tool,crd-ref-docs) --source-path=api/v1alpha1 --config=hack/reference.yaml --renderer=markdown --output-path=docs/reference.md --log-level=ERROR

.PHONY: bundle
bundle: generate ## Generate the OLM bundle from config/ and the Go types.
	$(call tool,kustomize) build config/manifests | go run -C hack/bundle .

.PHONY: fmt
fmt: ## Format the Go code.
	gofmt -w $$(git ls-files '*.go')

.PHONY: lint
lint: ## Run the linters.
	$(call step,linting,for module in . test/cluster test/cluster/parts/local-kms hack/bundle; do (cd $$module && $(brief) go tool -modfile=$(CURDIR)/hack/tools/golangci-lint/go.mod golangci-lint run ./...); done)

.PHONY: verify
verify: ## Fail when a generated file or go.mod is not up to date.
	$(call step,checking that generated files are up to date,hack/verify.sh)

# RACED are the packages whose unit tests run with the race detector: the operator and the plugin.
RACED := . ./api/... ./cmd/... ./internal/...

.PHONY: unit
unit: ## Run the unit tests, those of the operator and of the plugin with the race detector.
	$(call step,compiling for the race detector,$(brief) $(race) build -race $(RACED))
	$(call step,unit tests,$(race) test -race -p 2 $(RACED) && go test ./hack/... ./test/... && go test -C test/cluster ./... && go test -C hack/bundle -v ./...)

# FUZZ_SECONDS is for how long, all fuzz tests together.
FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: ## Feed what users and nodes may send to the code that reads it, changed at random.
	$(call step,fuzz tests,hack/fuzz.sh $(FUZZ_SECONDS))

.PHONY: integration
integration: cluster s3 ## Run the tests against a real kube-apiserver and etcd.
	$(call step,integration tests,KUBEBUILDER_ASSETS="$$($(CLUSTER) bin)" hack/integration.sh && VAULT_BINARY="$$($(CLUSTER) bin)/vault" go test -run "^TestVault(ListensOnIPv6|MovesItsData)$$" ./test/chart)

# E2E_TIMEOUT is for how long the end-to-end tests may run. They have a budget of 35 minutes
# in "make test", and what has no time there runs in "make e2e-all" alone; a slower machine
# is given twice that.
E2E_TIMEOUT ?= 70m

.PHONY: e2e
e2e: cluster deploy newer-vault kms s3 network-policies olm previous ## Run the end-to-end tests in the cluster.
	@mkdir -p $(BUILD)
	$(call step,installing a browser,test/form/install.sh)
	$(call step,installing PostgreSQL,test/postgresql/install.sh)
	$(call step,end-to-end tests,$(in_cluster) go test -tags e2e -timeout $(E2E_TIMEOUT) -parallel 4 -v ./test/e2e/... 2>&1 | tee $(BUILD)/e2e.log || { awk -f hack/failed.awk $(BUILD)/e2e.log; false; } && hack/slowest.sh $(BUILD)/e2e.log)

# ANY_STORAGE are the end-to-end tests that are about no storage in particular, and have no part with integrated storage.
ANY_STORAGE := ^Test(UsageGuide|Audit|AWSKMS|AutoUnseal|Initialization|KubernetesAuth|Metrics|OperatorLogin|OwnTLSAndConfig|Plugin|RemovalWithoutOperator|SealMigration|TwoVaultsSideBySide|UpgradeWithoutRoomForOneMore)\b

.PHONY: e2e-all
e2e-all: ## Run the end-to-end tests, and those that "make test" has no time for.
	@E2E_ALL=yes CHAOS_DURATION=15m $(MAKE) e2e E2E_TIMEOUT=180m
	$(call step,end-to-end tests with integrated storage,$(in_cluster) E2E_STORAGE=raft go test -tags e2e -timeout 60m -parallel 4 -v -run "$(ANY_STORAGE)" ./test/e2e/)

# CHAOS_DURATION is for how long the chaos goes on, and CHAOS_SEED repeats one.
CHAOS_DURATION ?= 2h
CHAOS_SEED ?=

.PHONY: chaos
chaos: cluster deploy ## Inject faults at random for hours, as the end-to-end tests do for minutes.
	$(call step,chaos,$(in_cluster) CHAOS_DURATION=$(CHAOS_DURATION) CHAOS_SEED=$(CHAOS_SEED) go test -tags e2e -timeout 24h -v -run TestFaults/chaos ./test/e2e/)

.PHONY: bench-freshness
bench-freshness: cluster deploy ## Measure how soon the status lists new nodes.
	@$(in_cluster) go run ./test/bench/freshness

.PHONY: bench-failover
bench-failover: cluster deploy newer-vault ## Measure for how long clients are not served in failovers, beside others' (BENCH="-n 3 -faults planned").
	@$(in_cluster) go run ./test/bench/failover $(BENCH)

.PHONY: bench-unseal
bench-unseal: cluster deploy ## Measure how soon Vaults serve again after all of their nodes were lost (BENCH="-n 20").
	@$(in_cluster) go run ./test/bench/unseal $(BENCH)

# BACKUP are flags of the benchmark. It needs the binaries of the local cluster, and nothing
# else of it.
BACKUP ?=
.PHONY: bench-backup
bench-backup: s3 ## Measure backups and restores beside what etcdctl and vault do, and clients meanwhile (BACKUP="-mib 1024").
	@PATH="$$($(CLUSTER) bin):$$PATH" go run ./test/bench/backup $(BACKUP)

# SCALE are flags of the benchmark. It needs the binaries that the local cluster was
# built from, and is disturbed by a cluster that runs.
SCALE ?=
.PHONY: bench-scale
bench-scale: ## Measure what the operator needs for many Vaults, and how it bears too many (SCALE="-n 1000 -overload").
	@KUBEBUILDER_ASSETS="$$($(CLUSTER) bin)" go run ./test/bench/scale $(SCALE)

##@ Build

.PHONY: build
build: ## Build the operator.
	@mkdir -p $(BUILD)
	$(call step,building the operator,$(brief) go build -ldflags "-s -w" -o $(BUILD)/vault-operator .)

.PHONY: plugin
plugin: ## Build "kubectl vault" for all platforms, with a manifest for krew, into build/plugin.
	$(call step,building the plugin for kubectl,hack/plugin.sh "$(VERSION)")

.PHONY: image
image: build ## Build the operator image from the Dockerfile into build/image.tar.
	$(call step,building the image of the operator,hack/image.sh "$(BASE_IMAGE)" "$(IMAGE_NAME)")

##@ Deployment

ifeq ($(IMG),)
# The local cluster.
in_cluster = eval "$$($(CLUSTER) env)" &&

.PHONY: cluster
cluster: cluster-up

.PHONY: load newer-vault kms s3 network-policies olm previous
load: image
	$(call step,giving the image of the operator to the cluster,$(CLUSTER) load "$(CURDIR)/$(BUILD)/image.tar")

newer-vault: cluster
	$(call step,building a newer Vault,$(CLUSTER) newer-vault)

kms: cluster
	$(call step,building a fake of AWS KMS,$(CLUSTER) kms)

s3: cluster
	$(call step,building an S3 server,$(CLUSTER) s3)

network-policies: cluster
	$(call step,having NetworkPolicies enforced,$(CLUSTER) network-policies)

olm: cluster
	$(call step,installing OLM in the cluster,$(CLUSTER) olm)

previous:
	$(call step,building the previous version of the operator,hack/previous.sh)
else
# The user's cluster, by KUBECONFIG. It pulls the image.
in_cluster =

.PHONY: cluster load newer-vault kms s3 network-policies olm previous
cluster load newer-vault kms s3 network-policies olm previous: ;
endif

.PHONY: deploy
deploy: cluster load ## Install the operator in the cluster.
	$(call step,installing the operator,$(in_cluster) hack/deploy.sh "$(IMG)")

.PHONY: undeploy
undeploy: ## Remove every Vault, and then the operator and the CRD, from the cluster.
	@$(in_cluster) hack/undeploy.sh

.PHONY: cluster-up
cluster-up: ## Start the local three-node Kubernetes cluster.
	$(call step,building and starting Kubernetes,$(CLUSTER) up)

.PHONY: cluster-down
cluster-down: ## Stop and remove the local cluster.
	@$(CLUSTER) down

.PHONY: env
env: ## Print the shell lines that make kubectl and vault use the local cluster, and go what make has compiled.
	@$(CLUSTER) env
	@echo "export CGO_ENABLED=$(CGO_ENABLED) GOFLAGS='$(GOFLAGS)'"
