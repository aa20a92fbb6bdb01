// Package bench compares chains of Weft's interceptors with chains of as many native ones, which do nothing either:
//
//	go test -run '^$' -bench . ./internal/bench
//
// What is measured is the chain and what is around it, with next to nothing at its end. The
// exceptions are the paths named call: an RPC in memory with all that a stack does for it.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/grpcx"
)

const procedure = "/weft.test.v1.TestService/Test"

var (
	lengths = []int{1, 3, 5, 10}
	request = wrapperspb.String("request")
	reply   = wrapperspb.String("reply")
)

// path is a way of an RPC through a chain.
type path struct {
	name   string
	native func(tb testing.TB, n int) func() error // makes one RPC through n native interceptors
	weft   func(tb testing.TB, n int) func() error // or of Weft's
}

var paths = []path{
	{"grpc/server/unary", grpcServerNative, grpcServerWeft},
	{"grpc/server/stream", grpcServerStreamNative, grpcServerStreamWeft},
	{"grpc/client/unary", grpcClientNative, grpcClientWeft},
	{"grpc/client/stream", grpcClientStreamNative, grpcClientStreamWeft},
	{"grpc/call/unary", grpcCallNative, grpcCallWeft},
	{"connect/server/unary", connectUnary(false, natives), connectUnary(false, wefts)},
	{"connect/server/stream", connectServerStream(natives), connectServerStream(wefts)},
	{"connect/client/unary", connectUnary(true, natives), connectUnary(true, wefts)},
	{"connect/client/stream", connectClientStream(natives), connectClientStream(wefts)},
	{"connect/call/unary", connectCall(natives), connectCall(wefts)},
}

func Benchmark(b *testing.B) {
	for _, p := range paths {
		for _, n := range lengths {
			for i, build := range []func(testing.TB, int) func() error{p.native, p.weft} {
				b.Run(fmt.Sprintf("%s/%d/%s", p.name, n, [2]string{"native", "weft"}[i]), func(b *testing.B) {
					rpc := build(b, n)
					b.ReportAllocs()
					for b.Loop() {
						if err := rpc(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

// Each path works, in each length.
func TestPaths(t *testing.T) {
	for _, p := range paths {
		for _, n := range lengths {
			for _, build := range []func(testing.TB, int) func() error{p.native, p.weft} {
				if err := build(t, n)(); err != nil {
					t.Errorf("%s, %d: %v", p.name, n, err)
				}
			}
		}
	}
}

func noops(n int) []core.Interceptor {
	return slices.Repeat([]core.Interceptor{core.InterceptorFunc(
		func(ctx context.Context, call *core.Call, next core.Handler) error { return next(ctx, call) })}, n)
}

// --- grpc

func unaryServer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	return handler(ctx, req)
}

func streamServer(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, stream)
}

func unaryClient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoker(ctx, method, req, reply, cc, opts...)
}

// asking knows as much of the call as Weft's must.
func asking(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var header, trailer metadata.MD
	var p peer.Peer
	return invoker(ctx, method, req, reply, cc, append(opts, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&p))...)
}

func streamClient(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return streamer(ctx, desc, cc, method, opts...)
}

// capturing is a service that keeps the chain that grpc has made of its interceptors.
type capturing struct{ chain grpc.UnaryServerInterceptor }

// startGRPC serves a service in memory.
func startGRPC(tb testing.TB, dial []grpc.DialOption, serve ...grpc.ServerOption) (*capturing, *grpc.ClientConn) {
	tb.Helper()
	captured := &capturing{}
	server := grpc.NewServer(serve...)
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "weft.test.v1.TestService", HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{MethodName: "Test", Handler: func(_ any, ctx context.Context, dec func(any) error, chain grpc.UnaryServerInterceptor) (any, error) {
			captured.chain = chain
			req := &wrapperspb.StringValue{}
			if err := dec(req); err != nil || chain == nil {
				return reply, err
			}
			return chain(ctx, req, &grpc.UnaryServerInfo{FullMethod: procedure}, func(context.Context, any) (any, error) { return reply, nil })
		}}},
	}, nil)
	listener := bufconn.Listen(1 << 20)
	tb.Cleanup(server.Stop)
	go func() { _ = server.Serve(listener) }()
	return captured, client(tb, append(dial, grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))...)
}

func client(tb testing.TB, opts ...grpc.DialOption) *grpc.ClientConn {
	tb.Helper()
	conn, err := grpc.NewClient("passthrough:///test", append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

func invoke(conn *grpc.ClientConn) func() error {
	out := &wrapperspb.StringValue{}
	return func() error { return conn.Invoke(context.Background(), procedure, request, out) }
}

// grpcServer calls the chain as grpc has made it.
func grpcServer(tb testing.TB, opts ...grpc.ServerOption) func() error {
	tb.Helper()
	captured, conn := startGRPC(tb, nil, opts...)
	if err := invoke(conn)(); err != nil {
		tb.Fatal(err)
	}
	ctx := grpc.NewContextWithServerTransportStream(metadata.NewIncomingContext(context.Background(), metadata.Pairs("k", "v")), transport{})
	info := &grpc.UnaryServerInfo{FullMethod: procedure}
	handler := func(context.Context, any) (any, error) { return reply, nil }
	return func() error {
		_, err := captured.chain(ctx, request, info, handler)
		return err
	}
}

// transport is what grpc puts into a handler's context.
type transport struct{}

func (transport) Method() string               { return procedure }
func (transport) SetHeader(metadata.MD) error  { return nil }
func (transport) SendHeader(metadata.MD) error { return nil }
func (transport) SetTrailer(metadata.MD) error { return nil }

func grpcServerNative(tb testing.TB, n int) func() error {
	return grpcServer(tb, grpc.ChainUnaryInterceptor(slices.Repeat([]grpc.UnaryServerInterceptor{unaryServer}, n)...))
}

func grpcServerWeft(tb testing.TB, n int) func() error {
	return grpcServer(tb, grpcx.ServerOptions(noops(n)...)...)
}

// stop ends a call of a client behind all other interceptors.
func stop(context.Context, string, any, any, *grpc.ClientConn, grpc.UnaryInvoker, ...grpc.CallOption) error {
	return nil
}

func grpcClientNative(tb testing.TB, n int) func() error {
	chain := append(slices.Repeat([]grpc.UnaryClientInterceptor{unaryClient}, n-1), asking, stop)
	return invoke(client(tb, grpc.WithChainUnaryInterceptor(chain...)))
}

func grpcClientWeft(tb testing.TB, n int) func() error {
	return invoke(client(tb, append(grpcx.DialOptions(noops(n)...), grpc.WithChainUnaryInterceptor(stop))...))
}

// stream is one of either side with one message.
type stream struct {
	ctx context.Context
	end bool
}

func (s *stream) RecvMsg(any) error {
	if s.end {
		return io.EOF
	}
	s.end = true
	return nil
}
func (s *stream) Context() context.Context   { return s.ctx }
func (*stream) SendMsg(any) error            { return nil }
func (*stream) SetHeader(metadata.MD) error  { return nil }
func (*stream) SendHeader(metadata.MD) error { return nil }
func (*stream) SetTrailer(metadata.MD)       {}
func (*stream) CloseSend() error             { return nil }
func (*stream) Header() (metadata.MD, error) { return nil, nil } //nolint:nilnil // none
func (*stream) Trailer() metadata.MD         { return nil }

// drain ends a stream, whose chain has to do with it until then.
func drain(receive func(any) error) error {
	for {
		if err := receive(reply); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// stopStream ends the opening of a stream behind all other interceptors.
func stopStream(ctx context.Context, _ *grpc.StreamDesc, _ *grpc.ClientConn, _ string, _ grpc.Streamer, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	return &stream{ctx: ctx}, nil
}

func grpcClientStream(tb testing.TB, opts ...grpc.DialOption) func() error {
	conn := client(tb, append(opts, grpc.WithChainStreamInterceptor(stopStream))...)
	desc := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	return func() error {
		s, err := conn.NewStream(context.Background(), desc, procedure)
		if err != nil {
			return err
		}
		if err := s.SendMsg(request); err != nil {
			return err
		}
		return drain(s.RecvMsg)
	}
}

func grpcClientStreamNative(tb testing.TB, n int) func() error {
	return grpcClientStream(tb, grpc.WithChainStreamInterceptor(slices.Repeat([]grpc.StreamClientInterceptor{streamClient}, n)...))
}

func grpcClientStreamWeft(tb testing.TB, n int) func() error {
	return grpcClientStream(tb, grpcx.DialOptions(noops(n)...)...)
}

// grpcServerStream calls interceptors that stand one inside of the other, as grpc chains them.
func grpcServerStream(interceptors ...grpc.StreamServerInterceptor) func() error {
	info := &grpc.StreamServerInfo{FullMethod: procedure, IsClientStream: true, IsServerStream: true}
	native := &stream{ctx: context.Background()}
	var from func(i int) grpc.StreamHandler
	from = func(i int) grpc.StreamHandler {
		if i == len(interceptors) {
			return func(_ any, s grpc.ServerStream) error {
				if err := s.SendMsg(reply); err != nil {
					return err
				}
				return drain(s.RecvMsg)
			}
		}
		return func(srv any, s grpc.ServerStream) error { return interceptors[i](srv, s, info, from(i+1)) }
	}
	return func() error {
		native.end = false
		return interceptors[0](nil, native, info, from(1))
	}
}

func grpcServerStreamNative(_ testing.TB, n int) func() error {
	return grpcServerStream(slices.Repeat([]grpc.StreamServerInterceptor{streamServer}, n)...)
}

func grpcServerStreamWeft(_ testing.TB, n int) func() error {
	return grpcServerStream(grpcx.StreamServerInterceptor(noops(n)...))
}

func grpcCallNative(tb testing.TB, n int) func() error {
	_, conn := startGRPC(tb, []grpc.DialOption{grpc.WithChainUnaryInterceptor(append(slices.Repeat([]grpc.UnaryClientInterceptor{unaryClient}, n-1), asking)...)},
		grpc.ChainUnaryInterceptor(slices.Repeat([]grpc.UnaryServerInterceptor{unaryServer}, n)...))
	return invoke(conn)
}

func grpcCallWeft(tb testing.TB, n int) func() error {
	_, conn := startGRPC(tb, grpcx.DialOptions(noops(n)...), grpcx.ServerOptions(noops(n)...)...)
	return invoke(conn)
}

// --- connect

// noop is connect's own kind of interceptor.
type noop struct{}

func (noop) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) { return next(ctx, req) }
}

func (noop) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn { return next(ctx, spec) }
}

func (noop) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error { return next(ctx, conn) }
}

func natives(n int) []connect.Interceptor { return slices.Repeat([]connect.Interceptor{noop{}}, n) }

func wefts(n int) []connect.Interceptor { return []connect.Interceptor{connectx.New(noops(n)...)} }

// anyRequest has a spec, which connect keeps to itself.
type anyRequest struct {
	connect.AnyRequest
	client bool
}

func (r *anyRequest) Spec() connect.Spec {
	return connect.Spec{Procedure: procedure, IsClient: r.client}
}

func connectUnary(client bool, list func(int) []connect.Interceptor) func(testing.TB, int) func() error {
	return func(_ testing.TB, n int) func() error {
		req, res := &anyRequest{connect.NewRequest(request), client}, connect.NewResponse(reply)
		next := connect.UnaryFunc(func(context.Context, connect.AnyRequest) (connect.AnyResponse, error) { return res, nil })
		for _, i := range list(n) {
			next = i.WrapUnary(next)
		}
		return func() error {
			_, err := next(context.Background(), req)
			return err
		}
	}
}

// conn is a stream of either side with one message.
type conn struct {
	header http.Header
	client bool
	end    bool
}

var errEOF = connect.NewError(connect.CodeUnknown, io.EOF)

func (c *conn) Receive(any) error {
	if c.end {
		return errEOF
	}
	c.end = true
	return nil
}

func (c *conn) Spec() connect.Spec {
	return connect.Spec{Procedure: procedure, IsClient: c.client, StreamType: connect.StreamTypeBidi}
}
func (*conn) Peer() connect.Peer             { return connect.Peer{} }
func (*conn) Send(any) error                 { return nil }
func (*conn) CloseRequest() error            { return nil }
func (*conn) CloseResponse() error           { return nil }
func (c *conn) RequestHeader() http.Header   { return c.header }
func (c *conn) ResponseHeader() http.Header  { return c.header }
func (c *conn) ResponseTrailer() http.Header { return c.header }

func connectServerStream(list func(int) []connect.Interceptor) func(testing.TB, int) func() error {
	return func(_ testing.TB, n int) func() error {
		native := &conn{header: http.Header{}}
		next := connect.StreamingHandlerFunc(func(_ context.Context, c connect.StreamingHandlerConn) error {
			if err := c.Send(reply); err != nil {
				return err
			}
			return drain(c.Receive)
		})
		for _, i := range list(n) {
			next = i.WrapStreamingHandler(next)
		}
		return func() error {
			native.end = false
			return next(context.Background(), native)
		}
	}
}

func connectClientStream(list func(int) []connect.Interceptor) func(testing.TB, int) func() error {
	return func(_ testing.TB, n int) func() error {
		native := &conn{header: http.Header{}, client: true}
		open := func(context.Context, connect.Spec) connect.StreamingClientConn { return native }
		interceptors := list(n)
		return func() error {
			native.end = false
			next := connect.StreamingClientFunc(open)
			for _, i := range interceptors { // for each stream, as connect does
				next = i.WrapStreamingClient(next)
			}
			c := next(context.Background(), native.Spec())
			if err := c.Send(request); err != nil {
				return err
			}
			return drain(c.Receive)
		}
	}
}

// inProcess is an HTTP client whose server is a handler beside it.
type inProcess struct{ handler http.Handler }

func (p inProcess) Do(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	p.handler.ServeHTTP(rec, req)
	return rec.Result(), nil
}

func connectCall(list func(int) []connect.Interceptor) func(testing.TB, int) func() error {
	return func(_ testing.TB, n int) func() error {
		interceptors := connect.WithInterceptors(list(n)...)
		handler := connect.NewUnaryHandler(procedure, func(context.Context, *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
			return connect.NewResponse(reply), nil
		}, interceptors)
		c := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](inProcess{handler}, "http://test"+procedure, interceptors)
		return func() error {
			_, err := c.CallUnary(context.Background(), connect.NewRequest(request))
			return err
		}
	}
}
