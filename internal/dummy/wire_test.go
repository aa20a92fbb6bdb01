package dummy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// serve returns a connection of a grpc-go client without interceptors to each server.
func serve(t *testing.T) map[string]dummyv1.DummyServiceClient {
	t.Helper()
	service := dummy.New(nil)

	mux := http.NewServeMux()
	mux.Handle(dummyv1connect.NewDummyServiceHandler(service.Connect(), connect.WithInterceptors(connectx.New())))
	web := httptest.NewUnstartedServer(mux)
	web.Config.Protocols = new(http.Protocols)
	web.Config.Protocols.SetUnencryptedHTTP2(true)
	web.Start()
	t.Cleanup(web.Close)

	native := grpc.NewServer(grpcx.ServerOptions()...)
	dummyv1.RegisterDummyServiceServer(native, service.GRPC())
	listener := bufconn.Listen(1 << 16)
	go func() { _ = native.Serve(listener) }()
	t.Cleanup(native.Stop)

	clients := map[string]dummyv1.DummyServiceClient{}
	for name, dial := range map[string]func(context.Context, string) (net.Conn, error){
		"connect-go": func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", web.Listener.Addr().String())
		},
		"grpc-go": func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) },
	} {
		conn, err := grpc.NewClient("passthrough:///"+name, grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		clients[name] = dummyv1.NewDummyServiceClient(conn)
	}
	return clients
}

func TestBothStacksServeAllShapesWithMetadataAndErrors(t *testing.T) {
	for server, client := range serve(t) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-echo-a", "1", "x-echo-a", "2", "x-echo-b-bin", "\x00\xff", "x-other", "3")
		check := func(shape string, header, trailer metadata.MD, err error) {
			t.Helper()
			if status.Code(err) != codes.Aborted || len(status.Convert(err).Details()) != 1 {
				t.Errorf("%s %s: %v", server, shape, err)
			}
			want := metadata.MD{"x-echo-a": {"1", "2"}, "x-echo-b-bin": {"\x00\xff"}}
			for key, values := range want {
				if !reflect.DeepEqual(header[key], values) {
					t.Errorf("%s %s: header %s is %q", server, shape, key, header[key])
				}
				if key = "x-trailer" + key[len("x-echo"):]; !reflect.DeepEqual(trailer[key], values) {
					t.Errorf("%s %s: trailer %s is %q", server, shape, key, trailer[key])
				}
			}
			if header["x-other"] != nil {
				t.Errorf("%s %s: got x-other back", server, shape)
			}
		}
		fail := &dummyv1.DummyRequest{Input: "metadata-fail:aborted"}

		var header, trailer metadata.MD
		_, err := client.Execute(ctx, fail, grpc.Header(&header), grpc.Trailer(&trailer))
		check("unary", header, trailer, err)

		one, err := client.ExecuteServerStream(ctx, fail)
		if err != nil {
			t.Fatal(err)
		}
		_, err = one.Recv()
		header, _ = one.Header()
		check("server stream", header, one.Trailer(), err)

		many, err := client.ExecuteClientStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(many.Send(&dummyv1.DummyRequest{Input: "first"}), many.Send(fail)); err != nil {
			t.Fatal(err)
		}
		_, err = many.CloseAndRecv()
		header, _ = many.Header()
		check("client stream", header, many.Trailer(), err)

		both, err := client.ExecuteClientServerStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, input := range []string{"a", "b"} {
			if err := both.Send(&dummyv1.DummyRequest{Input: input}); err != nil {
				t.Fatal(err)
			}
			if res, err := both.Recv(); err != nil || res.GetOutput() != input {
				t.Errorf("%s bidi stream: %v, %v", server, res, err)
			}
		}
		if err := both.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := both.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("%s bidi stream ended with %v", server, err)
		}
	}
}
