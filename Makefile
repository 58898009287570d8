# Everything that is done with this repository. `make` alone prints what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
.NOTPARALLEL:

CARGO ?= cargo
VERSION := v$(shell sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
RELEASE := release/infrastructure-ferric/$(VERSION)
COMPONENTS := clusterctl/infrastructure-components
# In the order in which a person reads them; clusterctl sorts by itself.
COMPONENT_FILES = $(COMPONENTS)/namespace.yaml $(sort $(wildcard crds/*.yaml)) $(COMPONENTS)/rbac.yaml \
  clusterctl/policies.yaml $(COMPONENTS)/service.yaml $(COMPONENTS)/deployment.yaml

# $(call stage,title,command): says what it does and how long it took, also when it fails.
define stage
@printf '==> %s\n' '$(1)'; begin=$$SECONDS; code=0; { $(2); } || code=$$?; \
  if [ $$code -eq 0 ]; then printf '    %s: %d s\n' '$(1)' $$((SECONDS - begin)); \
  else printf '    %s: FAILED after %d s\n' '$(1)' $$((SECONDS - begin)); exit $$code; fi
endef

.PHONY: help
help: ## Print this
	@printf 'Ferric %s. Targets:\n' '$(VERSION)'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | while IFS=$$'\t' read -r target text; do \
	  printf '  %-11s %s\n' "$$target" "$$text"; done

.PHONY: generate
generate: tools ## Write crds/ from the Rust types
	$(call stage,generated files,$(CARGO) run --quiet --package ferric-api --example generate-crds -- crds)

.PHONY: fmt
fmt: tools ## Format the code
	$(call stage,format,$(CARGO) fmt --all)

.PHONY: lint
lint: tools ## Check format, clippy, banned dependencies
	$(call stage,format is clean,$(CARGO) fmt --all --check)
	$(call stage,clippy,$(CARGO) clippy --quiet --workspace --all-targets -- -D warnings)
	$(call stage,banned dependencies,! grep -E '^name = "(openssl|openssl-sys|native-tls|aws-lc-rs|aws-lc-sys)"' Cargo.lock)

.PHONY: unit
unit: tools ## Unit and property tests only: nothing is started, minutes become seconds
	$(call stage,unit and property tests,$(CARGO) test --quiet --workspace --lib --bins)

.PHONY: assets
assets: tools ## Build what the contract tests and the demo run: etcd, Kubernetes, Cluster API (13 minutes, once)
	$(call stage,programs of the test bed,$(CARGO) run --quiet --package ferric-testbed -- assets)

.PHONY: test
test: lint assets release bmc-tools ## Everything: lint, stale files, unit, property and contract tests against the real control plane
	$(call stage,tests,$(CARGO) test --quiet --workspace)

.PHONY: release
release: ## Write release/: what clusterctl reads
	@grep -q 'image: .*:$(VERSION)$$' $(COMPONENTS)/deployment.yaml || { \
	  echo 'the image in $(COMPONENTS)/deployment.yaml is not of version $(VERSION)' >&2; exit 1; }
	@rm -rf '$(RELEASE).new' && mkdir -p '$(RELEASE).new'
	@for file in $(COMPONENT_FILES); do printf -- '---\n'; cat "$$file"; done \
	  > '$(RELEASE).new/infrastructure-components.yaml'
	@cp metadata.yaml templates/cluster-template*.yaml '$(RELEASE).new/'
	@rm -rf '$(RELEASE)' && mv '$(RELEASE).new' '$(RELEASE)'
	@sed 's|@RELEASE@|$(CURDIR)/$(RELEASE)|' clusterctl/clusterctl.yaml > release/clusterctl.yaml
	@printf 'release: %s\n' '$(RELEASE)'

# Servers of any vendor: make agent-image FLAVOUR=hardware
FLAVOUR ?= virtual
AGENT_TARGET := x86_64-unknown-linux-gnu
# A folder of its own: what is linked statically is built apart from the rest.
AGENT_BUILD := $(or $(CARGO_TARGET_DIR),target)/agent
.PHONY: agent-image
agent-image: tools media-tools ## Make agent-image/: what servers boot our agent from (FLAVOUR=virtual or hardware)
	$(call stage,static agent,RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --quiet --release \
	  --package ferric-agent --bin ferric-agent --target $(AGENT_TARGET) --target-dir '$(AGENT_BUILD)')
	$(call stage,agent image,$(CARGO) run --quiet --package ferric-testbed -- agent-image --flavour '$(FLAVOUR)' \
	  --agent '$(AGENT_BUILD)/$(AGENT_TARGET)/release/ferric-agent' >/dev/null)

.PHONY: node-image
node-image: assets ## Make the operating system for virtual servers: Debian, containerd, kubelet (3 minutes, once)
	$(call stage,node image,$(CARGO) run --quiet --package ferric-testbed -- node-image)

.PHONY: lab
lab: assets release agent-image ## Virtual servers with BMCs and the provider, kept up until Ctrl-C (root, QEMU)
	$(call stage,programs of the lab,$(CARGO) build --quiet --package ferric --package ferric-testbed --bins)
	@exec $(CARGO) run --quiet --package ferric-testbed -- lab

# Some of it only: make test-lab ROWS='boot:: scale::'
ROWS ?=
.PHONY: test-lab
test-lab: assets release agent-image ## What is shown on virtual servers only, all of it (root, QEMU; up to 75 minutes)
	$(call stage,programs of the lab,$(CARGO) build --quiet --package ferric --bins)
	$(call stage,virtual servers,FERRIC_AGENT_IMAGE='$(CURDIR)/agent-image/virtual' \
	  $(CARGO) run --quiet --package ferric-testbed -- lab-rows $(ROWS))

.PHONY: test-lab-bmc
test-lab-bmc: ## What is shown on virtual servers of BMCs in band and of Wake-on-LAN (root, QEMU; 10 minutes)
	@$(MAKE) --no-print-directory test-lab ROWS='in_band:: boot::wake_on_lan'

.PHONY: test-autoscaler
test-autoscaler: assets release metrics-tools ## The autoscaler under the real Cluster API, and 520 cases of the real kube-scheduler (10 minutes)
	$(call stage,programs of the tests,$(CARGO) build --quiet --package ferric --package ferric-simulator --bins)
	$(call stage,the autoscaler,FERRIC_SCHEDULER_CASES=520 $(CARGO) test --quiet --package ferric \
	  --test e2e_autoscaler --test e2e_autoscaler_metrics --test e2e_autoscaler_clusters --test e2e_autoscaler_faults --test e2e_standby \
	  --test scheduler_agreement \
	  -- --include-ignored --nocapture)

# A Prometheus that asks and is asked.
.PHONY: metrics-tools
metrics-tools:
	$(call install,prometheus=prometheus)

.PHONY: demo
ifeq ($(LAB),1)
demo: assets release agent-image ## Watch real Cluster API machines become nodes (ONESHOT=1: end and judge; LAB=1: on VMs; AUTOSCALE=1: by load)
	$(call stage,programs of the demo,$(CARGO) build --quiet --package ferric --package ferric-testbed --bins)
	@exec $(CARGO) run --quiet --package ferric-testbed -- lab --demo $(if $(filter 1,$(ONESHOT)),--oneshot)
else
demo: assets release
	$(call stage,programs of the demo,$(CARGO) build --quiet --package ferric --package ferric-simulator --package ferric-testbed --bins)
	@exec $(CARGO) run --quiet --package ferric-testbed -- demo $(if $(filter 1,$(AUTOSCALE)),--autoscale) \
	  $(if $(filter 1,$(ONESHOT)),--oneshot)
endif

.PHONY: bench
bench: assets release ## Measure 1000 and 10000 simulated hosts and write docs/benchmarks.md
	$(call stage,programs of the benchmarks,$(CARGO) build --quiet --release --package ferric --package ferric-simulator --bins)
	$(call stage,benchmarks,$(CARGO) bench --quiet --package ferric --bench fleet)

.PHONY: bench-bmc
bench-bmc: tools ## Measure the BMC drivers with up to 10000 simulated BMCs, and write docs/benchmarks.md
	$(call stage,programs of the benchmarks,$(CARGO) build --quiet --release --package ferric-simulator --bins)
	$(call stage,benchmarks of the BMC drivers,$(CARGO) bench --quiet --package ferric-bmc --bench bmc)

.PHONY: bench-autoscaler
bench-autoscaler: assets release ## Measure the scheduling simulation, and 100 node groups at rest with 50000 pods, and write docs/benchmarks.md
	$(call stage,programs of the benchmarks,$(CARGO) build --quiet --release --package ferric --package ferric-simulator --bins)
	$(call stage,the scheduling simulation,$(CARGO) bench --quiet --package ferric --bench schedule)
	$(call stage,groups at rest,$(CARGO) bench --quiet --package ferric --bench autoscaler)

.PHONY: bench-lab
bench-lab: agent-image ## Measure writing an image, booting the agent and its memory, and write docs/benchmarks.md
	$(call stage,benchmarks of the image pipeline,FERRIC_AGENT_BIN='$(abspath $(AGENT_BUILD)/$(AGENT_TARGET)/release/ferric-agent)' \
	  $(CARGO) bench --quiet --package ferric-image --bench lab)
	$(call stage,benchmarks on virtual machines,$(CARGO) bench --quiet --package ferric-agent --bench vm)

# How many inputs each decoder gets; make test replays the small corpus in fuzz/.
FUZZ_CASES ?= 1000000
FUZZ_TEST = FERRIC_FUZZ_CASES=$(FUZZ_CASES) $(CARGO) test --quiet --profile fuzz
.PHONY: fuzz
fuzz: tools ## Feed the decoders malformed input, FUZZ_CASES=1000000 each (hours)
	$(call stage,decoders of disks and messages,$(FUZZ_TEST) --package ferric-image --test fuzz)
	$(call stage,OCI manifests,$(FUZZ_TEST) --package ferric --lib no_manifest_makes)
	$(call stage,DHCP and TFTP of the provider,$(FUZZ_TEST) --package ferric --lib harms_the_provider)
	$(call stage,what networks say to the agent,$(FUZZ_TEST) --package ferric-agent --bins harms_the_agent)
	$(call stage,what BMCs say over IPMI,$(FUZZ_TEST) --package ferric-bmc --lib harms_the_ipmi_driver)
	$(call stage,what BMCs say over Redfish and captures of it,$(FUZZ_TEST) --package ferric-bmc --lib harms_the_redfish_driver)
	$(call stage,quirk rules and redaction,$(FUZZ_TEST) --package ferric-bmc --lib properties)

.PHONY: clean
clean: ## Remove what was built here (not the programs of the test bed in the cache folder)
	@$(CARGO) clean
	@rm -rf release agent-image

# Tools: what is missing is installed where that takes one command (Debian, as root), else it is said how.
.PHONY: tools
tools:
	@missing=''; \
	command -v cc >/dev/null || missing="$$missing build-essential"; \
	command -v curl >/dev/null || missing="$$missing curl"; \
	python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    printf '==> installing%s\n' "$$missing"; \
	    apt-get update -q >/dev/null; DEBIAN_FRONTEND=noninteractive apt-get install -qy $$missing >/dev/null; \
	  else printf 'missing:%s; on Debian: sudo apt-get install%s\n' "$$missing" "$$missing" >&2; exit 1; fi; \
	fi
	@command -v $(CARGO) >/dev/null || { echo 'missing: Rust; install it from https://rustup.rs, the version is in rust-toolchain.toml' >&2; exit 1; }
	@if [ -z "$${FERRIC_ASSETS:-}" ] && ! command -v go >/dev/null; then \
	  echo 'missing: Go 1.26 or newer, which builds the programs of the test bed; install it from https://go.dev/dl' >&2; \
	  echo 'or set FERRIC_ASSETS to a folder that holds them' >&2; exit 1; fi

# $(call install,tool=package …): installs the packages of tools that are missing, or says how.
define install
@missing=''; \
for pair in $(1); do command -v "$${pair%%=*}" >/dev/null || missing="$$missing $${pair##*=}"; done; \
if [ -n "$$missing" ]; then \
  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
    printf '==> installing%s\n' "$$missing"; \
    apt-get update -q >/dev/null; \
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $$missing >/dev/null; \
  else printf 'missing:%s; on Debian: sudo apt-get install --no-install-recommends%s\n' "$$missing" "$$missing" >&2; exit 1; fi; \
fi
endef

.PHONY: media-tools
media-tools:
	$(call install,xorriso=xorriso zstd=zstd)

# BMC software that is not ours, which the tests speak to.
.PHONY: bmc-tools
bmc-tools:
	$(call install,ipmi_sim=openipmi ipmitool=ipmitool)
