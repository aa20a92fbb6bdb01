// Package origin lets an HTTP handler in front of a grpc server, which makes gRPC of other protocols, tell grpcx where a
// call comes from.
package origin

import (
	"context"

	"github.com/rpcweft/weft/core"
)

// Call is a call as it came. grpcx asks it, and tells it what the server takes: grpc itself would read the whole
// request into memory, as fast as the client sends it.
type Call interface {
	Protocol() core.Protocol
	HTTPMethod() string
	// Entered says that the chain is entered, after so many requests.
	Entered(received int)
	// Receiving says that one more request is wanted. Nothing else may wait for the call then.
	Receiving()
}

type key struct{}

// NewContext returns a context for the call's request.
func NewContext(ctx context.Context, call Call) context.Context {
	return context.WithValue(ctx, key{}, call)
}

// FromContext returns the call, nil if there is none: it came to grpc's own server.
func FromContext(ctx context.Context) Call {
	call, _ := ctx.Value(key{}).(Call)
	return call
}
