// Package connectx runs Weft interceptors on connect-go: on handlers and on
// clients, for the Connect, gRPC and gRPC-Web protocols.
//
//	connect.WithInterceptors(connectx.New(logging, auth))
//
// One constructor serves both sides. It stands among connect's own interceptors
// wherever its position in WithInterceptors says.
package connectx

import (
	"context"
	"net/http"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/message"
)

// New returns a [connect.Interceptor] that runs the interceptors, the first one
// outermost, for handlers and for clients. It panics if one is nil. The edge rules hold without any interceptor
// too: only what was written for the client reaches it.
func New(interceptors ...core.Interceptor) connect.Interceptor {
	return &adapter{core.NewChain(interceptors...).Handler()}
}

type adapter struct{ chain core.Handler }

var _ connect.Interceptor = (*adapter)(nil)

// WrapUnary implements [connect.Interceptor].
func (a *adapter) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		method, err := core.ParseMethod(req.Spec().Procedure)
		if err != nil {
			return nil, connect.NewError(connect.CodeInternal, err)
		}
		if req.Spec().IsClient {
			return newUnaryClient(method, req, next).run(ctx, a.chain)
		}
		return newUnaryServer(ctx, method, req, next).run(ctx, a.chain)
	}
}

// WrapStreamingHandler implements [connect.Interceptor].
func (a *adapter) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		method, err := core.ParseMethod(conn.Spec().Procedure)
		if err != nil {
			return connect.NewError(connect.CodeInternal, err)
		}
		return newStreamServer(method, conn, next).run(ctx, a.chain)
	}
}

// WrapStreamingClient implements [connect.Interceptor].
func (a *adapter) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		return newStreamClient(ctx, spec, next, a.chain)
	}
}

// rpc is what the four kinds of call share of [core.Transport].
type rpc struct{ core.Call }

func (*rpc) Normalize(err error) error        { return normalize(err) }
func (*rpc) Clone(msg any) (any, int)         { return message.Clone(msg) }
func (*rpc) NewAttempt(*core.Call) *core.Call { return nil }

func describe(spec connect.Spec) core.Description {
	return core.Description{Schema: spec.Schema, Idempotency: core.Idempotency(spec.IdempotencyLevel)} //nolint:gosec // same numbers, 0 to 2
}

func shapeOf(spec connect.Spec) core.Shape {
	return core.ShapeOf(spec.StreamType&connect.StreamTypeClient != 0, spec.StreamType&connect.StreamTypeServer != 0)
}

// raw is connect's kind of metadata.
func raw(header http.Header) core.RawMetadata {
	return core.RawMetadata{Map: header, HTTP: true}
}
