#!/bin/sh
# Fails when the generated code in the tree is not what `make generate` writes.
set -eu
cd "$(dirname "$0")/.."
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
tools/generate.sh "$fresh"
sed -sn 's/^ *out: *//p' buf.gen.yaml buf.gen.details.yaml | sort -u | while read -r folder; do
	diff -r "$folder" "$fresh/$folder" || {
		echo "check-generated: $folder differs from a fresh generation: run 'make generate' and commit the result" >&2
		exit 1
	}
done
