// Package conformance has the Connect conformance suite judge connect-go and
// grpc-go with Weft installed through connectx and grpcx: programs under test
// (cmd/server, cmd/client) with a chain of interceptors that change nothing, and tests that run the suite on
// them. Nothing of the suite is here: internal/suite finds its module, builds its program and
// generates the stubs of its service into gen, which is not committed. What needs the stubs has
// the build tag stubs.
package conformance

//go:generate go run ./internal/suite/generate
