package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// path is a way from a client to a server.
type path struct {
	client, protocol, server string
	call                     caller
	close                    func()
}

// caller calls the method of the shape, and receives to the end.
type caller func(ctx context.Context, shape core.Shape, inputs []string) answer

// answer is what the application reads of a call, by its stack's own means.
type answer struct {
	outputs         []string
	code            core.Code
	message         string
	details         []any
	header, trailer *core.Metadata
	text            string // everything there is of it
}

// observer is the interceptor of all clients: it sends metadata, and writes down
// what it sees into the observation in the context.
type observer struct{}

type observation struct {
	code            core.Code
	messages        int
	header, trailer bool
}

// marks returns what the table says about the metadata.
func (o *observation) marks() []string {
	switch {
	case o.header && o.trailer:
		return []string{"+h+t"}
	case o.header:
		return []string{"+h"}
	case o.trailer:
		return []string{"+t"}
	}
	return nil
}

type observationKey struct{}

// The keys that the observer sends, and that the "metadata" input makes of them. Each has a "-bin" sister.
const (
	headerKey  = "x-echo-demo"
	trailerKey = "x-trailer-demo"
	textValue  = "1"
	binValue   = "\x00\xff"
)

func has(md *core.Metadata, key string) bool {
	return md.Get(key) == textValue && md.Get(key+"-bin") == binValue
}

// Intercept implements [core.Interceptor].
func (observer) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	seen := ctx.Value(observationKey{}).(*observation)
	for key, value := range map[string]string{headerKey: textValue, headerKey + "-bin": binValue} {
		if err := call.RequestHeader().Set(key, value); err != nil {
			return err
		}
	}
	call.OnResponse(func(context.Context, any) error {
		seen.messages++
		return nil
	})
	err := next(ctx, call)
	md := call.ResponseMetadata() // header and trailer as one: a connect client cannot tell them apart when a unary call failed
	seen.code, seen.header, seen.trailer = core.CodeOf(err), has(md, headerKey), has(md, trailerKey)
	return err
}

// newPaths returns all ways to the servers.
func newPaths(s *servers) ([]path, error) {
	toConnect, err := newGRPCPath("connect-go", s.host)
	if err != nil {
		return nil, err
	}
	toGRPC, err := newGRPCPath("grpc-go", s.grpcHost)
	if err != nil {
		return nil, err
	}
	return []path{
		newConnectPath("Connect", "connect-go", s.host),
		newConnectPath("gRPC", "connect-go", s.host, connect.WithGRPC()),
		newConnectPath("gRPC-Web", "connect-go", s.host, connect.WithGRPCWeb()),
		toConnect,
		toGRPC,
		newConnectPath("gRPC", "grpc-go", s.grpcHost, connect.WithGRPC()),
		newConnectPath("Connect", "grpc-go", s.webHost),
		newConnectPath("gRPC-Web", "grpc-go", s.webHost, connect.WithGRPCWeb()),
	}, nil
}

func newConnectPath(protocol, server, host string, options ...connect.ClientOption) path {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	client := dummyv1connect.NewDummyServiceClient(&http.Client{Transport: transport}, "http://"+host,
		append(options, connect.WithInterceptors(connectx.New(observer{})))...)
	return path{"connect-go", protocol, server, connectCall(client), transport.CloseIdleConnections}
}

func newGRPCPath(server, host string) (path, error) {
	conn, err := grpc.NewClient(host, append(grpcx.DialOptions(observer{}),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())...)
	if err != nil {
		return path{}, err
	}
	return path{"grpc-go", "gRPC", server, grpcCall(dummyv1.NewDummyServiceClient(conn)), func() { _ = conn.Close() }}, nil
}

func request(input string) *dummyv1.DummyRequest { return &dummyv1.DummyRequest{Input: input} }

// sendAll sends until it fails: then receiving tells why.
func sendAll(inputs []string, send func(*dummyv1.DummyRequest) error) {
	for _, input := range inputs {
		if send(request(input)) != nil {
			return
		}
	}
}

func connectCall(client dummyv1connect.DummyServiceClient) caller {
	return func(ctx context.Context, shape core.Shape, inputs []string) answer {
		var outputs []string
		var header, trailer http.Header
		var err error
		switch shape {
		case core.ShapeUnary:
			var res *connect.Response[dummyv1.DummyResponse]
			if res, err = client.Execute(ctx, connect.NewRequest(request(inputs[0]))); err == nil {
				outputs, header, trailer = []string{res.Msg.GetOutput()}, res.Header(), res.Trailer()
			}
		case core.ShapeClientStream:
			stream := client.ExecuteClientStream(ctx)
			sendAll(inputs, stream.Send)
			var res *connect.Response[dummyv1.DummyResponse]
			if res, err = stream.CloseAndReceive(); err == nil {
				outputs = []string{res.Msg.GetOutput()}
			}
			if conn, problem := stream.Conn(); problem == nil {
				header, trailer = conn.ResponseHeader(), conn.ResponseTrailer()
			}
		case core.ShapeServerStream:
			var stream *connect.ServerStreamForClient[dummyv1.DummyResponse]
			if stream, err = client.ExecuteServerStream(ctx, connect.NewRequest(request(inputs[0]))); err != nil {
				break
			}
			for stream.Receive() {
				outputs = append(outputs, stream.Msg().GetOutput())
			}
			err, header, trailer = stream.Err(), stream.ResponseHeader(), stream.ResponseTrailer()
			_ = stream.Close()
		case core.ShapeBidiStream:
			stream := client.ExecuteClientServerStream(ctx)
			sendAll(inputs, stream.Send)
			_ = stream.CloseRequest()
			outputs, err = receiveAll(stream.Receive)
			header, trailer = stream.ResponseHeader(), stream.ResponseTrailer()
			_ = stream.CloseResponse()
		}
		a := answer{outputs: outputs, text: fmt.Sprint(outputs, err, header, trailer)}
		if native := new(connect.Error); errors.As(err, &native) {
			a.code, a.message = core.Code(native.Code()), native.Message()
			for _, detail := range native.Details() {
				value, _ := detail.Value()
				a.details = append(a.details, value)
			}
			if shape == core.ShapeUnary {
				header, trailer = native.Meta(), native.Meta()
			}
			a.text += fmt.Sprint(a.details, native.Meta())
		} else if err != nil {
			a.code, a.message = core.CodeUnknown, "not a *connect.Error: "+err.Error()
		}
		a.header = core.WrapMetadata(core.RawMetadata{Map: header, HTTP: true})
		a.trailer = core.WrapMetadata(core.RawMetadata{Map: trailer, HTTP: true})
		return a
	}
}

func grpcCall(client dummyv1.DummyServiceClient) caller {
	return func(ctx context.Context, shape core.Shape, inputs []string) answer {
		var outputs []string
		var header, trailer metadata.MD
		var stream grpc.ClientStream
		var err error
		switch shape {
		case core.ShapeUnary:
			var res *dummyv1.DummyResponse
			if res, err = client.Execute(ctx, request(inputs[0]), grpc.Header(&header), grpc.Trailer(&trailer)); err == nil {
				outputs = []string{res.GetOutput()}
			}
		case core.ShapeClientStream:
			var typed grpc.ClientStreamingClient[dummyv1.DummyRequest, dummyv1.DummyResponse]
			if typed, err = client.ExecuteClientStream(ctx); err != nil {
				break
			}
			stream = typed
			sendAll(inputs, typed.Send)
			var res *dummyv1.DummyResponse
			if res, err = typed.CloseAndRecv(); err == nil {
				outputs = []string{res.GetOutput()}
			}
		case core.ShapeServerStream:
			var typed grpc.ServerStreamingClient[dummyv1.DummyResponse]
			if typed, err = client.ExecuteServerStream(ctx, request(inputs[0])); err == nil {
				stream = typed
				outputs, err = receiveAll(typed.Recv)
			}
		case core.ShapeBidiStream:
			var typed grpc.BidiStreamingClient[dummyv1.DummyRequest, dummyv1.DummyResponse]
			if typed, err = client.ExecuteClientServerStream(ctx); err != nil {
				break
			}
			stream = typed
			sendAll(inputs, typed.Send)
			_ = typed.CloseSend()
			outputs, err = receiveAll(typed.Recv)
		}
		if stream != nil {
			header, _ = stream.Header()
			trailer = stream.Trailer()
		}
		native := status.Convert(err)
		return answer{
			outputs: outputs, code: core.Code(native.Code()), message: native.Message(), details: native.Details(),
			header:  core.WrapMetadata(core.RawMetadata{Map: header}),
			trailer: core.WrapMetadata(core.RawMetadata{Map: trailer}),
			text:    fmt.Sprint(outputs, err, native.Details(), header, trailer),
		}
	}
}

// receiveAll receives until the end, which is no error.
func receiveAll(receive func() (*dummyv1.DummyResponse, error)) (outputs []string, err error) {
	for {
		res, err := receive()
		if errors.Is(err, io.EOF) {
			return outputs, nil
		}
		if err != nil {
			return outputs, err
		}
		outputs = append(outputs, res.GetOutput())
	}
}
