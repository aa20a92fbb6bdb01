#!/bin/sh
# Brings everything the Makefile's targets use beyond Go and make: system packages (as root on Debian; elsewhere it
# says what is missing), the Node.js packages of each package-lock.json, the Go tools of tools/go.mod in tools/bin, and
# generated code that is not committed.
# shellcheck disable=SC2086 # lists of packages are to be split
set -eu
cd "$(dirname "$0")/.."

fail() {
	printf 'setup: %s\n' "$@" >&2
	exit 1
}

command -v go >/dev/null || fail 'go is missing: install Go 1.26 or newer (https://go.dev/doc/install)'

packages='ca-certificates curl gcc git libc6-dev npm' # a package without a command of its name has a check below
if [ -n "${CI-}" ] || { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }; then
	packages="$packages python3-grpcio chromium-headless-shell" # for test/clients and test/browser, which elsewhere do without
fi
missing=
for package in $packages; do
	case $package in
	ca-certificates) [ ! -e /etc/debian_version ] || [ -e /etc/ssl/certs/ca-certificates.crt ] ;;
	libc6-dev) echo '#include <stdlib.h>' | gcc -E - ;;
	python3-grpcio) python3 -c 'import grpc' || /usr/bin/python3 -c 'import grpc' ;; # Debian's need not be the first
	*) command -v "$package" ;;
	esac >/dev/null 2>&1 || missing="$missing $package"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		fail "missing, by the names of their Debian packages:$missing" \
			"install them and run this again; on Debian, as root: apt-get install --no-install-recommends$missing"
	fi
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $missing >/dev/null
fi
go version
dpkg-query -W $packages 2>/dev/null | awk 'NF == 2' # what Debian did not install has no version to print

find . -name node_modules -prune -o -name package-lock.json -print | while read -r lock; do
	folder=$(dirname "$lock")
	if ! cmp -s "$lock" "$folder/node_modules/.installed"; then
		npm ci --prefix "$folder"
		npm rebuild --prefix "$folder" # npm 9 does not link the commands of optional packages before
		cp "$lock" "$folder/node_modules/.installed"
	fi
done
node=$(PATH="$PWD/tools/node_modules/.bin:$PATH" node --version)
echo "node $node, npm $(npm --version 2>/dev/null)"
[ "$(echo "$node" | sed 's/^v\([0-9]*\).*/\1/')" -ge 20 ] || fail "node $node is too old: install Node.js 20 or newer"

GOBIN="$PWD/tools/bin" go -C tools install tool
PATH="$PWD/tools/node_modules/.bin:$PATH" go -C test/conformance generate # stubs of the suite, without which it does not compile
