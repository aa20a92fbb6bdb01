package logging_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/interceptors/auth"
	"github.com/rpcweft/weft/interceptors/logging"
	"github.com/rpcweft/weft/interceptors/metadata"
	"github.com/rpcweft/weft/interceptors/realip"
	"github.com/rpcweft/weft/interceptors/recovery"
	"github.com/rpcweft/weft/interceptors/requestid"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
	"github.com/rpcweft/weft/rpctest"
)

// User is who calls.
type User struct{ ID string }

// Config is what a service reads from its configuration.
type Config struct {
	Proxies []string        // networks of trusted proxies
	Tokens  map[string]User // whose token each is
}

// ServerChain is the recommended chain of a server.
func ServerChain(logger *slog.Logger, c Config) ([]core.Interceptor, error) {
	ids, err := requestid.New(&requestid.Options{ErrorInfo: true})
	if err != nil {
		return nil, err
	}
	addresses, err := realip.New(c.Proxies, nil)
	if err != nil {
		return nil, err
	}
	log, err := logging.New(logger, &logging.Options{Attrs: contextAttrs})
	if err != nil {
		return nil, err
	}
	tokens, err := auth.Secrets(c.Tokens)
	if err != nil {
		return nil, err
	}
	guard, err := auth.New(named(auth.Bearer(tokens)), []auth.Rule{
		auth.Known("weft.dummy.v1.DummyService"),
		auth.Public("grpc.health.v1.Health"),
	}, nil)
	if err != nil {
		return nil, err
	}
	return []core.Interceptor{
		ids,                        // all that follows has the id, and so has the response of a call that is denied
		addresses,                  // who connects, before anyone writes it down
		log,                        // sees the code that the peer gets, and the cause that it does not get
		errors.NewInterceptor(nil), // errors and panics inside become codes
		guard,                      // nothing that costs is done for who may not
	}, nil
}

// ClientChain is the recommended chain of a client that a server has.
func ClientChain(logger *slog.Logger) ([]core.Interceptor, error) {
	ids, err := requestid.New(nil)
	if err != nil {
		return nil, err
	}
	log, err := logging.New(logger, &logging.Options{Attrs: contextAttrs})
	if err != nil {
		return nil, err
	}
	forward, err := metadata.Forward("authorization")
	if err != nil {
		return nil, err
	}
	return []core.Interceptor{
		ids,               // that of the call being served
		log,               // one record, however often the call is tried inside
		recovery.New(nil), // a panic inside does not end the program
		forward,           // credentials last: each attempt has them
	}, nil
}

// contextAttrs is what logs know from outside.
func contextAttrs(ctx context.Context, _ *core.Call) []slog.Attr {
	attrs := []slog.Attr{slog.String("request_id", requestid.FromContext(ctx))}
	if addr, ok := realip.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("client.address", addr.String()))
	}
	return attrs
}

// named tells the log, which stands outside, who calls.
func named(authenticate auth.Func) auth.Func {
	return func(ctx context.Context, call *core.Call) (context.Context, error) {
		ctx, err := authenticate(ctx, call)
		if err != nil {
			return nil, err
		}
		if user, ok := caller(ctx); ok {
			logging.Add(ctx, slog.String("user.id", user.ID))
		}
		return ctx, nil
	}
}

func caller(ctx context.Context) (User, bool) { return auth.Identity[User](ctx) }

// backService answers with who calls and by which id.
type backService struct {
	dummyv1.UnimplementedDummyServiceServer
}

func (backService) Execute(ctx context.Context, _ *dummyv1.DummyRequest) (*dummyv1.DummyResponse, error) {
	user, _ := auth.Identity[User](ctx)
	return &dummyv1.DummyResponse{Output: user.ID + " by " + requestid.FromContext(ctx)}, nil
}

// frontService passes on what the service at the back says.
type frontService struct {
	dummyv1connect.UnimplementedDummyServiceHandler
	back dummyv1.DummyServiceClient
}

func (f frontService) Execute(ctx context.Context, req *connect.Request[dummyv1.DummyRequest]) (*connect.Response[dummyv1.DummyResponse], error) {
	res, err := f.back.Execute(ctx, req.Msg) // the context carries id and credentials
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// logger writes a few attributes alone, to be the same each time.
func logger(service string) *slog.Logger {
	keep := []string{"service", "side", "protocol", "rpc.response.status_code", "request_id", "user.id"}
	return slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if !slices.Contains(keep, a.Key) {
			return slog.Attr{}
		}
		return a
	}})).With("service", service)
}

// A connect-go service calls a grpc-go service: one id and one identity in all logs.
func Example_twoServices() {
	config := Config{Tokens: map[string]User{"token-of-ann": {ID: "ann"}}}

	// The service at the back, on grpc-go.
	chain, err := ServerChain(logger("back"), config)
	if err != nil {
		panic(err)
	}
	server := grpc.NewServer(grpcx.ServerOptions(chain...)...)
	dummyv1.RegisterDummyServiceServer(server, backService{})
	listener := bufconn.Listen(1 << 16)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()

	// The client that the service in front has.
	chain, err = ClientChain(logger("front"))
	if err != nil {
		panic(err)
	}
	conn, err := grpc.NewClient("passthrough:///back", append(grpcx.DialOptions(chain...),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		panic(err)
	}
	defer conn.Close()

	// The service in front, on connect-go. Forward stands inside of the guard: it passes on what was checked.
	chain, err = ServerChain(logger("front"), config)
	if err != nil {
		panic(err)
	}
	forward, err := metadata.Forward("authorization")
	if err != nil {
		panic(err)
	}
	front := httptest.NewServer(mux(dummyv1connect.NewDummyServiceHandler(frontService{back: dummyv1.NewDummyServiceClient(conn)},
		connect.WithInterceptors(connectx.New(append(chain, forward)...)))))
	defer front.Close()

	for _, token := range []string{"token-of-ann", "wrong"} {
		req, _ := http.NewRequest(http.MethodPost, front.URL+dummyv1connect.DummyServiceExecuteProcedure, strings.NewReader(`{}`))
		req.Header = http.Header{"Content-Type": {"application/json"}, "X-Request-Id": {"r-42"}, "Authorization": {"Bearer " + token}}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		fmt.Println(res.StatusCode, res.Header.Get("X-Request-Id"), strings.Contains(string(body), "ann by r-42"))
	}
	// Output:
	// service=back side=server protocol=grpc rpc.response.status_code=OK request_id=r-42 user.id=ann
	// service=front side=client protocol=grpc rpc.response.status_code=OK request_id=r-42
	// service=front side=server protocol=connect rpc.response.status_code=OK request_id=r-42 user.id=ann
	// 200 r-42 true
	// service=front side=server protocol=connect rpc.response.status_code=UNAUTHENTICATED request_id=r-42
	// 401 r-42 false
}

func mux(path string, handler http.Handler) http.Handler {
	m := http.NewServeMux()
	m.Handle(path, handler)
	return m
}

// The recommended chain on every stack.
func TestTheRecommendedChainOnEveryStack(t *testing.T) {
	log, clientLog := newCapture(), newCapture()
	server, err := ServerChain(slog.New(log), Config{Tokens: map[string]User{"token-of-ann": {"ann"}}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := ClientChain(slog.New(clientLog))
	if err != nil {
		t.Fatal(err)
	}
	rpctest.Run(t, &rpctest.Options{Server: server, Client: client}, func(t *testing.T, c *rpctest.Client) {
		known := c.With("authorization", "Bearer token-of-ann")
		for _, test := range []struct {
			client *rpctest.Client
			input  string
			want   core.Code
			record string
		}{
			{known, "hi", core.CodeOK, "user.id=ann"},
			{known, "plain", core.CodeUnknown, "hunter2"},
			{known, "panic", core.CodeInternal, "hunter2"},
			{known, "fail:not_found", core.CodeNotFound, "NOT_FOUND"},
			{c, "hi", core.CodeUnauthenticated, "UNAUTHENTICATED"},
		} {
			ctx, err := requestid.NewContext(t.Context(), "r-1")
			if err != nil {
				t.Fatal(err)
			}
			res := test.client.Call(ctx, test.input)
			if core.CodeOf(res.Err) != test.want || strings.Contains(fmt.Sprint(res.Err, res.Metadata()), "hunter2") {
				t.Errorf("%s: %s", test.input, res)
			}
			if record := log.next(t); !strings.Contains(record, test.record) || !strings.Contains(record, "request_id=r-1") {
				t.Errorf("%s: the server logs %s", test.input, record)
			}
			if record := clientLog.next(t); !strings.Contains(record, "request_id=r-1") || strings.Contains(record, "hunter2") {
				t.Errorf("%s: the client logs %s", test.input, record)
			}
		}
	})
}

// People put recovery innermost and outermost, the log outside and inside, auth first and last. Each order of
// the five keeps the promises: nobody who may not reaches the handler, no secret reaches a caller, no panic gets
// through, each call that reaches the log is in it once, each that reaches the ids has one.
func TestAnyOrderOfAChainIsSafe(t *testing.T) {
	log := newCapture()
	tokens, err := auth.Secrets(map[string]User{"token-of-ann": {"ann"}})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := auth.New(named(auth.Bearer(tokens)), []auth.Rule{auth.Known("weft.dummy.v1.DummyService")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := requestid.New(&requestid.Options{ErrorInfo: true})
	if err != nil {
		t.Fatal(err)
	}
	quiet := &recovery.Options{OnPanic: func(context.Context, *core.Call, any, []byte) {}}
	links := map[string]core.Interceptor{
		"ids": ids, "log": must(slog.New(log), &logging.Options{Attrs: contextAttrs}),
		"status": errors.NewInterceptor(nil), "recovery": recovery.New(quiet), "auth": guard,
	}
	orders := permutations([]string{"ids", "log", "status", "recovery", "auth"})
	if len(orders) != 120 {
		t.Fatal(len(orders))
	}
	for _, order := range orders {
		chain := make([]core.Interceptor, 0, len(order))
		for _, name := range order {
			chain = append(chain, links[name])
		}
		for _, test := range []struct {
			token  string
			invoke func() error
			want   core.Code
		}{
			{"token-of-ann", func() error { return nil }, core.CodeOK},
			{"token-of-ann", func() error { return errors.NotFound("no such thing").WithCause(errors.New("hunter2")) }, core.CodeNotFound},
			{"token-of-ann", func() error { return errors.New("hunter2") }, core.CodeUnknown},
			{"token-of-ann", func() error { panic("hunter2") }, core.CodeInternal},
			{"hunter2", func() error { return nil }, core.CodeUnauthenticated},
		} {
			call := rpctest.Call(rpctest.Fake{
				RequestHeader: map[string][]string{"authorization": {"Bearer " + test.token}, "x-request-id": {"r-1"}},
				Invoke:        func(context.Context, *core.Call) error { return test.invoke() },
			})
			err := call.Run(t.Context(), chain...)
			wire := errors.Wire(err, nil)
			if wire.Code != test.want || strings.Contains(fmt.Sprint(wire.Message, wire.Details), "hunter2") {
				t.Errorf("%v: the caller gets %s: %s, want %s", order, wire.Code, wire.Message, test.want)
			}
			if started := test.want != core.CodeUnauthenticated; (call.Started() == 1) != started {
				t.Errorf("%v: the handler ran %d times", order, call.Started())
			}
			inside := slices.Index(order, "auth") // what a denied call does not reach
			denied := test.want == core.CodeUnauthenticated
			records := 1
			if denied && slices.Index(order, "log") > inside {
				records = 0
			}
			for range records {
				record := log.next(t)
				if !strings.Contains(record, "status_code="+strings.ToUpper(test.want.String())) {
					t.Errorf("%v: the log says %s, want %s", order, record, test.want)
				}
			}
			log.none(t)
			if has := call.ResponseHeader().Get("x-request-id") == "r-1"; has != (!denied || slices.Index(order, "ids") < inside) {
				t.Errorf("%v: the response has the id: %v", order, has)
			}
		}
	}
}

func permutations(list []string) (all [][]string) {
	if len(list) == 0 {
		return [][]string{nil}
	}
	for i, first := range list {
		for _, rest := range permutations(slices.Concat(list[:i], list[i+1:])) {
			all = append(all, append([]string{first}, rest...))
		}
	}
	return all
}

// The orders that people really use, on the wire of every stack.
func TestWrongOrdersAreSafeOnEveryStack(t *testing.T) {
	log := newCapture()
	tokens, err := auth.Secrets(map[string]User{"token-of-ann": {"ann"}})
	if err != nil {
		t.Fatal(err)
	}
	guard, err := auth.New(auth.Bearer(tokens), []auth.Rule{auth.Known("weft.dummy.v1.DummyService")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	record := must(slog.New(log), nil)
	net := recovery.New(&recovery.Options{OnPanic: func(context.Context, *core.Call, any, []byte) {}})
	for name, chain := range map[string][]core.Interceptor{
		"recovery innermost": {record, guard, net},
		"recovery outermost": {net, guard, record},
		"log innermost":      {guard, net, record},
		"auth innermost":     {record, net, guard},
	} {
		t.Run(name, func(t *testing.T) {
			rpctest.Run(t, &rpctest.Options{Server: chain}, func(t *testing.T, c *rpctest.Client) {
				known := c.With("authorization", "Bearer token-of-ann")
				for input, want := range map[string]core.Code{"hi": core.CodeOK, "plain": core.CodeUnknown, "panic": core.CodeInternal} {
					res := known.Call(t.Context(), input)
					if core.CodeOf(res.Err) != want || strings.Contains(fmt.Sprint(res.Err, res.Metadata()), "hunter2") {
						t.Errorf("%s: %s", input, res)
					}
					if got := log.next(t); !strings.Contains(got, "status_code="+strings.ToUpper(want.String())) {
						t.Errorf("%s: the log says %s", input, got)
					}
				}
				if res := c.Call(t.Context(), "hi"); core.CodeOf(res.Err) != core.CodeUnauthenticated {
					t.Error(res)
				}
				for len(log.records) > 0 {
					<-log.records
				}
			})
		})
	}
}

// connect answers a GET with 304 by an error, which is none: it stays that answer, and no alarm is raised.
func TestNotModifiedIsNoFailure(t *testing.T) {
	log := newCapture()
	chain, err := ServerChain(slog.New(log), Config{Tokens: map[string]User{"token-of-ann": {"ann"}}})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(connect.NewUnaryHandler(dummyv1connect.DummyServiceExecuteProcedure,
		func(context.Context, *connect.Request[dummyv1.DummyRequest]) (*connect.Response[dummyv1.DummyResponse], error) {
			return nil, connect.NewNotModifiedError(http.Header{"Etag": {"7"}})
		}, connect.WithIdempotency(connect.IdempotencyNoSideEffects), connect.WithInterceptors(connectx.New(chain...))))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
		server.URL+dummyv1connect.DummyServiceExecuteProcedure+"?connect=v1&encoding=json&message=%7B%7D", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer token-of-ann")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusNotModified || res.Header.Get("Etag") != "7" || res.Header.Get("X-Request-Id") == "" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
	client := connect.NewClient[dummyv1.DummyRequest, dummyv1.DummyResponse](http.DefaultClient,
		server.URL+dummyv1connect.DummyServiceExecuteProcedure, connect.WithIdempotency(connect.IdempotencyNoSideEffects), connect.WithHTTPGet(),
		connect.WithInterceptors(connectx.New(must(slog.New(log), nil))))
	get := connect.NewRequest(&dummyv1.DummyRequest{})
	get.Header().Set("Authorization", "Bearer token-of-ann")
	if _, err := client.CallUnary(t.Context(), get); !connect.IsNotModifiedError(err) {
		t.Errorf("the client got %v", err)
	}
	for range 3 { // the server twice, the client once
		if record := log.next(t); !strings.Contains(record, "level=INFO") || !strings.Contains(record, "status_code=OK") {
			t.Error(record)
		}
	}
}
