package core_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/rpcweft/weft/core"
)

func run(st *stack, side core.Side, shape core.Shape, interceptors ...core.Interceptor) (*transport, error) {
	call := newCall(st, side, shape)
	return call, core.NewChain(interceptors...).Handler()(context.Background(), &call.Call)
}

func TestTheFirstInterceptorIsOutermost(t *testing.T) {
	yes := func(*core.Call) bool { return true }
	no := func(*core.Call) bool { return false }
	for name, test := range map[string]struct {
		chain func(l *log) []core.Interceptor
		want  string
	}{
		"none": {func(*log) []core.Interceptor { return nil }, "rpc"},
		"one":  {func(l *log) []core.Interceptor { return []core.Interceptor{tracer(l, "a")} }, "a> rpc <a"},
		"three": {func(l *log) []core.Interceptor {
			return []core.Interceptor{tracer(l, "a"), tracer(l, "b"), tracer(l, "c")}
		}, "a> b> c> rpc <c <b <a"},
		"nested": {func(l *log) []core.Interceptor {
			return []core.Interceptor{core.NewChain(tracer(l, "a"), core.NewChain(tracer(l, "b"), core.NewChain())), tracer(l, "c")}
		}, "a> b> c> rpc <c <b <a"},
		"a chain behind a function": {func(l *log) []core.Interceptor {
			return []core.Interceptor{core.InterceptorFunc(core.NewChain(tracer(l, "a"), core.When(yes, tracer(l, "b"))).Intercept), tracer(l, "c")}
		}, "a> b> c> rpc <c <b <a"},
		"when": {func(l *log) []core.Interceptor {
			return []core.Interceptor{core.When(yes, tracer(l, "a")), core.When(no, tracer(l, "b")), tracer(l, "c")}
		}, "a> c> rpc <c <a"},
		"when a chain": {func(l *log) []core.Interceptor {
			return []core.Interceptor{core.When(yes, core.NewChain(tracer(l, "a"), tracer(l, "b"))), core.When(no, core.NewChain(tracer(l, "x"), tracer(l, "y")))}
		}, "a> b> rpc <b <a"},
		"when in when": {func(l *log) []core.Interceptor {
			return []core.Interceptor{core.When(yes, core.NewChain(core.When(yes, tracer(l, "a")), core.When(no, tracer(l, "b")), tracer(l, "c"))), tracer(l, "d")}
		}, "a> c> d> rpc <d <c <a"},
		"when behind a function": {func(l *log) []core.Interceptor {
			return []core.Interceptor{
				core.InterceptorFunc(core.When(yes, tracer(l, "a")).Intercept), core.InterceptorFunc(core.When(no, tracer(l, "b")).Intercept),
			}
		}, "a> rpc <a"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, side := range []core.Side{core.SideServer, core.SideClient} {
				for _, shape := range []core.Shape{core.ShapeUnary, core.ShapeClientStream, core.ShapeServerStream, core.ShapeBidiStream} {
					var l log
					chain := test.chain(&l)
					for range 2 { // a chain serves many calls
						l.lines = nil
						_, err := run(&stack{invoke: func(context.Context, *transport) error { l.add("rpc"); return failed }}, side, shape, chain...)
						wantCode(t, "error", err, core.CodeAborted)
						wantText(t, fmt.Sprint(side, " ", shape), l.String(), test.want)
					}
				}
			}
		})
	}
}

func TestWhatIsNilIsRefusedAndNamed(t *testing.T) {
	ok := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error { return next(ctx, call) })
	yes := core.MatchSide(core.SideServer)
	call := newCall(&stack{}, core.SideServer, core.ShapeUnary)
	for want, f := range map[string]func(){
		"interceptor 2 of 3":     func() { core.NewChain(ok, nil, ok) },
		"interceptor 1 of 1":     func() { core.NewChain(core.InterceptorFunc(nil)) },
		"interceptor 2 of 2":     func() { core.NewChain(ok, (*core.Chain)(nil)) },
		"When of a nil matcher":  func() { core.When(nil, ok) },
		"When of a nil interce":  func() { core.When(yes, nil) },
		"When of a nil intercep": func() { core.When(yes, core.InterceptorFunc(nil)) },
		"matcher 2 of MatchAll":  func() { core.MatchAll(yes, nil) },
		"matcher 1 of MatchAny":  func() { core.MatchAny(nil) },
		"matcher 1 of MatchNot":  func() { core.MatchNot(nil) },
		"OnRequest of a nil":     func() { call.OnRequest(nil) },
		"OnResponse of a nil":    func() { call.OnResponse(nil) },
	} {
		if got := fmt.Sprint(caught(f)); !strings.Contains(got, want) {
			t.Errorf("panicked with %q, want %q", got, want)
		}
	}
}

// A chain does not see what its maker does with the slice afterwards.
func TestAChainIsCopied(t *testing.T) {
	var l log
	links := []core.Interceptor{tracer(&l, "a"), tracer(&l, "b")}
	chain := core.NewChain(links...)
	links[0] = tracer(&l, "x")
	call := newCall(&stack{}, core.SideServer, core.ShapeUnary)
	wantCode(t, "error", chain.Handler()(t.Context(), &call.Call), core.CodeOK)
	wantText(t, "ran", l.String(), "a> b> <b <a")
}

// Calling next twice with one call fails and says what to do, wherever in the chain it happens; the RPC runs once.
func TestNextTwiceWithOneCallFails(t *testing.T) {
	greedy := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if err := next(ctx, call); err != nil {
			return err
		}
		return next(ctx, call)
	})
	atOnce := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		errs := make([]error, 4)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { errs[i] = next(ctx, call) })
		}
		wg.Wait()
		return errors.Join(errs...)
	})
	pass := tracer(&log{}, "")
	yes, no := core.MatchSide(core.SideServer), core.MatchSide(core.SideClient)
	for _, bad := range []core.Interceptor{greedy, atOnce} {
		for i, chain := range [][]core.Interceptor{
			{bad}, {bad, pass}, {pass, bad}, {pass, bad, pass}, {core.NewChain(pass, bad), pass}, {bad, core.When(yes, pass)}, {bad, core.When(no, pass)},
			{core.When(yes, bad)}, {core.When(yes, core.NewChain(bad, pass)), pass}, {core.When(no, pass), bad, core.When(no, pass), pass},
			{core.InterceptorFunc(core.NewChain(pass, bad, pass).Intercept), pass},
		} {
			call, err := run(&stack{}, core.SideServer, core.ShapeUnary, chain...)
			wantCode(t, fmt.Sprint("chain ", i), err, core.CodeInternal, "next", "twice", "NewAttempt", searchMethod.String())
			if coded := core.FindCoded(err, nil); !strings.HasSuffix(err.Error(), coded.Message()) {
				t.Errorf("%q does not say %q", err, coded.Message())
			}
			wantText(t, fmt.Sprint("RPCs of chain ", i), call.stack.invoked, 1)
		}
	}
}

// Inside the chain each error answers CodeOf, after every next; at each point it unwraps to the original.
func TestErrorsAreNormalizedAfterEveryNext(t *testing.T) {
	own := fmt.Errorf("wrapped: %w", failed)
	check := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		wantCode(t, "inside", err, core.CodeAborted)
		if !errors.Is(err, failed) {
			t.Errorf("%v does not unwrap", err)
		}
		return own
	})
	for _, side := range []core.Side{core.SideServer, core.SideClient} {
		_, err := run(&stack{invoke: func(context.Context, *transport) error { return failed }}, side, core.ShapeUnary,
			check, core.NewChain(check), core.When(core.MatchSide(side), check), core.InterceptorFunc(core.NewChain(check).Intercept), check)
		wantCode(t, "at the edge", err, core.CodeAborted)
		if !errors.Is(err, own) {
			t.Errorf("%v does not unwrap", err)
		}
	}
	call := newCall(&stack{}, core.SideServer, core.ShapeUnary)
	wantText(t, "Normalize(nil)", call.Call.Normalize(nil), nil)
}

// Servers: what is too late does not reach the handler.
func TestACallThatIsTooLateDoesNotReachItsHandler(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, shape := range []core.Shape{core.ShapeUnary, core.ShapeBidiStream} {
		var l log
		call := newCall(&stack{}, core.SideServer, shape)
		wantCode(t, "error", core.NewChain(tracer(&l, "a"), hooked(&l, "a")).Handler()(ctx, &call.Call), core.CodeCanceled)
		wantText(t, "handler runs", call.stack.invoked, 0)
		wantText(t, "chain", l.String(), "a> <a")
	}
}

// handles is a server's handler that receives and sends messages.
func handles(requests, responses []string, result error) func(context.Context, *transport) error {
	return func(_ context.Context, call *transport) error {
		for _, s := range requests {
			if err := call.RequestMessage(&text{s}); err != nil {
				break // whatever the handler makes of it
			}
		}
		for _, s := range responses {
			if call.Stuck() != nil || call.ResponseMessage(&text{s}) != nil {
				break
			}
		}
		return result
	}
}

// Requests meet the hooks in chain order, responses in reverse.
func TestHooksMeetMessagesInOrder(t *testing.T) {
	var l log
	both := before(func(call *core.Call) {
		for _, name := range []string{"2", "3"} {
			call.OnRequest(func(_ context.Context, msg any) error { l.add(name, "?", msg.(*text).s); return nil })
			call.OnResponse(func(_ context.Context, msg any) error { l.add(name, "!", msg.(*text).s); return nil })
		}
	})
	_, err := run(&stack{invoke: handles([]string{"a", "b"}, []string{"x"}, nil)}, core.SideServer, core.ShapeBidiStream, hooked(&l, "1"), both)
	wantCode(t, "error", err, core.CodeOK)
	wantText(t, "stream", l.String(), "1?a 2?a 3?a 1?b 2?b 3?b 3!x 2!x 1!x")
	for _, side := range []core.Side{core.SideServer, core.SideClient} {
		l.lines = nil
		call, err := run(&stack{}, side, core.ShapeUnary, hooked(&l, "1"), both)
		wantCode(t, "error", err, core.CodeOK)
		wantText(t, "unary", l.String(), "1?request 2?request 3?request 3!request 2!request 1!request")
		wantText(t, "the message is changed in place, not replaced", call.Request().(*text).s, "request")
	}
	l.lines = nil
	_, err = run(&stack{invoke: func(context.Context, *transport) error { return failed }}, core.SideClient, core.ShapeUnary, hooked(&l, "1"))
	wantCode(t, "error", err, core.CodeAborted)
	wantText(t, "no response, no hook", l.String(), "1?request")
}

type ctxKey string

// A hook gets the context that its interceptor passed to next.
func TestTheContextOfAHookIsThatOfItsInterceptor(t *testing.T) {
	with := func(name string) core.Interceptor {
		return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			hook := func(ctx context.Context, _ any) error {
				wantText(t, "value of "+name, fmt.Sprint(ctx.Value(ctxKey("name"))), name)
				return nil
			}
			call.OnRequest(hook)
			call.OnResponse(hook)
			return next(context.WithValue(ctx, ctxKey("name"), name), call)
		})
	}
	no := core.MatchMethod("/a.B/C")
	chain := []core.Interceptor{with("a"), core.When(no, with("x")), with("b"), core.InterceptorFunc(core.NewChain(with("c"), with("d")).Intercept), with("e")}
	for _, shape := range []core.Shape{core.ShapeUnary, core.ShapeBidiStream} {
		st := &stack{}
		if shape != core.ShapeUnary {
			st.invoke = handles([]string{"a"}, []string{"x"}, nil)
		}
		_, err := run(st, core.SideServer, shape, chain...)
		wantCode(t, "error", err, core.CodeOK)
	}
	_, err := run(&stack{}, core.SideClient, core.ShapeUnary, append(chain, retry(2), with("f"))...)
	wantCode(t, "error", err, core.CodeOK)
}

// One that answers by itself has given no context to next: its hooks get its own.
func TestAHookOfAnInterceptorThatAnswersHasAContext(t *testing.T) {
	type key struct{}
	for name, policy := range map[string]func(i core.Interceptor) core.Interceptor{
		"in its place":     func(i core.Interceptor) core.Interceptor { return i },
		"in another chain": func(i core.Interceptor) core.Interceptor { return core.InterceptorFunc(core.NewChain(i).Intercept) },
	} {
		var got any
		outer := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			return next(context.WithValue(ctx, key{}, "outer's"), call)
		})
		answers := core.InterceptorFunc(func(_ context.Context, call *core.Call, _ core.Handler) error {
			call.OnResponse(func(ctx context.Context, _ any) error { got = ctx.Value(key{}); return nil })
			return call.SetResponse(&text{"answer"})
		})
		res, err := unary(t.Context(), &stack{}, outer, policy(answers))
		if err != nil || res.s != "answer" || name == "in its place" && got != "outer's" {
			t.Errorf("%s: %v, %v, a hook with %v", name, res, err, got)
		}
	}
}

func TestAHookAfterNextPanics(t *testing.T) {
	_, err := run(&stack{}, core.SideServer, core.ShapeUnary, core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		for want, register := range map[string]func(core.Hook){"OnRequest after next": call.OnRequest, "OnResponse after next": call.OnResponse} {
			if got := fmt.Sprint(caught(func() { register(func(context.Context, any) error { return nil }) })); !strings.Contains(got, want) {
				t.Errorf("panicked with %q", got)
			}
		}
		return err
	}))
	wantCode(t, "error", err, core.CodeOK)
}

// The first failure of a hook sticks, and next returns it whatever the handler says.
func TestTheFirstFailureOfAHookSticks(t *testing.T) {
	first := &nativeError{core.CodeDataLoss, "first"}
	for name, test := range map[string]struct {
		request, panics bool
		handler         error
	}{
		"request": {true, false, nil}, "response": {false, false, nil}, "request, handler fails": {true, false, failed},
		"request panics": {true, true, nil}, "response panics": {false, true, failed},
	} {
		for _, shape := range []core.Shape{core.ShapeUnary, core.ShapeServerStream} {
			t.Run(fmt.Sprint(name, " ", shape), func(t *testing.T) {
				if shape == core.ShapeUnary && !test.request {
					test.handler = nil // no response, no hook
				}
				var l log
				st := &stack{invoke: func(ctx context.Context, call *transport) error {
					if shape == core.ShapeUnary {
						return errors.Join(call.SetResponse(&text{"x"}), test.handler)
					}
					_ = handles([]string{"a", "b"}, []string{"x", "y"}, nil)(ctx, call)
					wantCode(t, "Stuck", call.Stuck(), map[bool]core.Code{true: core.CodeInternal, false: core.CodeDataLoss}[test.panics])
					wantCode(t, "a later message", call.RequestMessage(&text{}), core.CodeOf(call.Stuck()))
					return test.handler
				}}
				fail := before(func(call *core.Call) {
					count := 0
					hook := func(context.Context, any) error {
						if count++; test.panics {
							panic(first)
						}
						if count > 1 {
							return failed
						}
						return first
					}
					if test.request {
						call.OnRequest(hook)
					} else {
						call.OnResponse(hook)
					}
				})
				var err error
				value := caught(func() { _, err = run(st, core.SideServer, shape, hooked(&l, "1"), fail, hooked(&l, "2")) })
				if test.panics {
					p, ok := value.(*core.Panic)
					if !ok || p.Value != first || !errors.Is(p, first) || !strings.Contains(string(p.Stack), "TestTheFirstFailure") {
						t.Errorf("panicked with %v", value)
					}
				} else {
					wantCode(t, "next", err, core.CodeDataLoss)
					wantText(t, "the error", errors.Is(err, first), true)
				}
				// The hooks before saw the message, those after did not.
				if hooks := l.String(); test.request && hooks != map[core.Shape]string{core.ShapeUnary: "1?request", core.ShapeServerStream: "1?a"}[shape] ||
					!test.request && (strings.Contains(hooks, "1!") || !strings.Contains(hooks, "2!x")) {
					t.Errorf("hooks: %s", hooks)
				}
				if test.request && shape == core.ShapeUnary {
					wantText(t, "handler runs", st.invoked, 0)
				}
			})
		}
	}
}

// A panic of a handler passes as it is, and no hook runs after it.
func TestAPanicOfAHandlerPasses(t *testing.T) {
	var l log
	var late *transport
	value := caught(func() {
		_, _ = run(&stack{invoke: func(_ context.Context, call *transport) error { late = call; panic(failed) }},
			core.SideServer, core.ShapeBidiStream, hooked(&l, "1"))
	})
	wantText(t, "value", value, any(failed))
	wantCode(t, "a late message", late.RequestMessage(&text{"late"}), core.CodeCanceled)
	wantText(t, "hooks", l.String(), "")
}

// No hook starts after next has returned.
func TestNoHookRunsLate(t *testing.T) {
	var l log
	var late *transport
	_, err := run(&stack{invoke: func(_ context.Context, call *transport) error { late = call; return nil }}, core.SideServer, core.ShapeBidiStream, hooked(&l, "1"))
	wantCode(t, "error", err, core.CodeOK)
	wantCode(t, "a late message", late.ResponseMessage(&text{"late"}), core.CodeCanceled)
	wantText(t, "hooks", l.String(), "")
	for _, shape := range []core.Shape{core.ShapeUnary, core.ShapeBidiStream} { // without hooks nothing is in the way
		bare := newCall(&stack{}, core.SideServer, shape)
		wantCode(t, "without hooks", bare.RequestMessage(&text{}), core.CodeOK)
	}
}

func TestSetResponse(t *testing.T) {
	for shape, code := range map[core.Shape]core.Code{
		core.ShapeUnary: core.CodeOK, core.ShapeClientStream: core.CodeOK,
		core.ShapeServerStream: core.CodeFailedPrecondition, core.ShapeBidiStream: core.CodeFailedPrecondition,
	} {
		call := newCall(&stack{}, core.SideServer, shape)
		wantCode(t, shape.String(), call.SetResponse(&text{}), code)
		if code == core.CodeOK {
			wantCode(t, "nil", call.SetResponse(nil), core.CodeInvalidArgument, "nil")
		}
	}
	set := answer(&text{"answer"})
	late := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if next(ctx, call) == nil {
			return nil
		}
		return call.SetResponse(&text{"late"})
	})
	after := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		return errors.Join(next(ctx, call), call.SetResponse(&text{"after"}))
	})
	inner := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		attempt := call.NewAttempt()
		defer call.Adopt(attempt)
		return next(ctx, attempt)
	})
	fails := &stack{invoke: func(context.Context, *transport) error { return failed }}
	for want, test := range map[string]struct {
		st    *stack
		chain []core.Interceptor
	}{
		"answer":  {fails, []core.Interceptor{set}},
		"late":    {fails, []core.Interceptor{late}},
		"after":   {&stack{}, []core.Interceptor{after}},
		"answer ": {fails, []core.Interceptor{inner, answer(&text{"answer "})}},
		"late ": {fails, []core.Interceptor{core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			if retry(2).Intercept(ctx, call, next) == nil {
				return nil
			}
			return call.SetResponse(&text{"late "})
		})}},
	} {
		got, err := unary(t.Context(), test.st, test.chain...)
		if err != nil || got.s != want {
			t.Errorf("got %v, %v, want %q", got, err, want)
		}
	}
}

// Response is nil before there is one, after a failure, and on streams.
func TestResponse(t *testing.T) {
	for name, test := range map[string]struct {
		inner []core.Interceptor
		st    *stack
		want  string
		own   error // of the hook of the one that asks
	}{
		"success":                   {nil, &stack{}, "request", nil},
		"a failure of its own hook": {nil, &stack{}, "", failed},
		"failure":                   {nil, &stack{invoke: func(context.Context, *transport) error { return failed }}, "", nil},
		"an answer":                 {[]core.Interceptor{answer(&text{"answer"})}, &stack{}, "answer", nil},
		"a failure of a success": {[]core.Interceptor{core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			return errors.Join(next(ctx, call), failed)
		})}, &stack{}, "", nil},
		"a failure of a hook": {[]core.Interceptor{before(func(call *core.Call) { call.OnResponse(func(context.Context, any) error { return failed }) })}, &stack{}, "", nil},
		"the last of two answers": {[]core.Interceptor{core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			_ = call.SetResponse(&text{"first"})
			return call.SetResponse(&text{"second"})
		})}, &stack{}, "second", nil},
	} {
		_, _ = run(test.st, core.SideServer, core.ShapeUnary, append([]core.Interceptor{core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			wantText(t, name+": before", call.Response(), nil)
			call.OnResponse(func(context.Context, any) error { return test.own })
			err := next(ctx, call)
			got := ""
			if msg, ok := call.Response().(*text); ok {
				got = msg.s
			}
			wantText(t, name+": after", got, test.want)
			return err
		})}, test.inner...)...)
	}
	stream := newCall(&stack{}, core.SideServer, core.ShapeBidiStream)
	wantText(t, "request of a stream", stream.Request(), nil)
	wantText(t, "response of a stream", stream.Response(), nil)
}

func TestWhatACallIs(t *testing.T) {
	call := newCall(&stack{}, core.SideServer, core.ShapeUnary)
	wantText(t, "method", call.Method(), searchMethod)
	wantText(t, "side", call.Side(), core.SideServer)
	wantText(t, "shape", call.Shape(), core.ShapeUnary)
	wantText(t, "protocol", call.Protocol(), core.ProtocolGRPC)
	wantText(t, "attempt", call.Attempt(), 1)
	wantText(t, "committed", call.Committed(), false)
	wantText(t, "HTTP method", call.Call.HTTPMethod(), "POST")
	wantText(t, "idempotency", call.Idempotency(), core.IdempotencyUnknown)
	wantText(t, "schema", call.Schema(), nil)
	for client := range 2 {
		for server := range 2 {
			shape := core.ShapeOf(client == 1, server == 1)
			wantText(t, "client streams", shape.ClientStreams(), client == 1)
			wantText(t, "server streams", shape.ServerStreams(), server == 1)
		}
	}
	for got, want := range map[fmt.Stringer]string{
		core.SideServer: "server", core.SideClient: "client", core.Side(0): "no side",
		core.ShapeUnary: "unary", core.ShapeClientStream: "client_stream", core.ShapeServerStream: "server_stream",
		core.ShapeBidiStream: "bidi_stream", core.Shape(0): "no shape",
		core.IdempotencyUnknown: "unknown", core.IdempotencyNoSideEffects: "no_side_effects", core.IdempotencyIdempotent: "idempotent",
	} {
		wantText(t, "text", got.String(), want)
	}
}
