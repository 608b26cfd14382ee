# shellcheck shell=sh disable=SC2034
# The versions of every tool that a check runs. Sourced by the other scripts; nothing else pins one,
# but for kube-apiserver and etcd: helm/live/go.mod.
GRPCURL_VERSION=v1.9.4
BUF_VERSION=1.75.0
CARGO_DENY_VERSION=0.20.2
HELM_VERSION=v4.3.1
# promtool, of Prometheus 3.16.
PROMETHEUS_VERSION=v0.316.0
# Its definitions of ServiceMonitor and PrometheusRule.
PROMETHEUS_OPERATOR_VERSION=v0.85.0
# It reads what helm renders, for the tests of the chart.
YAML_VERSION=2.9.1
STANDARDWEBHOOKS_VERSION=1.1.1
CARGO_FUZZ_VERSION=0.13.2
# The sanitizers of the compiler are in no stable release.
FUZZ_TOOLCHAIN=nightly
