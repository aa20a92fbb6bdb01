package retry_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"time"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// inMemory calls a handler instead of a network.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	m.ServeHTTP(rec, req)
	return rec.Result(), nil
}

func ExampleNew() {
	again, err := retry.New(4, &retry.Options{
		Methods: core.MatchService(dummyv1connect.DummyServiceName), // its schema does not say what is idempotent
		Backoff: time.Millisecond,
		OnAttempt: func(_ context.Context, _ *core.Call, end retry.End) {
			fmt.Printf("attempt %d: %s, again: %t\n", end.Number, core.CodeOf(end.Err), end.Again)
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// A server that is down for two attempts.
	asked := 0
	service := dummy.New(dummy.Cases{"hello": func(context.Context, *dummy.Input) (string, error) {
		if asked++; asked < 3 {
			return "", errors.Unavailable("come back later")
		}
		return "hello at last", nil
	}})
	_, server := dummyv1connect.NewDummyServiceHandler(service.Connect(), connect.WithInterceptors(connectx.New()))
	client := dummyv1connect.NewDummyServiceClient(&http.Client{Transport: inMemory{server}}, "http://example.com",
		connect.WithInterceptors(connectx.New(again)))

	res, err := client.Execute(context.Background(), connect.NewRequest(&dummyv1.DummyRequest{Input: "hello"}))
	fmt.Println(res.Msg.GetOutput(), err)
	// Output:
	// attempt 1: unavailable, again: true
	// attempt 2: unavailable, again: true
	// attempt 3: ok, again: false
	// hello at last <nil>
}
