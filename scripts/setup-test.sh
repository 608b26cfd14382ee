#!/bin/sh
# Makes sure that the servers `make test` runs against are installed: redis-server and postgresql; ip, by which tests
# make networks of their own; and the reference library of Standard Webhooks for Node, which verifies our signatures.
# They are started by the tests, privately; a service of this machine is neither started nor stopped.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/versions.sh

missing=
has redis-server || missing="$missing redis-server"
[ -n "$(postgres_bin)" ] || missing="$missing postgresql"
has ip || [ -x /sbin/ip ] || missing="$missing iproute2"
has node || missing="$missing nodejs"
has npm || missing="$missing npm"
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of words
    install_packages "servers and tools for the tests" $missing
fi

# In a folder of its own: npm removes from a folder what another install put there.
install_standardwebhooks() {
    npm install --prefix "$tools/standardwebhooks" --no-save --no-audit --no-fund --loglevel=error "standardwebhooks@$1"
}

once standardwebhooks "$STANDARDWEBHOOKS_VERSION" install_standardwebhooks
