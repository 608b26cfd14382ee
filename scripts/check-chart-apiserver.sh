#!/bin/sh
# Checks the Helm chart against a real Kubernetes API server, private to this run: every object of every example is taken
# with strict validation, and each is installed, upgraded, rolled back and uninstalled by helm.
#
# What it needs is built from source into .tools the first time: kube-apiserver and etcd of helm/live/go.mod. The
# Prometheus operator's definitions come out of its module.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/versions.sh
PATH=$tools/bin:$PATH
for tool in helm node; do
    has "$tool" || die "$tool is missing: run make setup-check"
done
has go || install_packages "go, which builds kube-apiserver" golang-go

# The version of a module in helm/live/go.mod.
module() { sed -n "s|^	$1 \(v[^ ]*\).*|\1|p" helm/live/go.mod | head -n 1; }

# Neither of them needs C, nor its symbols.
install_etcd() (
    cd helm/live
    CGO_ENABLED=0 go build -ldflags='-s -w' -o "$tools/bin/etcd" go.etcd.io/etcd/server/v3
)

# It says its version to helm, which holds it against the chart's kubeVersion.
install_apiserver() (
    cd helm/live
    version=k8s.io/component-base/version
    minor=${1#v1.}
    CGO_ENABLED=0 go build -o "$tools/bin/kube-apiserver" \
        -ldflags="-s -w -X $version.gitVersion=$1 -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" \
        k8s.io/kubernetes/cmd/kube-apiserver
)

once etcd "$(module go.etcd.io/etcd/server/v3)" install_etcd
once apiserver "$(module k8s.io/kubernetes)" install_apiserver

# Downloaded once, and verified by Go's checksum database.
PROMETHEUS_OPERATOR=$(go mod download -json "github.com/prometheus-operator/prometheus-operator@$PROMETHEUS_OPERATOR_VERSION" |
    sed -n 's/^	"Dir": "\(.*\)",*$/\1/p')
export PROMETHEUS_OPERATOR
node --test helm/live/apiserver.test.mjs
say "chart: the API server takes every example, and helm installs, upgrades, rolls back and uninstalls it"
