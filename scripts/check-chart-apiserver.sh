#!/bin/sh
# Checks the Helm chart against a real Kubernetes API server, private to this run: every object of every example is taken
# with strict validation, and each is installed, upgraded, rolled back and uninstalled by helm.
#
# scripts/setup-apiserver.sh builds the server. The Prometheus operator's definitions come out of its module.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/versions.sh
PATH=$tools/bin:$PATH
for tool in helm node; do
    has "$tool" || die "$tool is missing: run make setup-check"
done
scripts/setup-apiserver.sh

# Downloaded once, and verified by Go's checksum database.
PROMETHEUS_OPERATOR=$(go mod download -json "github.com/prometheus-operator/prometheus-operator@$PROMETHEUS_OPERATOR_VERSION" |
    sed -n 's/^	"Dir": "\(.*\)",*$/\1/p')
export PROMETHEUS_OPERATOR
node --test helm/live/apiserver.test.mjs
say "chart: the API server takes every example, and helm installs, upgrades, rolls back and uninstalls it"
