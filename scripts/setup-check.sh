#!/bin/sh
# Makes sure that the tools of `make check` are in .tools, at the versions of scripts/versions.sh.
# A second run installs nothing.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/versions.sh

install_grpcurl() { go_install grpcurl "github.com/fullstorydev/grpcurl/cmd/grpcurl@$1"; }

install_helm() { go_install helm "helm.sh/helm/v4/cmd/helm@$1"; }

# Without the ways to find what to scrape: rules need none of them, and they are most of it.
install_promtool() { go_install promtool "github.com/prometheus/prometheus/cmd/promtool@$1" -tags=remove_all_sd; }

install_buf() {
    has npm || install_packages "npm, which brings buf" nodejs npm
    npm install --prefix "$tools" --no-save --no-audit --no-fund --loglevel=error "@bufbuild/buf@$1"
}

# In a folder of its own: npm removes from a folder what another install put there.
install_yaml() {
    npm install --prefix "$tools/yaml" --no-save --no-audit --no-fund --loglevel=error "yaml@$1"
}

has openssl || install_packages "openssl, which makes certificates for the chart's checks" openssl

install_cargo_deny() { cargo_install "cargo-deny@$1" --no-default-features; }

once grpcurl "$GRPCURL_VERSION" install_grpcurl
once helm "$HELM_VERSION" install_helm
once promtool "$PROMETHEUS_VERSION" install_promtool
once buf "$BUF_VERSION" install_buf
once yaml "$YAML_VERSION" install_yaml
once cargo-deny "$CARGO_DENY_VERSION" install_cargo_deny
