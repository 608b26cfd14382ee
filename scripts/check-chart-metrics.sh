#!/bin/sh
# Checks the chart's dashboard and alerts on what a real service counts, on private Postgres and Redis servers: it is scraped
# every second, and promtool evaluates what was found. VOXGATE_BIN names another binary than target/debug/voxgate.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
PATH=$tools/bin:$PATH
for tool in grpcurl promtool node openssl; do
    has "$tool" || die "$tool is missing: run make setup-check"
done
{ [ -n "$(postgres_bin)" ] && has redis-server; } || die "postgresql or redis-server is missing: run make setup-test"
voxgate=${VOXGATE_BIN:-${CARGO_TARGET_DIR:-target}/debug/voxgate}
[ -x "$voxgate" ] || die "$voxgate is missing: run cargo build"

node --test helm/live/metrics.test.mjs
say "chart: the dashboard's queries have data, and the alerts see what happens"
