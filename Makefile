# Needs Go 1.26 or newer and make; tools/setup.sh brings the rest. `go test ./...` alone needs nothing but Go.
system_path := $(PATH)
export PATH := $(CURDIR)/tools/bin:$(CURDIR)/tools/node_modules/.bin:$(PATH)

.NOTPARALLEL:
.PHONY: help test lint generate check-generated check-tidy costs race conformance interop clients browser demo setup

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The outside judges (programs that no one here wrote) come last, each a target of its own.
test: lint check-generated check-tidy costs race conformance interop clients browser ## run everything that CI runs

lint: setup ## check formatting, vet and lint every module
	golangci-lint fmt --diff
	tools/each-module.sh go vet -tags stubs ./...
	tools/each-module.sh golangci-lint run --build-tags stubs

generate: setup ## remake the generated code
	tools/generate.sh
	go -C test/browser run ./cmd/bundle

check-generated: setup ## fail if the generated code is not what `make generate` writes
	tools/check-generated.sh

check-tidy: setup ## fail if a go.mod or go.sum is not tidy
	tools/each-module.sh go mod tidy -diff

costs: ## check the promised allocations, which the race detector changes
	go test -run 'Cost|Alloc' ./...

race: setup ## run the tests of every module under the race detector
	tools/each-module.sh go test -race ./...

# The judges' verdict depends on more than go test knows of, so it is never a cached one.
conformance: setup ## have the Connect conformance suite judge both stacks with Weft installed
	cd test/conformance && go test -count=1 -v -timeout 15m ./...

interop: setup ## have the interop cases of grpc-go judge both stacks with Weft installed
	cd test/interop && go test -count=1 -timeout 5m ./...

clients: setup ## have clients of other languages and tools call the echo server
	cd test/clients && go test -count=1 -v -timeout 15m ./...

browser: setup ## have clients in a real browser, and its page, call the echo server
	cd test/browser && go test -count=1 -v -timeout 15m ./...

demo: ## start the echo server and show what it does
	go run ./cmd/echo-server -demo

# With the system's PATH, for npm cannot replace the Node.js that runs it.
setup: export PATH := $(system_path)
setup: ## install what the other targets use
	tools/setup.sh
