package metadata_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/interceptors/metadata"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// echo serves the Dummy service, which echoes, with interceptors. Here it is connect-go;
// grpcx.ServerOptions takes the same interceptors.
func echo(cases dummy.Cases, interceptors ...core.Interceptor) http.Handler {
	_, handler := dummyv1connect.NewDummyServiceHandler(dummy.New(cases).Connect(),
		connect.WithInterceptors(connectx.New(interceptors...)))
	return handler
}

// dial returns a client with interceptors. grpcx.DialOptions takes the same ones.
func dial(server http.Handler, interceptors ...core.Interceptor) dummyv1connect.DummyServiceClient {
	return dummyv1connect.NewDummyServiceClient(&http.Client{Transport: inMemory{server}}, "http://example.com",
		connect.WithInterceptors(connectx.New(interceptors...)))
}

// inMemory calls a handler instead of a network.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	m.ServeHTTP(rec, req)
	return rec.Result(), nil
}

func ExampleWrite() {
	// What the configuration says is checked here, not with each call.
	request, err := metadata.Write(
		metadata.Set("x-client", "shop/1.2"),
		metadata.Add("x-tag", "blue", "canary"),
		metadata.SetFunc("x-method", func(_ context.Context, call *core.Call) ([]string, error) {
			return []string{call.Method().Name()}, nil
		}),
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	// The same on a server writes the header of the response.
	response, err := metadata.Write(
		metadata.Set("x-served-by", "echo-7"),
		metadata.Remove("x-debug"), // whatever the handler thinks of it
	)
	if err != nil {
		fmt.Println(err)
		return
	}
	server := echo(dummy.Cases{"show": func(_ context.Context, in *dummy.Input) (string, error) {
		md := in.RequestMetadata()
		return fmt.Sprint(md["x-client"], md["x-tag"], md["x-method"]), in.AddHeader("x-debug", "on")
	}}, response)

	res, err := dial(server, request).Execute(context.Background(), connect.NewRequest(&dummyv1.DummyRequest{Input: "show"}))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the server got:", res.Msg.GetOutput())
	fmt.Printf("the client got: %q %q\n", res.Header().Get("X-Served-By"), res.Header().Get("X-Debug"))
	// Output:
	// the server got: [shop/1.2] [blue canary] [Execute]
	// the client got: "echo-7" ""
}

// Bad configuration fails at once, and does not show the value.
func ExampleWrite_refused() {
	_, err := metadata.Write(metadata.Set("x-token", "sécret"))
	fmt.Println(err)
	_, err = metadata.Write(metadata.Remove("content-type"))
	fmt.Println(err)
	// Output:
	// metadata: op 1 of 1 of Write, Set: metadata value of "x-token" has byte 0xc3 at 1, which is not printable ASCII; use a key that ends in -bin for it
	// metadata: op 1 of 1 of Write, Remove: metadata key "content-type" belongs to the protocol
}

func ExampleWriteTrailer() {
	trailer, err := metadata.WriteTrailer(metadata.SetFunc("x-answered", func(_ context.Context, call *core.Call) ([]string, error) {
		return []string{fmt.Sprint(call.Response() != nil)}, nil // the handler is done
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	client := dial(echo(nil, trailer))
	res, err := client.Execute(context.Background(), connect.NewRequest(&dummyv1.DummyRequest{Input: "hello"}))
	fmt.Println(res.Trailer().Get("X-Answered"), err)

	_, err = client.Execute(context.Background(), connect.NewRequest(&dummyv1.DummyRequest{Input: "fail:not_found"}))
	if failed := (*connect.Error)(nil); errors.As(err, &failed) {
		fmt.Println(failed.Meta().Get("X-Answered"), err)
	}
	// Output:
	// true <nil>
	// false not_found: dummy failure: not_found
}

// A service in front calls one at the back, for the tenant of its own caller.
func ExampleForward() {
	forward, err := metadata.Forward("x-tenant", "x-request-id")
	if err != nil {
		fmt.Println(err)
		return
	}
	back := echo(dummy.Cases{"who": func(_ context.Context, in *dummy.Input) (string, error) {
		md := in.RequestMetadata()
		return fmt.Sprint("tenant ", md["x-tenant"], ", authorization ", md["authorization"]), nil
	}})
	backClient := dial(back, forward)
	front := echo(dummy.Cases{"who": func(ctx context.Context, _ *dummy.Input) (string, error) {
		res, err := backClient.Execute(ctx, connect.NewRequest(&dummyv1.DummyRequest{Input: "who"})) // ctx brings it
		return res.Msg.GetOutput(), err
	}}, forward)

	req := connect.NewRequest(&dummyv1.DummyRequest{Input: "who"})
	req.Header().Set("X-Tenant", "acme")
	req.Header().Set("Authorization", "Bearer secret")
	res, err := dial(front).Execute(context.Background(), req)
	fmt.Println(res.Msg.GetOutput(), err)
	// Output: tenant [acme], authorization [] <nil>
}

func ExampleRequire() {
	os.Setenv("API_KEY", "correct horse") // the new key, and the one that it replaces
	require, err := metadata.Require("x-api-key", os.Getenv("API_KEY"), "battery staple")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := echo(nil, require)
	for _, key := range []string{"correct horse", "battery staple", "staple", ""} {
		client := dial(server)
		if key != "" {
			send, err := metadata.Write(metadata.Set("x-api-key", key))
			if err != nil {
				fmt.Println(err)
				return
			}
			client = dial(server, send)
		}
		_, err := client.Execute(context.Background(), connect.NewRequest(&dummyv1.DummyRequest{Input: "hello"}))
		fmt.Printf("%q: %v\n", key, err)
	}
	// An unset variable is an error, not a server that is open to all.
	_, err = metadata.Require("x-api-key", os.Getenv("API_KEY_THAT_NOBODY_SET"))
	fmt.Println(err)
	// Output:
	// "correct horse": <nil>
	// "battery staple": <nil>
	// "staple": unauthenticated: Access denied!
	// "": unauthenticated: Access denied!
	// metadata: Require of "x-api-key": value 1 of 1 is empty
}
