#!/bin/sh
# Makes sure that the tools of `make check` are in .tools, at the versions of scripts/versions.sh.
# A second run installs nothing.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/versions.sh

install_grpcurl() {
    has go || install_packages "go, which builds grpcurl" golang-go
    # From 1.21 on, Go fetches by itself the newer Go that a module asks for. Debian 12 has an older one.
    GOBIN=$tools/bin go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$1" ||
        die "go could not build grpcurl $1. It takes Go 1.21 or newer; here is $(go version)"
}

install_buf() {
    has npm || install_packages "npm, which brings buf" nodejs npm
    npm install --prefix "$tools" --no-save --no-audit --no-fund --loglevel=error "@bufbuild/buf@$1"
}

install_cargo_deny() { cargo_install "cargo-deny@$1" --no-default-features; }

once grpcurl "$GRPCURL_VERSION" install_grpcurl
once buf "$BUF_VERSION" install_buf
once cargo-deny "$CARGO_DENY_VERSION" install_cargo_deny
