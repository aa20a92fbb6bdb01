package parity

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/rpctest"
)

func scenarios() []scenario {
	all := []scenario{
		{name: "success", run: call("hi"), want: func(shape core.Shape) []string {
			return []string{outputs(shape, "hi"), "code ok"}
		}},
		{name: "several requests", shapes: []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}, run: call("a", "b", "c")},
		{name: "no request", shapes: []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}, run: call()},
		{name: "plain error", run: call("plain"), want: outcome(core.CodeUnknown, "unknown error")},
		{name: "panic", run: call("panic"), want: outcome(core.CodeInternal, "internal error")},
		{name: "failure after messages", shapes: streaming, run: call("fail-after:3:aborted")},
		{name: "failure after more than the network buffers", shapes: streaming, run: call("fail-after:1000:data_loss")},
	}
	for code := core.CodeCanceled; code <= core.CodeUnauthenticated; code++ {
		all = append(all, scenario{
			name: "fail " + code.String(), run: call("fail:" + code.String()),
			want: func(shape core.Shape) []string {
				res := &rpctest.Result{Err: failure(code)}
				return show(res)
			},
		})
	}
	return append(all, slicesConcat(timeScenarios(), metadataScenarios(), interceptorScenarios(), errorScenarios(), endScenarios(), attemptScenarios())...)
}

func slicesConcat(lists ...[]scenario) (all []scenario) {
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// failure is the error of the Dummy service's "fail:CODE".
func failure(code core.Code) error {
	return errors.Newf(code, "dummy failure: %s", code).WithDetails(&errdetails.ErrorInfo{
		Reason: "DUMMY_FAILURE", Domain: "weft.dummy", Metadata: map[string]string{"code": code.String()},
	})
}

func timeScenarios() []scenario {
	return []scenario{
		{
			name: "deadline of the client passes", loose: theServer,
			run: func(t *testing.T, c *rpctest.Client) []string {
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				defer cancel()
				res := c.Call(ctx, "sleep:400ms")
				return []string{core.CodeOf(res.Err).String()}
			},
			want: func(core.Shape) []string { return []string{"deadline_exceeded"} },
		},
		{
			name: "deadline of an interceptor of the client passes", loose: theServer, client: withTimeout(50 * time.Millisecond),
			run: func(t *testing.T, c *rpctest.Client) []string {
				res := c.Call(t.Context(), "sleep:400ms")
				return []string{core.CodeOf(res.Err).String()}
			},
			want: func(core.Shape) []string { return []string{"deadline_exceeded"} },
		},
		{
			name: "deadline of an interceptor of the client reaches the server", client: withTimeout(time.Hour), loose: both,
			run: func(t *testing.T, c *rpctest.Client) []string {
				res := c.Call(t.Context(), "deadline")
				if res.Err != nil || len(res.Outputs) == 0 || res.Outputs[0] == "none" || len(res.Outputs[0]) != 7 {
					t.Errorf("the handler saw %q, %v; want nearly 3600000", res.Outputs, res.Err)
				}
				return nil
			},
		},
		{
			name: "no deadline of the client reaches the server", run: call("deadline"),
		},
		{
			name: "deadline of an interceptor of the server passes", server: withTimeout(20 * time.Millisecond), run: call("sleep:400ms"),
			want: outcome(core.CodeDeadlineExceeded, "the deadline of the call has passed"),
		},
		{
			name: "context of the server has ended before the handler", run: call("fail:internal"),
			server: around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				ctx, cancel := context.WithDeadline(ctx, time.Unix(1, 0))
				defer cancel()
				return next(ctx, call)
			}),
			want: outcome(core.CodeDeadlineExceeded, "the deadline of the call has passed"),
		},
		{
			name: "client cancels", loose: theServer,
			run: func(t *testing.T, c *rpctest.Client) []string {
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(20*time.Millisecond, cancel)
				res := c.Call(ctx, "sleep:400ms")
				return []string{core.CodeOf(res.Err).String()}
			},
			want: func(core.Shape) []string { return []string{"canceled"} },
		},
	}
}

func metadataScenarios() []scenario {
	send := func(input string) func(*testing.T, *rpctest.Client) []string {
		return func(t *testing.T, c *rpctest.Client) []string {
			c = c.With("x-echo-a", "1").With("x-echo-a", "2, 3").With("x-echo-b-bin", "\x00\xff,=").With("x-echo-b-bin", "").With("x-other", "no")
			return show(c.Call(t.Context(), input))
		}
	}
	set := func(call *core.Call, pairs ...string) error {
		for i := 0; i < len(pairs); i += 3 {
			md := call.ResponseHeader()
			if pairs[i] == "trailer" {
				md = call.ResponseTrailer()
			}
			if err := md.Add(pairs[i+1], pairs[i+2]); err != nil {
				return err
			}
		}
		return nil
	}
	// Before and after next; after the first message of a stream the header is gone, which is an error that says so.
	write := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if err := set(call, "header", "x-before", "1", "trailer", "x-t-before", "2", "header", "x-raw-bin", "\x00\x01"); err != nil {
			return err
		}
		err := next(ctx, call)
		if problem := set(call, "trailer", "x-t-after", "3", "trailer", "x-t-raw-bin", "\xff"); problem != nil {
			return problem
		}
		late := "in time"
		if problem := call.ResponseHeader().Set("x-after", "4"); problem != nil {
			late = core.CodeOf(problem).String()
		}
		if problem := set(call, "trailer", "x-late", late); problem != nil {
			return problem
		}
		return err
	})
	return []scenario{
		{name: "metadata", run: send("metadata")},
		{name: "metadata with failure", run: send("metadata-fail:resource_exhausted")},
		{name: "metadata that interceptors of the server write", server: write, run: send("metadata")},
		{name: "metadata that interceptors of the server write, with failure", server: write, run: send("metadata-fail:aborted")},
		{name: "metadata that interceptors of the server write, with an error of their own", run: call("hi"),
			server: around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				if err := set(call, "header", "x-h", "1", "trailer", "x-t", "2"); err != nil {
					return err
				}
				return errors.PermissionDenied("no").WithMetadata("x-error", "3", "x-error-bin", "\x00")
			})},
		{name: "metadata that interceptors of the client write", run: call("metadata"),
			client: around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				for _, pair := range [][2]string{{"X-Echo-A", "1"}, {"x-echo-a", "2"}, {"x-echo-bin", "\x00\xff"}} {
					if err := call.RequestHeader().Add(pair[0], pair[1]); err != nil {
						return err
					}
				}
				return next(ctx, call)
			})},
		{name: "metadata of the application that interceptors of the client change", run: send("metadata"),
			client: around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				md := call.RequestHeader()
				if got := fmt.Sprintf("%q %q", md.Values("x-echo-a"), md.Values("X-Echo-B-Bin")); got != `["1" "2, 3"] ["\x00\xff,=" ""]` {
					return errors.DataLoss("the interceptor saw %s", got)
				}
				return errors.Join(md.Set("x-echo-a", "changed"), md.Delete("x-echo-b-bin"), next(ctx, call))
			})},
		{name: "metadata that interceptors of the server change before the handler", run: send("metadata"),
			server: around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				md := call.RequestHeader()
				return errors.Join(md.Set("x-echo-a", "changed"), md.Delete("x-echo-b-bin"), md.Add("x-echo-c-bin", "\x00"), next(ctx, call))
			})},
		{name: "metadata of the response as interceptors of the client see it", run: send("metadata-fail:internal"),
			client: around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				err := next(ctx, call)
				seen := ""
				for key, values := range call.ResponseMetadata().All() {
					if key != "vary" {
						seen += fmt.Sprintf("%s=%q ", key, values)
					}
				}
				return errors.DataLoss("%s; writing: %s", seen, core.CodeOf(call.ResponseTrailer().Set("x", "y"))).WithCause(err)
			})},
		{name: "metadata that may not be written", run: call("hi"),
			server: around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				seen := ""
				for _, pair := range [][2]string{{"content-type", "x"}, {"grpc-status", "1"}, {"Connect-X", "x"}, {":path", "x"}, {"user-agent", "x"}, {"x y", "x"}, {"x", "a\nb"}, {"x", "\xff"}, {"", "x"}} {
					seen += core.CodeOf(call.ResponseHeader().Set(pair[0], pair[1])).String() + " " + core.CodeOf(call.RequestHeader().Set(pair[0], pair[1])).String() + " "
				}
				seen += fmt.Sprint(call.RequestHeader().Get("content-type") == "", call.RequestHeader().Get("user-agent") != "")
				err := next(ctx, call)
				return errors.DataLoss("%s %s", seen, core.CodeOf(call.RequestHeader().Set("x", "y"))).WithCause(err)
			})},
	}
}

func interceptorScenarios() []scenario {
	reject := around(func(context.Context, *core.Call, core.Handler) error {
		return errors.Unauthenticated("who are you?").WithDetails(&errdetails.ErrorInfo{Reason: "NOBODY"})
	})
	replace := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		return errors.Unavailable("replaced %s", core.CodeOf(next(ctx, call))).WithDetails(&errdetails.ErrorInfo{Reason: "MINE"})
	})
	forgive := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if err := next(ctx, call); core.CodeOf(err) != core.CodeNotFound {
			return errors.DataLoss("expected not_found").WithCause(err)
		}
		if call.Shape().ServerStreams() {
			return nil
		}
		return call.SetResponse(&dummyv1.DummyResponse{Output: "forgiven"})
	})
	answer := around(func(_ context.Context, call *core.Call, _ core.Handler) error {
		if call.Shape().ServerStreams() {
			return nil
		}
		return call.SetResponse(&dummyv1.DummyResponse{Output: "cached"})
	})
	silent := around(func(context.Context, *core.Call, core.Handler) error { return nil })
	spoil := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if err := next(ctx, call); err != nil {
			return err
		}
		return errors.FailedPrecondition("spoilt")
	})
	hook := func(request bool) func() []core.Interceptor {
		return around(func(ctx context.Context, call *core.Call, next core.Handler) error {
			register := call.OnResponse
			if request {
				register = call.OnRequest
			}
			register(func(context.Context, any) error { return errors.OutOfRange("the hook says no") })
			return next(ctx, call)
		})
	}
	change := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(func(_ context.Context, msg any) error {
			msg.(*dummyv1.DummyRequest).Input += "+" + call.Side().String()[:1]
			return nil
		})
		call.OnResponse(func(_ context.Context, msg any) error {
			msg.(*dummyv1.DummyResponse).Output += "-" + call.Side().String()[:1]
			return nil
		})
		return next(ctx, call)
	})
	panics := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(func(context.Context, any) error { panic("hunter2") })
		return next(ctx, call)
	})
	twice := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		first := next(ctx, call)
		return errors.DataLoss("first %s, second %s", core.CodeOf(first), core.CodeOf(next(ctx, call)))
	})
	describe := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		m := call.Method()
		err := next(ctx, call)
		_, isMethod := call.Schema().(interface{ IsStreamingClient() bool })
		return errors.DataLoss("%s %s %s %s %s %s %s descriptor %t %s attempt %d peer %t request %t response %t %s", m, m.Package(), m.Service(), m.Name(),
			call.Side(), call.Shape(), call.HTTPMethod(), isMethod, call.Idempotency(), call.Attempt(), call.Peer().Addr != "",
			call.Request() != nil, call.Response() != nil, core.CodeOf(err))
	})
	return []scenario{
		{name: "server rejects", server: reject, run: call("hi")},
		{name: "client rejects", client: reject, run: call("hi")},
		{name: "server replaces the error", server: replace, run: call("fail:not_found")},
		{name: "client replaces the error", client: replace, run: call("fail:not_found")},
		{name: "server turns an error into success", server: forgive, run: call("fail:not_found")},
		{name: "client turns an error into success", client: forgive, run: call("fail:not_found")},
		{name: "server answers by itself", server: answer, run: call("hi")},
		{name: "client answers by itself", client: answer, run: call("hi")},
		{name: "server says success without a response", server: silent, run: call("hi"), shapes: single},
		{name: "client says success without a response", client: silent, run: call("hi"), shapes: single},
		{name: "server turns success into an error", server: spoil, run: call("hi")},
		{name: "client turns success into an error", client: spoil, run: call("hi")},
		{name: "request hook of the server fails", server: hook(true), run: call("hi")},
		{name: "request hook of the client fails", client: hook(true), run: call("hi"), loose: theServer},
		{name: "response hook of the server fails", server: hook(false), run: call("hi")},
		{name: "response hook of the client fails", client: hook(false), run: call("hi"), loose: theServer},
		{name: "hooks change messages on both sides", server: change, client: change, run: call("hi")},
		{name: "request hook of the server panics", server: panics, run: call("hi"), want: outcome(core.CodeInternal, "internal error")},
		{name: "server calls next twice", server: twice, run: call("hi")},
		{name: "client calls next twice", client: twice, run: call("hi")},
		{name: "what a server knows of the call", server: describe, run: call("hi")},
		{name: "what a client knows of the call", client: describe, run: call("hi")},
	}
}

func errorScenarios() []scenario {
	raise := func(name string, err func() error, want func(core.Shape) []string) scenario {
		return scenario{
			name: name, run: call("raise"), want: want,
			cases: map[string]rpctest.Case{"raise": func(context.Context, *rpctest.Input) (string, error) { return "", err() }},
		}
	}
	connectError := func() error {
		err := connect.NewError(connect.CodeAborted, errors.New("native"))
		detail, _ := connect.NewErrorDetail(&errdetails.ErrorInfo{Reason: "R"})
		err.AddDetail(detail)
		return err
	}
	grpcError := func() error {
		st, _ := status.New(codes.Aborted, "native").WithDetails(&errdetails.ErrorInfo{Reason: "R"})
		return st.Err()
	}
	migrated := raise("error of the other stack, with the one line", nil, nil)
	migrated.server = func() []core.Interceptor { return []core.Interceptor{connectx.Errors(), grpcx.Errors()} }
	migrated.cases["raise"] = func(_ context.Context, in *rpctest.Input) (string, error) {
		if in.Count%2 == 1 {
			return "", fmt.Errorf("outer hunter2: %w", connectError())
		}
		return "", grpcError()
	}
	migratedGRPC := raise("error of grpc, with the one line", grpcError, nil)
	migratedGRPC.server = migrated.server
	migrated.loose, migratedGRPC.loose = theServer, theServer // the recorder nearest to the handler sees it unconverted
	own := raise("error of the stack's own", nil, nil)
	own.cases["raise"] = nil
	upstreamOf := func(policy errors.UpstreamPolicy) func() []core.Interceptor {
		return func() []core.Interceptor {
			return []core.Interceptor{errors.NewInterceptor(&errors.Options{Upstream: policy})}
		}
	}
	upstream := func(name string, policy errors.UpstreamPolicy) scenario {
		var client atomic.Pointer[rpctest.Client]
		return scenario{
			name: name, server: upstreamOf(policy), loose: both,
			cases: map[string]rpctest.Case{"upstream": func(ctx context.Context, _ *rpctest.Input) (string, error) {
				c := client.Load()
				if c.Path.HTTP == 1 {
					c = c.InShape(core.ShapeUnary)
				}
				return "", c.With("x-echo-secret", "hunter2").Call(ctx, "metadata-fail:already_exists").Err
			}},
			run: func(t *testing.T, c *rpctest.Client) []string {
				client.Store(c)
				return show(c.Call(t.Context(), "upstream"))
			},
		}
	}
	return []scenario{
		raise("wrapped error", func() error { return fmt.Errorf("outer hunter2: %w", failure(core.CodeNotFound)) },
			func(core.Shape) []string { return show(&rpctest.Result{Err: failure(core.CodeNotFound)}) }),
		raise("joined errors", func() error {
			return errors.Join(errors.New("hunter2"), errors.Aborted("first"), errors.NotFound("second"))
		}, outcome(core.CodeAborted, "first")),
		raise("context error, wrapped", func() error { return fmt.Errorf("hunter2: %w", context.Canceled) },
			outcome(core.CodeCanceled, "the call was canceled")),
		raise("error with a cause", func() error { return errors.NotFound("public").WithCause(errors.New("hunter2")) },
			outcome(core.CodeNotFound, "public")),
		raise("error with code OK", func() error { return badCodeError(0) }, outcome(core.CodeInternal, "bad")),
		raise("error with code 99", func() error { return badCodeError(99) }, outcome(core.CodeInternal, "bad")),
		raise("error whose message is not UTF-8", func() error { return errors.NotFound("a\xffb") }, outcome(core.CodeNotFound, "a\uFFFDb")),
		raise("error with an odd message", func() error { return errors.NotFound("a%%20\nb ü 日本 \"q\"") }, outcome(core.CodeNotFound, "a%20\nb ü 日本 \"q\"")),
		raise("error with metadata", func() error {
			return errors.NotFound("m").WithMetadata("x-a", "1", "x-a", "2", "x-b-bin", "\x00\xff")
		}, nil),
		migrated, migratedGRPC,
		upstream("upstream error passes without its metadata", errors.UpstreamPass),
		upstream("upstream error is replaced", errors.UpstreamInternal),
	}
}

// badCodeError is an error that claims a code that no error may have.
type badCodeError core.Code

func (badCodeError) Error() string     { return "hunter2" }
func (b badCodeError) Code() core.Code { return core.Code(b) }
func (badCodeError) Message() string   { return "bad" }

func endScenarios() []scenario {
	run := func(f func(t *testing.T, s *rpctest.Stream) []string, input string, cancelAfter time.Duration) func(*testing.T, *rpctest.Client) []string {
		return func(t *testing.T, c *rpctest.Client) []string {
			s, err := c.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if cancelAfter > 0 {
				time.AfterFunc(cancelAfter, s.Cancel)
			} else {
				defer func() { _ = s.Close() }()
			}
			_ = s.Send(input) // an error is found by Receive; connect's server streams wait for the header here
			return f(t, s)
		}
	}
	open := func(f func(t *testing.T, s *rpctest.Stream) []string, input string) func(*testing.T, *rpctest.Client) []string {
		return run(f, input, 0)
	}
	return []scenario{
		{name: "receive after the end", shapes: streams, run: open(func(_ *testing.T, s *rpctest.Stream) (seen []string) {
			_ = s.CloseSend()
			for range 5 {
				output, err := s.Receive()
				seen = append(seen, output+" "+eof(err))
			}
			return seen
		}, "ab")},
		{name: "receive after a failure", shapes: streams, run: open(func(_ *testing.T, s *rpctest.Stream) (seen []string) {
			_ = s.CloseSend()
			for range 3 {
				_, err := s.Receive()
				seen = append(seen, eof(err))
			}
			return seen
		}, "fail:aborted")},
		{name: "stop reading and close", shapes: streaming, loose: theServer, run: open(func(_ *testing.T, s *rpctest.Stream) []string {
			output, err := s.Receive()
			return []string{output, eof(err), fmt.Sprint(s.Close())}
		}, "fail-after:1000:internal")},
		{name: "stop reading and cancel", shapes: streaming, loose: both, run: open(func(_ *testing.T, s *rpctest.Stream) []string {
			output, err := s.Receive()
			s.Cancel()
			return []string{output, eof(err)}
		}, "fail-after:1000:internal")},
		{name: "abandon after the context has ended", shapes: streams, loose: theServer, run: run(func(*testing.T, *rpctest.Stream) []string {
			return nil
		}, "sleep:400ms", 100*time.Millisecond)},
		{name: "cancel while receiving", shapes: streams, loose: theServer, run: run(func(_ *testing.T, s *rpctest.Stream) []string {
			_, err := s.Receive()
			_, again := s.Receive()
			return []string{eof(err), eof(again)}
		}, "sleep:400ms", 100*time.Millisecond)},
		{name: "send after the end", shapes: []core.Shape{core.ShapeBidiStream}, run: open(func(_ *testing.T, s *rpctest.Stream) []string {
			_, err := s.Receive()
			return []string{eof(err), eof(s.Send("more"))}
		}, "fail:aborted")},
	}
}

func attemptScenarios() []scenario {
	// Fails the first time with Unavailable and metadata, then echoes.
	flaky := func(failures int32) map[string]rpctest.Case {
		var mu sync.Mutex
		count := map[string]int32{}
		return map[string]rpctest.Case{"flaky:": func(_ context.Context, in *rpctest.Input) (string, error) {
			mu.Lock()
			defer mu.Unlock()
			n := count[in.Arg]
			count[in.Arg]++
			if n < failures {
				return "", errors.Unavailable("try again").WithMetadata("x-failed", "yes")
			}
			return "done", nil
		}}
	}
	retry := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		for {
			attempt := call.NewAttempt()
			if err := attempt.RequestHeader().Set("x-echo-attempt", fmt.Sprint(attempt.Attempt())); err != nil {
				return err
			}
			err := next(ctx, attempt)
			if core.CodeOf(err) != core.CodeUnavailable || attempt.Attempt() == 3 || attempt.Committed() {
				call.Adopt(attempt)
				return err
			}
		}
	})
	hedge := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
		ctx, cancel := context.WithCancel(ctx)
		type result struct {
			attempt *core.Call
			err     error
		}
		results := make(chan result)
		for range 2 {
			attempt := call.NewAttempt()
			go func() {
				ctx := ctx
				if attempt.Attempt() == 1 {
					// The first one hangs until the second one has won.
					if err := attempt.RequestHeader().Set("x-hang", "yes"); err != nil {
						panic(err)
					}
				}
				err := next(ctx, attempt)
				results <- result{attempt, err}
			}()
		}
		winner := <-results
		cancel()
		<-results
		call.Adopt(winner.attempt)
		return winner.err
	})
	hang := map[string]rpctest.Case{"hedged": func(ctx context.Context, in *rpctest.Input) (string, error) {
		if _, hangs := in.RequestMetadata()["x-hang"]; hangs {
			<-ctx.Done()
			return "", ctx.Err()
		}
		return "won", in.AddTrailer("x-won", "2")
	}}
	var id atomic.Int64
	fresh := func(inputs ...string) func(*testing.T, *rpctest.Client) []string {
		return func(t *testing.T, c *rpctest.Client) []string {
			// One name for each call; the transcripts must not show it.
			name := fmt.Sprintf("flaky:%04d", id.Add(1))
			return show(c.Call(t.Context(), append([]string{name}, inputs...)...))
		}
	}
	return []scenario{
		{name: "second attempt succeeds", client: retry, cases: flaky(1), run: fresh(), loose: both},
		{name: "all attempts fail", client: retry, cases: flaky(9), run: fresh(), loose: both},
		{name: "second attempt of a stream of several requests succeeds", client: retry, cases: flaky(1), run: fresh("a", "b"), loose: both,
			shapes: []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}},
		{name: "metadata of an attempt is its own", client: retry, run: call("metadata")},
		{name: "failure after the first response is not tried again", client: retry, shapes: streaming, run: call("fail-after:2:unavailable")},
		{name: "two attempts at once", client: hedge, cases: hang, shapes: []core.Shape{core.ShapeUnary}, run: call("hedged"), loose: both},
		{name: "attempts are refused on servers", run: call("hi"),
			server: around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				return next(ctx, call.NewAttempt())
			})},
	}
}
