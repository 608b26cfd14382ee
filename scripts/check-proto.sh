#!/bin/sh
# Checks the API definition: lint, format, and no breaking change since the last release.
set -eu
cd "$(dirname "$0")/.."
. scripts/lib.sh
buf=$PWD/.tools/node_modules/.bin/buf

"$buf" lint
# What is vendored stays as it was published.
"$buf" format --diff --exit-code --path proto/voxgate

tag=$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null || true)
if [ -z "$tag" ]; then
    say "buf breaking: nothing to compare with, there is no release tag yet"
    exit 0
fi
released=$(mktemp -d)
trap 'rm -rf "$released"' EXIT
git archive "$tag" buf.yaml proto | tar -x -C "$released"
"$buf" breaking --against "$released"
say "buf breaking: nothing breaks clients of $tag"
