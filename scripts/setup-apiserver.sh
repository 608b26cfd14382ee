#!/bin/sh
# Makes sure that kube-apiserver and etcd of helm/live/go.mod are in .tools, built from source: no registry has them built.
# The first time takes some fifteen minutes of one core, a second run installs nothing.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
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
