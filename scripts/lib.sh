# shellcheck shell=sh
# What the scripts share. Sourced from the root of the repository.

say() { printf '%s\n' "$*"; }
die() {
    printf '%s\n' "$*" >&2
    exit 1
}
has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root, or fails.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        sudo -n "$@"
    else
        return 1
    fi
}

# install_packages WHAT PACKAGE…: by apt, with the services that they bring left alone.
#
# Debian starts a service right after installing it. A policy-rc.d that says no keeps it from that; the
# machine's own, where there is one, is left as it is.
install_packages() {
    what=$1
    shift
    help="Missing: $what. Install by hand what Debian calls: $*"
    has apt-get || die "$help"
    as_root true || die "$help (neither root nor 'sudo -n' here)"
    say "installing $* ($what)"
    policy=/usr/sbin/policy-rc.d
    ours=
    if [ ! -e "$policy" ]; then
        ours=yes
        as_root sh -c "printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy"
        trap 'as_root rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM
    fi
    apt_get() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@"; }
    failed=
    apt_get install -y --no-install-recommends "$@" >/dev/null ||
        { apt_get update && apt_get install -y --no-install-recommends "$@" >/dev/null; } || failed=yes
    if [ -n "$ours" ]; then
        as_root rm -f "$policy"
        trap - EXIT INT TERM
    fi
    [ -z "$failed" ] || die "apt-get could not install it. $help"
}

# The folder of Postgres' server programs. Debian keeps it off the PATH.
postgres_bin() {
    for candidate in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -rV); do
        if [ -x "$candidate/initdb" ]; then
            say "$candidate"
            return
        fi
    done
    if has initdb && has postgres; then
        dirname "$(command -v initdb)"
    fi
}

# Where tools go, and what says which version of each is there.
tools=$PWD/.tools
stamps=$tools/stamps

# once NAME VERSION FUNCTION: runs FUNCTION unless it has succeeded for this version before.
once() {
    [ ! -e "$stamps/$1-$2" ] || return 0
    say "installing $1 $2 into .tools"
    "$3" "$2"
    mkdir -p "$stamps"
    rm -f "$stamps/$1-"*
    : >"$stamps/$1-$2"
}

# cargo_install PACKAGE@VERSION [OPTION…]: into .tools, from source, quickly rather than fast: tools run for seconds. A
# target folder of its own keeps the project's artefacts apart, and is dropped afterwards.
cargo_install() {
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG=0 \
        CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_TARGET_DIR=$tools/build \
        cargo install --quiet --locked --force --root "$tools" "$@"
    rm -rf "$tools/build"
}

# go_install NAME PACKAGE@VERSION [OPTION…]: into .tools, from source.
go_install() {
    name=$1
    package=$2
    shift 2
    has go || install_packages "go, which builds $name" golang-go
    # From 1.21 on, Go fetches by itself the newer Go that a module asks for. Debian 12 has an older one.
    GOBIN=$tools/bin go install "$@" "$package" ||
        die "go could not build $name. It takes Go 1.21 or newer; here is $(go version)"
}
