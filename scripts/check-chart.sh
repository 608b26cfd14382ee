#!/bin/sh
# Checks the Helm chart: lint, every example rendered, values that have to be taken and values that have to be refused with
# the right words, and a test a concern over what is rendered. The service itself is started with what is rendered;
# VOXGATE_BIN names another binary than target/debug/voxgate.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
PATH=$tools/bin:$PATH
for tool in helm promtool node openssl; do
    has "$tool" || die "$tool is missing: run make setup-check"
done
voxgate=${VOXGATE_BIN:-${CARGO_TARGET_DIR:-target}/debug/voxgate}
[ -x "$voxgate" ] || die "$voxgate is missing: run cargo build"

chart=helm/voxgate
said=$(mktemp)
trap 'rm -f "$said"' EXIT

helm lint --strict --quiet "$chart"
for values in "$chart"/examples/*.yaml "$chart"/tests/values-good/*.yaml; do
    helm lint --strict --quiet "$chart" --values "$values"
    helm template check "$chart" --values "$values" >"$said"
done

# The first line of each says what has to be told.
for values in "$chart"/tests/values-bad/*.yaml; do
    fault=$(sed -n '1s/^# refused: //p' "$values")
    [ -n "$fault" ] || die "$values does not begin with '# refused: …'"
    if helm template check "$chart" --values "$values" >"$said" 2>&1; then
        die "$values was taken. It has to be refused: $fault"
    fi
    grep -qF -e "$fault" "$said" || {
        cat "$said"
        die "$values was refused, but not for: $fault"
    }
done

node --test "$chart"/tests/*.test.mjs
say "chart: lint, examples, good and bad values, tests passed"
