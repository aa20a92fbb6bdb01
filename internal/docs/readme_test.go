package docs

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/cors"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/grpcx/web"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
	"github.com/rpcweft/weft/rpctest"
)

// userv1connect lends the README the names of a service that a reader may have.
var userv1connect = struct {
	NewUserServiceHandler func(dummyv1connect.DummyServiceHandler, ...connect.HandlerOption) (string, http.Handler)
	NewUserServiceClient  func(connect.HTTPClient, string, ...connect.ClientOption) dummyv1connect.DummyServiceClient
}{dummyv1connect.NewDummyServiceHandler, dummyv1connect.NewDummyServiceClient}

func TestMain(m *testing.M) {
	slog.SetDefault(slog.New(slog.DiscardHandler))
	m.Run()
}

func TestReadmeServerAndClients(t *testing.T) {
	users := dummy.New(nil).Connect()
	mux := http.NewServeMux()
	logging := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		start := time.Now()
		err := next(ctx, call) // returns when the RPC is over: unary or stream, server or client
		slog.Info("rpc", "method", call.Method(), "protocol", call.Protocol(), "code", core.CodeOf(err), "took", time.Since(start))
		return err
	})
	chain := core.NewChain(logging, errors.NewInterceptor(nil)) // nothing that was not meant for the client leaves

	// connect-go
	mux.Handle(userv1connect.NewUserServiceHandler(users, connect.WithInterceptors(connectx.New(chain))))

	// grpc-go
	server := grpc.NewServer(grpcx.ServerOptions(chain)...)

	defer server.Stop()
	served := httptest.NewServer(mux)
	defer served.Close()
	callAsTheReadmeDoes(t, chain, served.URL)

	dummyv1.RegisterDummyServiceServer(server, dummy.New(nil).GRPC())
	handler, err := forBrowsers(server)
	if err != nil {
		t.Fatal(err)
	}
	served = httptest.NewServer(handler)
	defer served.Close()
	client := userv1connect.NewUserServiceClient(http.DefaultClient, served.URL)
	if res, err := client.Execute(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{Input: "hi"})); err != nil || res.Msg.GetOutput() != "hi" {
		t.Errorf("%v, %v", res, err)
	}
}

func forBrowsers(server *grpc.Server) (http.Handler, error) {
	handler, err := web.NewHandler(server, nil) // the grpc-go server answers Connect and gRPC-Web, too
	if err != nil {
		return nil, err
	}
	wrap, err := cors.New(&cors.Options{ // for pages of another origin
		Origins:         []string{"https://app.example.com"},
		RequestHeaders:  []string{"authorization"},
		ResponseHeaders: []string{"x-request-id"},
	})
	if err != nil {
		return nil, err
	}
	return wrap(handler), nil
}

func callAsTheReadmeDoes(t *testing.T, chain *core.Chain, url string) {
	t.Helper()
	target, credentials := "passthrough:///localhost:1", grpc.WithTransportCredentials(insecure.NewCredentials())

	// connect-go
	users := userv1connect.NewUserServiceClient(http.DefaultClient, url, connect.WithInterceptors(connectx.New(chain)))

	// grpc-go
	conn, err := grpc.NewClient(target, append(grpcx.DialOptions(chain), credentials)...)

	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := users.Execute(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{Input: "panic"})); core.CodeOf(err) != core.CodeInternal {
		t.Error(err)
	}
}

var query = func(string) error { return sql.ErrNoRows }

var errNoUser = errors.NotFound("no such user") // code and message are for the client

func find(id string) error {
	err := query(id)
	if err != nil {
		return errNoUser.WithCause(err) // the cause stays on the server: logs show it
	}
	return nil
}

func TestReadmeErrors(t *testing.T) {
	err := find("x")
	if got := fmt.Sprint(err); !errors.Is(err, errNoUser) || !errors.Is(err, sql.ErrNoRows) || got != "not_found: no such user: sql: no rows in result set" {
		t.Error(got)
	}
	toStatus := errors.NewInterceptor(&errors.Options{
		Rules: []errors.Rule{
			errors.RuleIs(sql.ErrNoRows, errors.CodeNotFound, "no such thing"),
		},
		OnPanic: func(ctx context.Context, call *core.Call, value any, stack []byte) {
			slog.ErrorContext(ctx, "panic", "method", call.Method(), "value", value, "stack", string(stack))
		},
	})
	call := rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error { return sql.ErrNoRows }})
	if err := call.Run(t.Context(), toStatus); core.CodeOf(err) != core.CodeNotFound {
		t.Error(err)
	}
}
