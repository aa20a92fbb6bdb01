package chain

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"
	"google.golang.org/grpc"

	"github.com/rpcweft/weft/core"
	weft "github.com/rpcweft/weft/errors"
)

// The faults that the judges must notice. The first are of an interceptor, the others of an
// adapter: no interceptor can do them.
const (
	NoDetails   = "no-details"    // of an error
	NoTrailers  = "no-trailers"   // of the response, on servers
	Detached    = "detached"      // from the caller's context
	OtherEOF    = "other-eof"     // in place of io.EOF
	SendsInEnd  = "sends-in-end"  // of streams, on servers
	NoHalfClose = "no-half-close" // on clients
)

var faults = map[string]core.Interceptor{
	NoDetails: core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		if coded := core.CodedError(nil); errors.As(err, &coded) {
			return weft.Newf(coded.Code(), "%s", coded.Message())
		}
		return err
	}),
	NoTrailers: core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		for key := range call.ResponseTrailer().All() {
			_ = call.ResponseTrailer().Delete(key)
		}
		return err
	}),
	Detached: core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		return next(context.WithoutCancel(ctx), call)
	}),
}

var errOtherEOF = errors.New("the peer has said all")

func otherEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return errOtherEOF
	}
	return err
}

// Connect returns a connect interceptor for the outside of connectx that has the fault.
func Connect(fault string) connect.Interceptor { return brokenConnect(fault) }

type brokenConnect string

func (brokenConnect) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

func (b brokenConnect) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		broken := &brokenHandlerConn{StreamingHandlerConn: conn, fault: string(b)}
		err := next(ctx, broken)
		for _, msg := range broken.kept {
			_ = conn.Send(msg)
		}
		return err
	}
}

func (b brokenConnect) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		return &brokenClientConn{next(ctx, spec), string(b)}
	}
}

type brokenHandlerConn struct {
	connect.StreamingHandlerConn

	fault string
	kept  []any
}

func (c *brokenHandlerConn) Receive(msg any) error {
	err := c.StreamingHandlerConn.Receive(msg)
	if c.fault == OtherEOF {
		return otherEOF(err)
	}
	return err
}

func (c *brokenHandlerConn) Send(msg any) error {
	if c.fault == SendsInEnd {
		c.kept = append(c.kept, msg)
		return nil
	}
	return c.StreamingHandlerConn.Send(msg)
}

type brokenClientConn struct {
	connect.StreamingClientConn

	fault string
}

func (c *brokenClientConn) Receive(msg any) error {
	err := c.StreamingClientConn.Receive(msg)
	if c.fault == OtherEOF {
		return otherEOF(err)
	}
	return err
}

func (c *brokenClientConn) CloseRequest() error {
	if c.fault == NoHalfClose {
		return nil
	}
	return c.StreamingClientConn.CloseRequest()
}

// GRPCServer returns an option for the outside of grpcx that has the fault.
func GRPCServer(fault string) grpc.ServerOption {
	return grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		broken := &brokenServerStream{ServerStream: stream, fault: fault}
		err := handler(srv, broken)
		for _, msg := range broken.kept {
			_ = stream.SendMsg(msg)
		}
		return err
	})
}

type brokenServerStream struct {
	grpc.ServerStream

	fault string
	kept  []any
}

func (s *brokenServerStream) RecvMsg(msg any) error {
	err := s.ServerStream.RecvMsg(msg)
	if s.fault == OtherEOF {
		return otherEOF(err)
	}
	return err
}

func (s *brokenServerStream) SendMsg(msg any) error {
	if s.fault == SendsInEnd {
		s.kept = append(s.kept, msg)
		return nil
	}
	return s.ServerStream.SendMsg(msg)
}

// GRPCClient returns an option for the outside of grpcx that has the fault.
func GRPCClient(fault string) grpc.DialOption {
	return grpc.WithChainStreamInterceptor(func(
		ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption,
	) (grpc.ClientStream, error) {
		stream, err := next(ctx, desc, conn, method, opts...)
		if err != nil {
			return nil, err
		}
		return &brokenClientStream{stream, fault}, nil
	})
}

type brokenClientStream struct {
	grpc.ClientStream

	fault string
}

func (s *brokenClientStream) RecvMsg(msg any) error {
	err := s.ClientStream.RecvMsg(msg)
	if s.fault == OtherEOF {
		return otherEOF(err)
	}
	return err
}

func (s *brokenClientStream) CloseSend() error {
	if s.fault == NoHalfClose {
		return nil
	}
	return s.ClientStream.CloseSend()
}
