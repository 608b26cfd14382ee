# One command a habit. The work is in scripts/, so that each step can also be run by hand.
.DEFAULT_GOAL := help
.PHONY: help run test check check-chart bench fuzz setup-test setup-check

help: ## Show what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

run: ## Start Voxgate on the embedded stores and print grpcurl lines to try
	cargo run --locked -- dev

# Tests wait more than they compute: one and a half a core.
test: setup-test ## Run every test, against private Postgres and Redis servers too
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-$$(($$(nproc) * 3 / 2))} cargo test --locked
	@scripts/say-network.sh

# kube-apiserver is built beside what a compiler of one crate does, which is to keep one core.
check: setup-check setup-test ## Run what CI runs beside the tests
	cargo fmt --check
	scripts/setup-apiserver.sh & server=$$!; \
	    cargo clippy --all-targets --locked -- -D warnings && cargo test --locked --no-run; \
	    code=$$?; wait $$server && exit $$code
	scripts/check-deps.sh
	scripts/check-proto.sh
	scripts/check-chart.sh
	scripts/check-chart-apiserver.sh
	scripts/check-chart-metrics.sh
	scripts/walk.sh embedded
	scripts/walk.sh postgres-redis

check-chart: setup-check setup-test ## Check the Helm chart alone, with what it needs
	cargo build --locked
	scripts/check-chart.sh
	scripts/check-chart-apiserver.sh
	scripts/check-chart-metrics.sh

bench: setup-test ## Measure admission, agents and verbs beside servers and databases that do less
	cargo bench --locked --bench rpc

fuzz: ## Look for inputs that break a promise, ten minutes a target (needs a nightly Rust)
	scripts/fuzz.sh

setup-test: ## Install the servers that the tests need, where missing
	scripts/setup-test.sh

setup-check: ## Install the tools that the checks need into .tools
	scripts/setup-check.sh
