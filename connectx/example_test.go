package connectx_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// service fails with an error of its own.
type service struct {
	dummyv1connect.UnimplementedDummyServiceHandler
}

func (service) Execute(context.Context, *connect.Request[dummyv1.DummyRequest]) (*connect.Response[dummyv1.DummyResponse], error) {
	return nil, errors.NotFound("thing %q is missing", "x")
}

// One line for handlers and one for clients.
func ExampleNew() {
	logging := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		fmt.Println(call.Side(), call.Protocol(), call.Method(), core.CodeOf(err))
		return err
	})
	mux := http.NewServeMux()
	mux.Handle(dummyv1connect.NewDummyServiceHandler(service{}, connect.WithInterceptors(connectx.New(logging))))
	server := httptest.NewServer(mux)
	defer server.Close()

	client := dummyv1connect.NewDummyServiceClient(server.Client(), server.URL, connect.WithInterceptors(connectx.New(logging)))
	_, err := client.Execute(context.Background(), connect.NewRequest(&dummyv1.DummyRequest{}))
	fmt.Println(err)
	// Output:
	// server connect /weft.dummy.v1.DummyService/Execute not_found
	// client connect /weft.dummy.v1.DummyService/Execute not_found
	// not_found: thing "x" is missing
}

// A client's interceptor answers without a call.
func ExampleRegisterResponse() {
	connectx.RegisterResponse[dummyv1.DummyResponse]() // connect needs to know its Go type

	cache := core.InterceptorFunc(func(_ context.Context, call *core.Call, _ core.Handler) error {
		return call.SetResponse(&dummyv1.DummyResponse{Output: "cached"})
	})
	client := dummyv1connect.NewDummyServiceClient(http.DefaultClient, "http://localhost:1", connect.WithInterceptors(connectx.New(cache)))
	res, err := client.Execute(context.Background(), connect.NewRequest(&dummyv1.DummyRequest{}))
	fmt.Println(res.Msg.GetOutput(), err)
	// Output: cached <nil>
}
