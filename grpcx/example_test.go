package grpcx_test

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

// service fails with an error of its own.
type service struct {
	dummyv1.UnimplementedDummyServiceServer
}

func (service) Execute(context.Context, *dummyv1.DummyRequest) (*dummyv1.DummyResponse, error) {
	return nil, errors.NotFound("thing %q is missing", "x")
}

func logging(ctx context.Context, call *core.Call, next core.Handler) error {
	err := next(ctx, call)
	fmt.Println(call.Side(), call.Protocol(), call.Method(), core.CodeOf(err))
	return err
}

func ExampleServerOptions() {
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer(grpcx.ServerOptions(core.InterceptorFunc(logging))...)
	dummyv1.RegisterDummyServiceServer(server, service{})
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	options := append(grpcx.DialOptions(core.InterceptorFunc(logging)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	conn, err := grpc.NewClient("passthrough:///memory", options...)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = conn.Close() }()
	_, err = dummyv1.NewDummyServiceClient(conn).Execute(context.Background(), &dummyv1.DummyRequest{})
	fmt.Println(err)
	// Output:
	// server grpc /weft.dummy.v1.DummyService/Execute not_found
	// client grpc /weft.dummy.v1.DummyService/Execute not_found
	// rpc error: code = NotFound desc = thing "x" is missing
}
