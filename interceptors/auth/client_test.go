package auth_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/interceptors/auth"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
	"github.com/rpcweft/weft/rpctest"
)

func guarded() core.Interceptor {
	return must(auth.New(auth.Bearer(secrets()), []auth.Rule{auth.Known(service)}, nil))
}

func TestAClientSendsItsTokenWhereItIsTold(t *testing.T) {
	creds := must(auth.NewClient(auth.StaticToken("ann-token"), &auth.ClientOptions{ConnectionIsSafe: true}))
	o := &rpctest.Options{Server: []core.Interceptor{guarded(), creds}, Client: []core.Interceptor{creds}, Cases: cases}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		if res := c.Call(t.Context(), "whoami"); strings.Join(res.Outputs, "") != "anntrue" {
			t.Error(res)
		}
		// The application's own goes before.
		if res := c.With("authorization", "Bearer bob-token").Call(t.Context(), "whoami"); strings.Join(res.Outputs, "") != "bobtrue" {
			t.Error(res)
		}
	})
}

// Without anybody's word for the connection the interceptor alone sends nothing, and says so.
func TestAnInterceptorAloneSendsNothing(t *testing.T) {
	creds := must(auth.NewClient(auth.StaticToken("ann-token"), nil))
	o := &rpctest.Options{Server: []core.Interceptor{guarded()}, Client: []core.Interceptor{creds}}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		res := c.Call(t.Context(), "hi")
		if core.CodeOf(res.Err) != core.CodeUnauthenticated || !strings.Contains(res.Err.Error(), "ConnectionIsSafe") {
			t.Error(res)
		}
	})
}

func TestOnGRPCTheTokenGoesOverTLSAlone(t *testing.T) {
	creds := must(auth.NewClient(auth.StaticToken("ann-token"), nil))
	var paths []rpctest.Path
	for _, path := range rpctest.Paths() {
		if path.Client == rpctest.GRPC {
			paths = append(paths, path)
		}
	}
	for name, chain := range map[string][]core.Interceptor{"alone": nil, "beside the interceptor": {creds}} {
		t.Run(name, func(t *testing.T) {
			o := &rpctest.Options{
				Server: []core.Interceptor{guarded()}, Client: chain, Cases: cases, Paths: paths, Network: rpctest.TLS,
				DialOptions: []grpc.DialOption{grpc.WithPerRPCCredentials(creds)},
			}
			rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
				if res := c.Call(t.Context(), "whoami"); strings.Join(res.Outputs, "") != "anntrue" {
					t.Error(res)
				}
			})
			if chain == nil {
				return
			}
			rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
				if res := c.With("authorization", "Bearer bob-token").Call(t.Context(), "whoami"); strings.Join(res.Outputs, "") != "bobtrue" {
					t.Error(res)
				}
			})
		})
	}
	_, err := grpc.NewClient("localhost:1", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(creds))
	if err == nil {
		t.Error("grpc-go takes the credentials for a connection without TLS")
	}
}

// connectServer serves the Dummy service with a guard, and notes whether a token came.
func connectServer(t *testing.T, secure bool, before func(w http.ResponseWriter, r *http.Request) bool) (*httptest.Server, *atomic.Int32) {
	_, handler := dummyv1connect.NewDummyServiceHandler(dummy.New(dummy.Cases(cases)).Connect(), connect.WithInterceptors(connectx.New(guarded())))
	var tokens atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens.Add(int32(len(r.Header["Authorization"])))
		if before == nil || before(w, r) {
			handler.ServeHTTP(w, r)
		}
	}))
	server.EnableHTTP2 = true
	if secure {
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(server.Close)
	return server, &tokens
}

func TestOnConnectTheTokenGoesOverTLSAlone(t *testing.T) {
	creds := must(auth.NewClient(auth.StaticToken("ann-token"), nil))
	dial := func(server *httptest.Server, chain ...core.Interceptor) dummyv1connect.DummyServiceClient {
		httpClient := server.Client()
		httpClient.Transport = creds.Transport(httpClient.Transport)
		return dummyv1connect.NewDummyServiceClient(httpClient, server.URL, connect.WithInterceptors(connectx.New(chain...)))
	}
	call := func(client dummyv1connect.DummyServiceClient) (string, error) {
		res, err := client.Execute(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{Input: "whoami"}))
		if err != nil {
			return "", err
		}
		return res.Msg.GetOutput(), nil
	}
	stream := func(client dummyv1connect.DummyServiceClient) (string, error) {
		stream := client.ExecuteClientStream(t.Context())
		_ = stream.Send(&dummyv1.DummyRequest{Input: "whoami"})
		res, err := stream.CloseAndReceive()
		if err != nil {
			return "", err
		}
		return res.Msg.GetOutput(), nil
	}
	for name, f := range map[string]func(dummyv1connect.DummyServiceClient) (string, error){"unary": call, "stream": stream} {
		secure, _ := connectServer(t, true, nil)
		for _, client := range []dummyv1connect.DummyServiceClient{dial(secure), dial(secure, creds)} {
			if got, err := f(client); got != "anntrue" {
				t.Errorf("%s: %q, %v", name, got, err)
			}
		}
		plain, tokens := connectServer(t, false, nil)
		if got, err := f(dial(plain)); err == nil {
			t.Errorf("%s: %q without TLS", name, got)
		}
		_, err := f(dial(plain, creds))
		if e, ok := errors.AsType[*errors.Error](err); !ok || e.Code() != core.CodeFailedPrecondition || !strings.Contains(e.Message(), "not encrypted") {
			t.Errorf("%s: %v", name, err)
		}
		if tokens.Load() != 0 {
			t.Errorf("%s: %d tokens over a connection without TLS", name, tokens.Load())
		}
	}
}

func TestATokenDoesNotFollowARedirectToAnotherHost(t *testing.T) {
	creds := must(auth.NewClient(auth.StaticToken("ann-token"), nil))
	other, tokens := connectServer(t, true, nil)
	first, _ := connectServer(t, true, func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
		return false
	})
	client := first.Client() // trusts both: the certificate is the same
	client.Transport = creds.Transport(client.Transport)
	_, err := dummyv1connect.NewDummyServiceClient(client, first.URL).Execute(t.Context(), connect.NewRequest(&dummyv1.DummyRequest{}))
	if connect.CodeOf(err) != connect.CodeUnauthenticated || tokens.Load() != 0 {
		t.Errorf("%v, %d tokens", err, tokens.Load())
	}
}

// source hands out token after token, each good for life.
type source struct {
	calls atomic.Int32
	life  time.Duration
	takes time.Duration
	err   error
}

func (s *source) get(ctx context.Context) (auth.Token, error) {
	n := s.calls.Add(1)
	select {
	case <-time.After(s.takes):
	case <-ctx.Done():
		return auth.Token{}, ctx.Err()
	}
	if s.err != nil {
		return auth.Token{}, s.err
	}
	return auth.Token{Value: fmt.Sprintf("t%d", n), Expires: time.Now().Add(s.life)}, nil
}

// send makes a call and returns what it sent.
func send(ctx context.Context, creds core.Interceptor, answer error) (string, error) {
	sent := ""
	err := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(_ context.Context, call *core.Call) error {
		sent = strings.Join(call.RequestHeader().Values("authorization"), ",")
		return answer
	}}).Run(ctx, creds)
	return sent, err
}

func TestATokenIsReplacedBeforeItExpiresAndOneCallServesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{life: time.Hour, takes: time.Second}
		creds := must(auth.NewClient(s.get, &auth.ClientOptions{ConnectionIsSafe: true, Early: time.Minute}))
		all := func(want string, takes time.Duration) {
			t.Helper()
			start := time.Now()
			results := make(chan string, 100)
			for range cap(results) {
				go func() {
					sent, err := send(t.Context(), creds, nil)
					results <- fmt.Sprint(sent, err)
				}()
			}
			for range cap(results) {
				if got := <-results; got != want+"<nil>" {
					t.Fatalf("got %s, want %s", got, want)
				}
			}
			if took := time.Since(start); took != takes {
				t.Errorf("took %v, want %v", took, takes)
			}
		}
		all("Bearer t1", time.Second)
		time.Sleep(time.Hour - time.Minute - 2*time.Second)
		all("Bearer t1", 0)
		if s.calls.Load() != 1 {
			t.Fatalf("%d calls", s.calls.Load())
		}
		time.Sleep(2 * time.Second)
		all("Bearer t1", 0) // nobody waits while it is good
		time.Sleep(time.Second)
		synctest.Wait()
		all("Bearer t2", 0)
		time.Sleep(2 * time.Hour)
		all("Bearer t3", time.Second)
		if s.calls.Load() != 3 {
			t.Errorf("%d calls", s.calls.Load())
		}
	})
}

func TestATokenThatIsRefusedIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{life: time.Hour}
		creds := must(auth.NewClient(s.get, &auth.ClientOptions{ConnectionIsSafe: true}))
		refused := errors.Unauthenticated("no")
		check := func(want string, answer error) {
			t.Helper()
			if got, err := send(t.Context(), creds, answer); got != want || core.CodeOf(err) != core.CodeOf(answer) {
				t.Errorf("got %s, %v, want %s", got, err, want)
			}
		}
		check("Bearer t1", nil)
		check("Bearer t1", refused) // but not one that is new
		check("Bearer t1", nil)
		time.Sleep(time.Minute)
		check("Bearer t1", errors.PermissionDenied("no"))
		check("Bearer t1", refused)
		check("Bearer t2", nil)
	})
}

func TestACallerWhoGivesUpTakesNobodyWithHim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{life: time.Hour, takes: time.Minute}
		creds := must(auth.NewClient(s.get, &auth.ClientOptions{ConnectionIsSafe: true, Timeout: time.Hour}))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		done := make(chan error)
		go func() {
			_, err := send(ctx, creds, nil)
			done <- err
		}()
		synctest.Wait()
		go func() {
			_, err := send(t.Context(), creds, nil)
			done <- err
		}()
		if err := <-done; core.CodeOf(err) != core.CodeDeadlineExceeded {
			t.Errorf("the first: %v", err)
		}
		if err := <-done; err != nil || s.calls.Load() != 1 {
			t.Errorf("the second: %v, %d calls", err, s.calls.Load())
		}
	})
}

func TestASourceThatFailsFailsTheCallButNotWhileTheOldTokenIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{life: time.Hour, err: errors.New("hunter2")}
		creds := must(auth.NewClient(s.get, &auth.ClientOptions{ConnectionIsSafe: true, Early: time.Minute, Timeout: time.Minute}))
		if _, err := send(t.Context(), creds, nil); core.CodeOf(err) != core.CodeUnauthenticated || !errors.Is(err, s.err) {
			t.Error(err)
		}
		s.takes = time.Hour
		if _, err := send(t.Context(), creds, nil); core.CodeOf(err) != core.CodeUnavailable {
			t.Error(err)
		}
		s.takes, s.err = 0, nil
		if got, err := send(t.Context(), creds, nil); got != "Bearer t3" {
			t.Error(got, err)
		}
		time.Sleep(time.Hour - 30*time.Second)
		s.err = errors.Unavailable("down")
		for range 20 { // and the source is asked once a second
			if got, err := send(t.Context(), creds, nil); got != "Bearer t3" {
				t.Error(got, err)
			}
			synctest.Wait()
			time.Sleep(100 * time.Millisecond)
		}
		if calls := s.calls.Load(); calls != 5 {
			t.Errorf("%d calls", calls)
		}
		time.Sleep(time.Minute)
		if _, err := send(t.Context(), creds, nil); core.CodeOf(err) != core.CodeUnavailable {
			t.Error(err)
		}
	})
}

func TestASourceThatMisbehavesDoesNotEndTheProgram(t *testing.T) {
	for name, get := range map[string]auth.Source{
		"panics":  func(context.Context) (auth.Token, error) { panic("hunter2") },
		"exits":   func(context.Context) (auth.Token, error) { runtime.Goexit(); return auth.Token{}, nil },
		"empty":   func(context.Context) (auth.Token, error) { return auth.Token{}, nil },
		"newline": func(context.Context) (auth.Token, error) { return auth.Token{Value: "hunter2\n"}, nil },
	} {
		creds := must(auth.NewClient(get, &auth.ClientOptions{ConnectionIsSafe: true}))
		sent, err := send(t.Context(), creds, nil)
		if sent != "" || core.CodeOf(err) != core.CodeUnauthenticated || strings.Contains(errors.Wire(err, nil).Message, "hunter2") {
			t.Errorf("%s: %q, %v", name, sent, err)
		}
	}
}

func TestATokenIsShownNowhere(t *testing.T) {
	token := auth.Token{Value: "hunter2", Expires: time.Now()}
	creds := must(auth.NewClient(auth.StaticToken("hunter2"), &auth.ClientOptions{ConnectionIsSafe: true}))
	_, _ = send(t.Context(), creds, nil)
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", token, "client", creds)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "inside", struct{ T auth.Token }{token})
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&log, format, token)
		fmt.Fprintf(&log, format, creds)
	}
	if strings.Contains(log.String(), "hunter2") || strings.Contains(log.String(), "68756e") {
		t.Error(log.String())
	}
}

func TestBadClientConfigurationIsRefused(t *testing.T) {
	for want, o := range map[string]auth.ClientOptions{
		"grpc-status":   {Header: "grpc-status"},
		"for the":       {Header: "x-api-key", Scheme: "Bearer"},
		"is no name":    {Scheme: "a b"},
		"Early -1s":     {Early: -time.Second},
		"Timeout -1s":   {Timeout: -time.Second},
		`character`:     {Header: "x key"},
		`"user-agent"`:  {Header: "User-Agent"},
		`"connect-foo"`: {Header: "connect-foo"},
	} {
		if c, err := auth.NewClient(auth.StaticToken("x"), &o); c != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	creds := must(auth.NewClient(auth.StaticToken("key"), &auth.ClientOptions{Header: "X-Api-Key", ConnectionIsSafe: true}))
	call := rpctest.Call(rpctest.Fake{Side: core.SideClient})
	if err := call.Run(t.Context(), creds); err != nil || call.RequestHeader().Get("x-api-key") != "key" {
		t.Error(err, call.RequestHeader().Get("x-api-key"))
	}
}

func ExampleNewClient() {
	creds, err := auth.NewClient(func(context.Context) (auth.Token, error) {
		// Ask a server of tokens, or read a file. It is asked again before the token expires.
		return auth.Token{Value: "s3cret", Expires: time.Now().Add(time.Hour)}, nil
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	// connect-go, over https:
	users := dummyv1connect.NewDummyServiceClient(
		&http.Client{Transport: creds.Transport(nil)}, "https://users.example.com",
		connect.WithInterceptors(connectx.New(creds)))
	// grpc-go, over TLS:
	options := append(grpcx.DialOptions(creds), grpc.WithPerRPCCredentials(creds))
	_, _ = users, options

	// Without TLS the token stays here.
	_, err = grpc.NewClient("users.example.com:80", append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	fmt.Println(err != nil, creds)
	// Output: true auth.Client
}
