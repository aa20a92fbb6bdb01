//go:build !race

package grpcx_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/grpcx"
)

const allocMethod = procedure

// The numbers of interceptors that must cost the same.
var lengths = []int{1, 5, 10}

// noops returns n interceptors that do nothing.
func noops(n int) []core.Interceptor {
	list := make([]core.Interceptor, n)
	for i := range list {
		list[i] = core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error { return next(ctx, call) })
	}
	return list
}

// hooking asks for all messages.
func hooking() core.Interceptor {
	hook := func(context.Context, any) error { return nil }
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(hook)
		call.OnResponse(hook)
		return next(ctx, call)
	})
}

// allocs is the least that several measurements find: what is more is noise.
func allocs(f func()) float64 {
	least := testing.AllocsPerRun(500, f)
	for range 4 {
		least = min(least, testing.AllocsPerRun(500, f))
	}
	return least
}

// allocTransport is what grpc puts into a handler's context.
type allocTransport struct{}

func (allocTransport) Method() string               { return allocMethod }
func (allocTransport) SetHeader(metadata.MD) error  { return nil }
func (allocTransport) SendHeader(metadata.MD) error { return nil }
func (allocTransport) SetTrailer(metadata.MD) error { return nil }

func allocContext() context.Context {
	ctx := metadata.NewIncomingContext(context.Background(), metadata.Pairs("k", "v"))
	return grpc.NewContextWithServerTransportStream(ctx, allocTransport{})
}

func TestAUnaryCallOnAServerCostsOneAllocation(t *testing.T) {
	ctx, req, res := allocContext(), any(wrapperspb.String("")), any(wrapperspb.String(""))
	info := &grpc.UnaryServerInfo{FullMethod: allocMethod}
	handler := func(context.Context, any) (any, error) { return res, nil }
	measure := func(i grpc.UnaryServerInterceptor) float64 {
		return allocs(func() {
			if got, err := i(ctx, req, info, handler); err != nil || got != res {
				t.Fatal(got, err)
			}
		})
	}
	native := measure(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		return handler(ctx, req)
	})
	for _, n := range lengths {
		if ours := measure(grpcx.UnaryServerInterceptor(noops(n)...)); ours > native+1 {
			t.Errorf("%d interceptors: %v allocations, a native one makes %v", n, ours, native)
		}
	}
}

// A native interceptor that knows as much of the call as ours must asks for header, trailer and peer.
func TestAUnaryCallOnAClientCostsOneAllocation(t *testing.T) {
	ctx, req, reply := context.Background(), any(wrapperspb.String("")), any(wrapperspb.String(""))
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil }
	measure := func(i grpc.UnaryClientInterceptor, opts ...grpc.CallOption) float64 {
		return allocs(func() {
			if err := i(ctx, allocMethod, req, reply, nil, invoker, opts...); err != nil {
				t.Fatal(err)
			}
		})
	}
	asking := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		var header, trailer metadata.MD
		var p peer.Peer
		return invoker(ctx, method, req, reply, cc, append(opts, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&p))...)
	}
	for _, opts := range [][]grpc.CallOption{nil, {grpc.WaitForReady(true)}, {grpc.WaitForReady(true), grpc.UseCompressor("")}} {
		native := measure(asking, opts...)
		for _, n := range lengths {
			if ours := measure(grpcx.UnaryClientInterceptor(noops(n)...), opts...); ours > native+1 {
				t.Errorf("%d interceptors, %d options: %v allocations, a native one makes %v", n, len(opts), ours, native)
			}
		}
	}
}

// allocStream is a stream of either side that goes nowhere: so many messages, then EOF.
type allocStream struct {
	ctx      context.Context
	messages int
}

func (s *allocStream) RecvMsg(any) error {
	if s.messages == 0 {
		return io.EOF
	}
	s.messages--
	return nil
}
func (s *allocStream) Context() context.Context   { return s.ctx }
func (*allocStream) SendMsg(any) error            { return nil }
func (*allocStream) SetHeader(metadata.MD) error  { return nil }
func (*allocStream) SendHeader(metadata.MD) error { return nil }
func (*allocStream) SetTrailer(metadata.MD)       { /* no error */ }
func (*allocStream) CloseSend() error             { return nil }
func (*allocStream) Header() (metadata.MD, error) { return nil, nil } //nolint:nilnil // none
func (*allocStream) Trailer() metadata.MD         { return nil }

func TestAServerStreamCostsTwoAllocationsAndAMessageNone(t *testing.T) {
	msg, stream := wrapperspb.String(""), &allocStream{ctx: allocContext()}
	info := &grpc.StreamServerInfo{FullMethod: allocMethod, IsClientStream: true, IsServerStream: true}
	handler := func(_ any, stream grpc.ServerStream) error {
		for {
			if err := stream.RecvMsg(msg); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if err := stream.SendMsg(msg); err != nil {
				return err
			}
		}
	}
	measure := func(i grpc.StreamServerInterceptor, messages int) float64 {
		return allocs(func() {
			stream.messages = messages
			if err := i(nil, stream, info, handler); err != nil {
				t.Fatal(err)
			}
		})
	}
	native := measure(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		return handler(srv, stream)
	}, 0)
	for _, n := range lengths {
		ours := measure(grpcx.StreamServerInterceptor(noops(n)...), 0)
		if ours > native+2 {
			t.Errorf("%d interceptors: %v allocations, a native one makes %v", n, ours, native)
		}
		if more := measure(grpcx.StreamServerInterceptor(noops(n)...), 100); more != ours {
			t.Errorf("%d interceptors: %v allocations with 100 messages, %v without", n, more, ours)
		}
	}
	if none, more := measure(grpcx.StreamServerInterceptor(hooking()), 0), measure(grpcx.StreamServerInterceptor(hooking()), 100); more != none {
		t.Errorf("with hooks: %v allocations with 100 messages, %v without", more, none)
	}
}

func TestAClientStreamCostsAFixedNumberOfAllocationsAndAMessageNone(t *testing.T) {
	const atMost = 20
	ctx, msg := context.Background(), wrapperspb.String("")
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	native := &allocStream{ctx: ctx}
	streamer := func(context.Context, *grpc.StreamDesc, *grpc.ClientConn, string, ...grpc.CallOption) (grpc.ClientStream, error) {
		return native, nil
	}
	measure := func(messages int, interceptors ...core.Interceptor) float64 {
		open := grpcx.StreamClientInterceptor(interceptors...)
		return allocs(func() {
			native.messages = messages
			stream, err := open(ctx, desc, nil, allocMethod, streamer)
			if err != nil {
				t.Fatal(err)
			}
			for range messages {
				if stream.SendMsg(msg) != nil || stream.RecvMsg(msg) != nil {
					t.Fatal("a message failed")
				}
			}
			if err := stream.RecvMsg(msg); !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
		})
	}
	one := measure(0, noops(1)...)
	t.Logf("a client stream makes %v allocations", one)
	if one > atMost {
		t.Errorf("%v allocations, more than %v", one, atMost)
	}
	for _, n := range lengths {
		if ours := measure(0, noops(n)...); ours != one {
			t.Errorf("%d interceptors: %v allocations, 1 makes %v", n, ours, one)
		}
		if more := measure(100, noops(n)...); more != one {
			t.Errorf("%d interceptors: %v allocations with 100 messages, %v without", n, more, one)
		}
	}
	if none, more := measure(0, hooking()), measure(100, hooking()); more != none {
		t.Errorf("with hooks: %v allocations with 100 messages, %v without", more, none)
	}
}
