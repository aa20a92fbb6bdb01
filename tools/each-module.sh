#!/bin/sh
# Runs a command in the folder of every Go module of the repository; when it fails in one, the others still run.
cd "$(dirname "$0")/.." || exit
status=0
for mod in $(find . \( -name node_modules -o -name testdata -o -name '.?*' \) -prune -o -name go.mod -print | sort); do
	folder=$(dirname "$mod")
	echo "== $folder: $*"
	(cd "$folder" && "$@") || status=1
done
exit $status
