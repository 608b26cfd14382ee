#!/bin/sh
# Checks the Helm chart.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh

if [ ! -d helm ]; then
    say "helm: no chart exists yet, nothing to check"
    exit 0
fi
has helm || die "helm/ exists and helm is not installed: pin it in scripts/versions.sh, install it in scripts/setup-check.sh"
for chart in helm/*/; do
    helm lint "$chart"
    helm template check "$chart" >/dev/null
done
