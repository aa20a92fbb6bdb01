package interop

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/grpcx"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// serveGRPC serves grpc-go's own test server and returns its address.
func serveGRPC(t *testing.T, chain []core.Interceptor) string {
	t.Helper()
	listener := listen(t)
	server := grpc.NewServer(append([]grpc.ServerOption{orca.CallMetricsServerOption(nil)}, grpcx.ServerOptions(chain...)...)...)
	testpb.RegisterTestServiceServer(server, interop.NewTestServer())
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String()
}

// serveConnect serves the same service on connect-go.
func serveConnect(t *testing.T, chain []core.Interceptor) string {
	t.Helper()
	const service = "/grpc.testing.TestService/"
	options := connect.WithInterceptors(connectx.New(chain...))
	mux := http.NewServeMux()
	mux.Handle(service+"EmptyCall", connect.NewUnaryHandlerSimple(service+"EmptyCall", emptyCall, options))
	mux.Handle(service+"UnaryCall", connect.NewUnaryHandler(service+"UnaryCall", unaryCall, options))
	mux.Handle(service+"StreamingOutputCall", connect.NewServerStreamHandler(service+"StreamingOutputCall", outputCall, options))
	mux.Handle(service+"StreamingInputCall", connect.NewClientStreamHandler(service+"StreamingInputCall", inputCall, options))
	mux.Handle(service+"FullDuplexCall", connect.NewBidiStreamHandler(service+"FullDuplexCall", duplexCall, options))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: mux, Protocols: protocols, ReadHeaderTimeout: 5 * time.Second}
	listener := listen(t)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return listener.Addr().String()
}

// echo copies the two keys that the cases send.
func echo(from, header, trailer http.Header) {
	const initial, trailing = "X-Grpc-Test-Echo-Initial", "X-Grpc-Test-Echo-Trailing-Bin"
	if values := from[initial]; len(values) > 0 {
		header[initial] = values[:1]
	}
	if values := from[trailing]; len(values) > 0 {
		trailer[trailing] = values[:1]
	}
}

func failure(s *testpb.EchoStatus) error {
	if s.GetCode() == 0 {
		return nil
	}
	return connect.NewError(connect.Code(s.GetCode()), errors.New(s.GetMessage()))
}

func payload(size int32) *testpb.Payload { return &testpb.Payload{Body: make([]byte, size)} }

func emptyCall(context.Context, *testpb.Empty) (*testpb.Empty, error) { return &testpb.Empty{}, nil }

func unaryCall(_ context.Context, req *connect.Request[testpb.SimpleRequest]) (*connect.Response[testpb.SimpleResponse], error) {
	if err := failure(req.Msg.GetResponseStatus()); err != nil {
		return nil, err
	}
	res := connect.NewResponse(&testpb.SimpleResponse{Payload: payload(req.Msg.GetResponseSize())})
	echo(req.Header(), res.Header(), res.Trailer())
	return res, nil
}

func outputCall(
	_ context.Context, req *connect.Request[testpb.StreamingOutputCallRequest], stream *connect.ServerStream[testpb.StreamingOutputCallResponse],
) error {
	return respond(req.Msg, stream.Send)
}

// respond sends what a request of a stream asks for.
func respond(req *testpb.StreamingOutputCallRequest, send func(*testpb.StreamingOutputCallResponse) error) error {
	for _, p := range req.GetResponseParameters() {
		time.Sleep(time.Duration(p.GetIntervalUs()) * time.Microsecond)
		if err := send(&testpb.StreamingOutputCallResponse{Payload: payload(p.GetSize())}); err != nil {
			return err
		}
	}
	return nil
}

func inputCall(
	_ context.Context, stream *connect.ClientStream[testpb.StreamingInputCallRequest],
) (*connect.Response[testpb.StreamingInputCallResponse], error) {
	res := &testpb.StreamingInputCallResponse{}
	for stream.Receive() {
		res.AggregatedPayloadSize += int32(len(stream.Msg().GetPayload().GetBody()))
	}
	return connect.NewResponse(res), stream.Err()
}

func duplexCall(
	_ context.Context, stream *connect.BidiStream[testpb.StreamingOutputCallRequest, testpb.StreamingOutputCallResponse],
) error {
	echo(stream.RequestHeader(), stream.ResponseHeader(), stream.ResponseTrailer())
	for {
		req, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := failure(req.GetResponseStatus()); err != nil {
			return err
		}
		if err := respond(req, stream.Send); err != nil {
			return err
		}
	}
}
