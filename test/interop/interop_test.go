package interop

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
)

// fatal is what a case says when it fails. It would end the process.
type fatal string

// logger makes a panic of it.
type logger struct{ grpclog.LoggerV2 }

func (logger) Info(...any)                  {}
func (logger) Infoln(...any)                {}
func (logger) Infof(string, ...any)         {}
func (logger) Warning(...any)               {}
func (logger) Warningln(...any)             {}
func (logger) Warningf(string, ...any)      {}
func (logger) Error(...any)                 {}
func (logger) Errorln(...any)               {}
func (logger) Errorf(string, ...any)        {}
func (logger) Fatal(args ...any)            { panic(fatal(fmt.Sprint(args...))) }
func (logger) Fatalln(args ...any)          { panic(fatal(fmt.Sprintln(args...))) }
func (logger) Fatalf(f string, args ...any) { panic(fatal(fmt.Sprintf(f, args...))) }
func (logger) V(int) bool                   { return false }

func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(logger{})
	m.Run()
}

// patience is how long a case may take; each takes less than a second.
const patience = 20 * time.Second

// attempt runs a case and returns what it complains about.
func attempt(ctx context.Context, c func(ctx context.Context)) (complaint string) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	defer func() {
		switch value := recover().(type) {
		case nil:
		case fatal:
			complaint = string(value)
		default:
			panic(value)
		}
	}()
	c(ctx)
	return ""
}

// counter counts what it sees, and adds metadata of its own.
type counter struct {
	calls, ends, messages atomic.Int64
	problem               atomic.Pointer[string]
}

// Intercept implements [core.Interceptor].
func (c *counter) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	c.calls.Add(1)
	defer c.ends.Add(1)
	see := func(_ context.Context, msg any) error {
		c.messages.Add(1)
		if _, ok := msg.(proto.Message); !ok && msg != nil { // unimplemented_method sends none
			problem := fmt.Sprintf("%s: a hook got %T", call.Method(), msg)
			c.problem.Store(&problem)
		}
		return nil
	}
	call.OnRequest(see)
	call.OnResponse(see)
	written := call.ResponseHeader
	if call.Side() == core.SideClient {
		written = call.RequestHeader
	}
	if err := written().Set("x-weft-judged-bin", "\x00\xff"); err != nil {
		return err
	}
	err := next(ctx, call)
	for range call.ResponseMetadata().All() { // reading is enough
	}
	return err
}

func (c *counter) check(t *testing.T, side string) {
	t.Helper()
	for end := time.Now().Add(patience); c.ends.Load() < c.calls.Load() && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // handlers whose client has left
	}
	t.Logf("%s: %d calls, %d messages", side, c.calls.Load(), c.messages.Load())
	if c.calls.Load() < 16 || c.messages.Load() < 50 || c.ends.Load() != c.calls.Load() {
		t.Errorf("%s: %d calls, %d messages, next returned %d times", side, c.calls.Load(), c.messages.Load(), c.ends.Load())
	}
	if problem := c.problem.Load(); problem != nil {
		t.Errorf("%s: %s", side, *problem)
	}
}

// pass does nothing.
var pass = core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
	return next(ctx, call)
})

func dial(t testing.TB, addr string, chain []core.Interceptor) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, append(grpcx.DialOptions(chain...),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}`))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// cases are those of the official client that need no cloud, without orca_oob, which needs a part of grpc-go that is
// internal, and pick_first_unary, which fails without interceptors too.
func cases(t testing.TB, addr string, chain []core.Interceptor) map[string]func(ctx context.Context) {
	conn := dial(t, addr, chain)
	client := testpb.NewTestServiceClient(conn)
	of := func(do func(context.Context, testpb.TestServiceClient, ...grpc.CallOption)) func(context.Context) {
		return func(ctx context.Context) { do(ctx, client) }
	}
	soak := func(channel func() (*grpc.ClientConn, func())) func(context.Context) {
		return func(ctx context.Context) {
			interop.DoSoakTest(ctx, interop.SoakTestConfig{
				RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: 5 * time.Second,
				OverallTimeout: patience, ServerAddr: addr, NumWorkers: 2, Iterations: 10, ChannelForTest: channel,
			})
		}
	}
	return map[string]func(ctx context.Context){
		"empty_unary":                 of(interop.DoEmptyUnaryCall),
		"large_unary":                 of(interop.DoLargeUnaryCall),
		"client_streaming":            of(interop.DoClientStreaming),
		"server_streaming":            of(interop.DoServerStreaming),
		"ping_pong":                   of(interop.DoPingPong),
		"empty_stream":                of(interop.DoEmptyStream),
		"timeout_on_sleeping_server":  of(interop.DoTimeoutOnSleepingServer),
		"cancel_after_begin":          of(interop.DoCancelAfterBegin),
		"cancel_after_first_response": of(interop.DoCancelAfterFirstResponse),
		"status_code_and_message":     of(interop.DoStatusCodeAndMessage),
		"special_status_message":      of(interop.DoSpecialStatusMessage),
		"custom_metadata":             of(interop.DoCustomMetadata),
		"unimplemented_method":        func(ctx context.Context) { interop.DoUnimplementedMethod(ctx, conn) },
		"unimplemented_service": func(ctx context.Context) {
			interop.DoUnimplementedService(ctx, testpb.NewUnimplementedServiceClient(conn))
		},
		"rpc_soak": soak(func() (*grpc.ClientConn, func()) { return conn, func() {} }),
		"channel_soak": soak(func() (*grpc.ClientConn, func()) {
			own := dial(t, addr, chain)
			return own, func() { _ = own.Close() }
		}),
		"orca_per_rpc": func(ctx context.Context) { interop.DoORCAPerRPCTest(ctx, client) },
	}
}

func TestInterop(t *testing.T) {
	for name, serve := range map[string]func(*testing.T, []core.Interceptor) string{"grpc-go": serveGRPC, "connect-go": serveConnect} {
		t.Run(name, func(t *testing.T) {
			client, server := &counter{}, &counter{}
			all := cases(t, serve(t, []core.Interceptor{pass, server, pass}), []core.Interceptor{pass, client, pass})
			if name == "connect-go" {
				delete(all, "orca_per_rpc") // a protocol of grpc's own load balancing
			}
			for name, c := range all {
				t.Run(name, func(t *testing.T) {
					complaint := attempt(t.Context(), c)
					if complaint != "" && name == "cancel_after_begin" {
						complaint = attempt(t.Context(), c) // it fails once in a thousand times, with and without interceptors
					}
					if complaint != "" {
						t.Error(complaint)
					}
				})
			}
			t.Logf("%d cases", len(all))
			client.check(t, "client")
			server.check(t, "server")
		})
	}
}

// A judge that is content with these says nothing.
func TestTheJudgeNoticesFaults(t *testing.T) {
	for _, fault := range []struct {
		name, noticed string
		interceptor   core.InterceptorFunc
	}{
		{"an error's message is lost", "status_code_and_message", func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			if err != nil {
				return errors.Newf(core.CodeOf(err), "sorry")
			}
			return nil
		}},
		{"trailers are lost", "custom_metadata", func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			for key := range call.ResponseTrailer().All() {
				if err := call.ResponseTrailer().Delete(key); err != nil {
					return err
				}
			}
			return err
		}},
		{"an error is swallowed", "special_status_message", func(ctx context.Context, call *core.Call, next core.Handler) error {
			if err := next(ctx, call); err != nil {
				return call.SetResponse(&testpb.SimpleResponse{})
			}
			return nil
		}},
	} {
		for name, serve := range map[string]func(*testing.T, []core.Interceptor) string{"grpc-go": serveGRPC, "connect-go": serveConnect} {
			t.Run(name+": "+fault.name, func(t *testing.T) {
				all := cases(t, serve(t, []core.Interceptor{fault.interceptor}), nil)
				if attempt(t.Context(), all[fault.noticed]) == "" {
					t.Errorf("%s went through", fault.noticed)
				}
			})
		}
	}
}
