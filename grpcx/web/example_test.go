package web_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	"google.golang.org/grpc"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/grpcx/web"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

// things is a service of a native grpc-go server.
type things struct {
	dummyv1.UnimplementedDummyServiceServer
}

func (things) Execute(_ context.Context, req *dummyv1.DummyRequest) (*dummyv1.DummyResponse, error) {
	if req.GetInput() == "" {
		return nil, errors.InvalidArgument("which thing?")
	}
	return &dummyv1.DummyResponse{Output: "the " + req.GetInput()}, nil
}

func logProtocol(ctx context.Context, call *core.Call, next core.Handler) error {
	err := next(ctx, call)
	fmt.Println(call.Protocol(), call.Method(), core.CodeOf(err))
	return err
}

// A grpc-go server answers what curl or a browser sends.
func ExampleNewHandler() {
	server := grpc.NewServer(grpcx.ServerOptions(core.InterceptorFunc(logProtocol))...)
	dummyv1.RegisterDummyServiceServer(server, things{})
	handler, err := web.NewHandler(server, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	listener := httptest.NewServer(handler) // an http.Server, in a program
	defer listener.Close()

	for _, body := range []string{`{"input": "ball"}`, `{}`} {
		res, err := http.Post(listener.URL+"/weft.dummy.v1.DummyService/Execute", "application/json", strings.NewReader(body))
		if err != nil {
			fmt.Println(err)
			return
		}
		answer, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		fmt.Println(res.Status, string(answer))
	}
	// Output:
	// connect /weft.dummy.v1.DummyService/Execute ok
	// 200 OK {"output":"the ball"}
	// connect /weft.dummy.v1.DummyService/Execute invalid_argument
	// 400 Bad Request {"code":"invalid_argument","message":"which thing?"}
}
