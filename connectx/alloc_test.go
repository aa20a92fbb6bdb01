//go:build !race

package connectx_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
)

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

// nativeNoop does nothing, in connect's own way.
type nativeNoop struct{}

func (nativeNoop) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) { return next(ctx, req) }
}

func (nativeNoop) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn { return next(ctx, spec) }
}

func (nativeNoop) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error { return next(ctx, conn) }
}

// allocs is the least that several measurements find: what is more is noise.
func allocs(f func()) float64 {
	least := testing.AllocsPerRun(500, f)
	for range 4 {
		least = min(least, testing.AllocsPerRun(500, f))
	}
	return least
}

func TestAUnaryCallCostsOneAllocation(t *testing.T) {
	ctx, res := context.Background(), connect.AnyResponse(connect.NewResponse(wrapperspb.String("")))
	final := func(context.Context, connect.AnyRequest) (connect.AnyResponse, error) { return res, nil }
	for name, client := range map[string]bool{"server": false, "client": true} {
		req := &request{connect.NewRequest(wrapperspb.String("")), specOf(client, connect.StreamTypeUnary)}
		measure := func(i connect.Interceptor) float64 {
			unary := i.WrapUnary(final)
			return allocs(func() {
				if got, err := unary(ctx, req); err != nil || got != res {
					t.Fatal(got, err)
				}
			})
		}
		native := measure(nativeNoop{})
		for _, n := range lengths {
			if ours := measure(connectx.New(noops(n)...)); ours > native+1 {
				t.Errorf("%s, %d interceptors: %v allocations, a native one makes %v", name, n, ours, native)
			}
		}
	}
}

// allocConn is a stream that goes nowhere: so many messages, then EOF.
type allocConn struct {
	spec     connect.Spec
	messages int
	header   http.Header
}

var errAllocEOF = connect.NewError(connect.CodeUnknown, io.EOF)

func (c *allocConn) Receive(any) error {
	if c.messages == 0 {
		return errAllocEOF
	}
	c.messages--
	return nil
}
func (c *allocConn) Spec() connect.Spec           { return c.spec }
func (*allocConn) Peer() connect.Peer             { return connect.Peer{Protocol: connect.ProtocolConnect} }
func (*allocConn) Send(any) error                 { return nil }
func (*allocConn) CloseRequest() error            { return nil }
func (*allocConn) CloseResponse() error           { return nil }
func (c *allocConn) RequestHeader() http.Header   { return c.header }
func (c *allocConn) ResponseHeader() http.Header  { return c.header }
func (c *allocConn) ResponseTrailer() http.Header { return c.header }

// hooking asks for all messages.
func hooking() core.Interceptor {
	hook := func(context.Context, any) error { return nil }
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(hook)
		call.OnResponse(hook)
		return next(ctx, call)
	})
}

func TestAServerStreamCostsTwoAllocationsAndAMessageNone(t *testing.T) {
	ctx, msg := context.Background(), wrapperspb.String("")
	handler := func(_ context.Context, conn connect.StreamingHandlerConn) error {
		for {
			if err := conn.Receive(msg); err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
			if err := conn.Send(msg); err != nil {
				return err
			}
		}
	}
	measure := func(i connect.Interceptor, messages int) float64 {
		stream := i.WrapStreamingHandler(handler)
		conn := &allocConn{spec: specOf(false, connect.StreamTypeBidi), header: http.Header{}}
		return allocs(func() {
			conn.messages = messages
			if err := stream(ctx, conn); err != nil {
				t.Fatal(err)
			}
		})
	}
	native := measure(nativeNoop{}, 0)
	for _, n := range lengths {
		ours := measure(connectx.New(noops(n)...), 0)
		if ours > native+2 {
			t.Errorf("%d interceptors: %v allocations, a native one makes %v", n, ours, native)
		}
		if more := measure(connectx.New(noops(n)...), 100); more != ours {
			t.Errorf("%d interceptors: %v allocations with 100 messages, %v without", n, more, ours)
		}
	}
	if none, more := measure(connectx.New(hooking()), 0), measure(connectx.New(hooking()), 100); more != none {
		t.Errorf("with hooks: %v allocations with 100 messages, %v without", more, none)
	}
}

func TestAClientStreamCostsAFixedNumberOfAllocationsAndAMessageNone(t *testing.T) {
	const atMost = 20
	ctx, msg := context.Background(), wrapperspb.String("")
	measure := func(messages int, interceptors ...core.Interceptor) float64 {
		native := &allocConn{header: http.Header{}}
		stream := connectx.New(interceptors...).WrapStreamingClient(func(context.Context, connect.Spec) connect.StreamingClientConn { return native })
		return allocs(func() {
			native.messages = messages
			conn := stream(ctx, specOf(true, connect.StreamTypeBidi))
			for range messages {
				if conn.Send(msg) != nil || conn.Receive(msg) != nil {
					t.Fatal("a message failed")
				}
			}
			if conn.Send(msg) != nil || !errors.Is(conn.Receive(msg), io.EOF) {
				t.Fatal("no EOF")
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

// The same through connect's own client and handler: what surrounds our call costs no more than without it.
func TestAUnaryCallCostsOneAllocationEndToEnd(t *testing.T) {
	const procedure = "/weft.test.v1.TestService/Test"
	measure := func(server, client connect.Interceptor) float64 {
		res := connect.NewResponse(wrapperspb.String("response"))
		handler := connect.NewUnaryHandler(procedure, func(context.Context, *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
			return res, nil
		}, connect.WithInterceptors(server))
		c := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](inProcess{handler}, "http://test"+procedure, connect.WithInterceptors(client))
		return allocs(func() {
			if _, err := c.CallUnary(context.Background(), connect.NewRequest(wrapperspb.String("request"))); err != nil {
				t.Fatal(err)
			}
		})
	}
	native := measure(nativeNoop{}, nativeNoop{})
	for _, n := range lengths {
		ours := connectx.New(noops(n)...)
		if server := measure(ours, nativeNoop{}); server > native+1 {
			t.Errorf("server, %d interceptors: %v allocations, a native one makes %v", n, server, native)
		}
		if client := measure(nativeNoop{}, ours); client > native+1 {
			t.Errorf("client, %d interceptors: %v allocations, a native one makes %v", n, client, native)
		}
	}
}
