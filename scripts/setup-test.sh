#!/bin/sh
# Makes sure that the servers `make test` runs against are installed: redis-server and postgresql; and ip, by which tests
# make networks of their own.
# They are started by the tests, privately; a service of this machine is neither started nor stopped.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

missing=
has redis-server || missing="$missing redis-server"
[ -n "$(postgres_bin)" ] || missing="$missing postgresql"
has ip || [ -x /sbin/ip ] || missing="$missing iproute2"
if [ -n "$missing" ]; then
    # shellcheck disable=SC2086 # a list of words
    install_packages "servers for the tests" $missing
fi
