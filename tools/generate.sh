#!/bin/sh
# Writes the generated code, below the folder that is given or in place.
set -eu
cd "$(dirname "$0")/.."
out=${1-.}
image=$(mktemp -d)
trap 'rm -rf "$image"' EXIT
go run ./internal/dummy/details >"$image/details.binpb"
buf generate -o "$out"
buf generate -o "$out" --template buf.gen.details.yaml --path google/rpc/error_details.proto "$image/details.binpb"
