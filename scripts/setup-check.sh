#!/bin/sh
# Makes sure that the tools of `make check` are in .tools, at the versions of scripts/versions.sh.
# A second run installs nothing.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/versions.sh

tools=$PWD/.tools
stamps=$tools/stamps
mkdir -p "$stamps"

# once NAME VERSION FUNCTION: runs FUNCTION unless it has succeeded for this version before.
once() {
    [ ! -e "$stamps/$1-$2" ] || return 0
    say "installing $1 $2 into .tools"
    "$3" "$2"
    rm -f "$stamps/$1-"*
    : >"$stamps/$1-$2"
}

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

# Built from source, quickly rather than fast: it runs for seconds. A target folder of its own keeps the
# project's artefacts apart, and is dropped afterwards.
install_cargo_deny() {
    CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_TARGET_DIR=$tools/build \
        cargo install --quiet --locked --force --root "$tools" --no-default-features "cargo-deny@$1"
    rm -rf "$tools/build"
}

once grpcurl "$GRPCURL_VERSION" install_grpcurl
once buf "$BUF_VERSION" install_buf
once cargo-deny "$CARGO_DENY_VERSION" install_cargo_deny
