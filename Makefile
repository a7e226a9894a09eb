# Two commands matter: `make lab` plays the teaching lab on this machine, `make test` runs every test.
# Both install what is missing (on Debian 12, as root) and say so; see scripts/setup.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export CARGO_TERM_PROGRESS_WHEN ?= never
# Where cargo puts the programs.
TARGET := $(or $(CARGO_TARGET_DIR),target)

# What is shipped names no path of the machine that built it.
CARGO_HOME_DIR := $(or $(CARGO_HOME),$(HOME)/.cargo)
RELEASE_FLAGS := --remap-path-prefix=$(CURDIR)=/bascule \
  --remap-path-prefix=$(CARGO_HOME_DIR)/registry/src=/cargo --remap-path-prefix=$(CARGO_HOME_DIR)=/cargo \
  --remap-path-prefix=$(shell rustc --print sysroot 2>/dev/null)=/rust
OUT ?= lab-results
SCENARIO ?= tp-ipvs
SEEDS ?= 100000

.PHONY: help
help: ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the programs, optimised and stripped, into target/release.
	RUSTFLAGS="$(RELEASE_FLAGS)" cargo build --release --locked --bins

# For scripts/images, which builds the same with one flag more.
.PHONY: release-flags
release-flags:
	@echo "$(RELEASE_FLAGS)"

.PHONY: images
images: ## Write the images of agent and operator as OCI archives into images, without a container engine.
	@scripts/images

.PHONY: lab
lab: ## Play the teaching lab (SCENARIO=tp-ipvs) on this machine's kernel, or in a virtual machine where that lacks IPVS.
	@venv=$$(scripts/setup lab) && $(MAKE) --no-print-directory build && \
	PATH="$$venv/bin:$$PATH" $(TARGET)/release/bascule-lab run $(SCENARIO) --out $(OUT) && \
	echo "bascule-lab is $(TARGET)/release/bascule-lab; to look around: $(TARGET)/release/bascule-lab up $(SCENARIO)" >&2

.PHONY: test
test: ## Run every test; prints how long each stage took.
	@scripts/test

.PHONY: cluster
cluster: ## Run the images in pods of a real cluster: kubelets in a virtual machine (some 10 minutes, 5 GB of memory).
	@venv=$$(scripts/setup cluster) && $(MAKE) --no-print-directory build && scripts/images --out $(TARGET)/cluster/images && \
	PATH="$$venv/bin:$$PATH" BASCULE_LAB=$(abspath $(TARGET)/release/bascule-lab) BASCULE_IMAGES=$(abspath $(TARGET)/cluster/images) \
	  cargo test --locked -p bascule-tests --test cluster -- --ignored --nocapture

.PHONY: bench
bench: ## Measure beside ipvsadm and keepalived; writes $(OUT)/bench.
	@venv=$$(scripts/setup lab) && $(MAKE) --no-print-directory build && \
	for name in ipvs-program ipvs-change drift; do \
	  PATH="$$venv/bin:$$PATH" $(TARGET)/release/bascule-lab bench $$name --out $(OUT)/bench || exit; \
	done

.PHONY: simulate
simulate: ## Play SEEDS (100000) seeds of the VRRP simulation; goes on where it was interrupted.
	@mkdir -p $(TARGET) && cargo run --release --locked -q -p bascule-vrrp --example simulate -- \
	  --seeds $(SEEDS) --state $(TARGET)/simulate.state

.PHONY: interop
interop: ## Try Bascule beside keepalived, a newer keepalived and FRR; writes docs/reference/interoperation.md and interoperation-checks.md.
	@scripts/interop
	@scripts/interop-checks

.PHONY: generate
generate: ## Write the CRDs, the JSON Schemas, their references and what the chart holds of them anew from the types.
	cargo run -q -p bascule-crds --example generate
	cargo run -q -p bascule-crds --example reference > docs/reference/manifests.md
	cargo run -q -p bascule-lab --example generate
	cargo run -q -p bascule-tests --example chart

.PHONY: manifests
manifests: ## Write the plain Kubernetes manifests anew from the chart (builds helm for the first time).
	cargo run -q -p bascule-tests --example chart manifests

.PHONY: deny
deny: ## Check licences, sources, duplicates and, where their database is at hand, advisories.
	@scripts/deny

.PHONY: fuzz-smoke
fuzz-smoke: ## Feed the decoders random bytes (the stable part of fuzzing; see the fuzz folders for cargo-fuzz).
	cargo test --locked -p bascule-checks -p bascule-ipvs -p bascule-vrrp -p bascule-crds -p bascule-lab random
