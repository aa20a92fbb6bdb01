package core_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
)

// Whoever makes attempts is one call for those outside, and several for those inside.
func TestUnaryAttempts(t *testing.T) {
	var l log
	st := &stack{invoke: func(_ context.Context, call *transport) error {
		l.add("rpc", call.Attempt(), ":", call.Outgoing().(*text).s, call.RequestHeader().Get("k"))
		if call.Attempt() < 3 {
			return failed
		}
		return call.SetResponse(&text{"response"})
	}}
	change := before(func(call *core.Call) {
		call.Request().(*text).s += "+"
		_ = call.RequestHeader().Add("k", "inner")
	})
	shout := before(func(call *core.Call) {
		call.OnRequest(func(_ context.Context, msg any) error { msg.(*text).s += "o"; return nil })
		call.OnResponse(func(_ context.Context, msg any) error { msg.(*text).s += "o"; return nil })
		_ = call.RequestHeader().Set("k", "outer")
	})
	res, err := unary(t.Context(), st, tracer(&l, "out"), shout, hooked(&l, "out"), retry(5), tracer(&l, "in"), hooked(&l, "in"), change)
	wantCode(t, "error", err, core.CodeOK)
	wantText(t, "response", res.s, "responseo")
	wantText(t, "what happened", l.String(), "out> out?requesto "+
		"in> in?requesto+ rpc1:requesto+outer <in "+
		"in> in?requesto+ rpc2:requesto+outer <in "+
		"in> in?requesto+ rpc3:requesto+outer in!response <in "+
		"out!response <out")
}

// An attempt starts from the call as it stands; what happens to it stays with it.
func TestAttemptsAreIsolated(t *testing.T) {
	st := &stack{invoke: func(_ context.Context, call *transport) error {
		call.maps[core.KindResponseHeader]["h"] = []string{fmt.Sprint(call.Attempt())}
		return call.SetResponse(call.Outgoing())
	}}
	_, err := unary(t.Context(), st, core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		_ = call.RequestHeader().Set("k", "call")
		first := call.NewAttempt()
		_ = first.RequestHeader().Add("k", "first")
		_ = first.RequestHeader().Set("other", "first")
		first.Request().(*text).s = "first"
		wantText(t, "the call's request", call.Request().(*text).s, "request")
		call.Request().(*text).s = "changed"
		_ = call.RequestHeader().Add("k", "again")
		second := call.NewAttempt()
		for i, attempt := range []*core.Call{first, second} {
			wantText(t, "number", attempt.Attempt(), i+1)
			wantText(t, "method", attempt.Method(), call.Method())
			wantText(t, "shape", attempt.Shape(), call.Shape())
			wantText(t, "committed", attempt.Committed(), false)
			if err := next(ctx, attempt); err != nil {
				t.Error(err)
			}
		}
		wantText(t, "first k", fmt.Sprint(first.RequestHeader().Values("k")), "[call first]")
		wantText(t, "second k", fmt.Sprint(second.RequestHeader().Values("k")), "[call again]")
		wantText(t, "second other", second.RequestHeader().Len(), 1)
		wantText(t, "first response", first.Response().(*text).s, "first")
		wantText(t, "second response", second.Response().(*text).s, "changed")
		wantText(t, "response of none", call.Response(), nil)
		wantText(t, "header of none", call.ResponseHeader().Get("h"), "")
		_ = call.SetResponse(&text{"before"})
		for _, adopted := range []*core.Call{second, first} {
			call.Adopt(adopted)
			wantText(t, "response", call.Response(), adopted.Response())
			wantText(t, "outcome", call.Outcome(), adopted)
			wantText(t, "header", call.ResponseHeader().Get("h"), fmt.Sprint(adopted.Attempt()))
			wantText(t, "merged", call.ResponseMetadata().Get("h"), fmt.Sprint(adopted.Attempt()))
			wantText(t, "peer", call.Peer().Addr, fmt.Sprint("peer ", adopted.Attempt()))
		}
		return nil
	}))
	wantCode(t, "error", err, core.CodeOK)
}

// hedge makes n attempts at once and adopts the first that succeeds.
func hedge(n int) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		type result struct {
			attempt *core.Call
			err     error
		}
		results := make(chan result)
		for range n {
			attempt := call.NewAttempt()
			go func() { results <- result{attempt, next(ctx, attempt)} }()
		}
		var won *result
		for range n {
			if r := <-results; won == nil || won.err != nil {
				won = &r
			}
			cancel()
		}
		call.Adopt(won.attempt)
		return won.err
	})
}

// Attempts may run at once, and inside of each other: nothing is shared but what is only read.
func TestAttemptsMayRunAtOnce(t *testing.T) {
	touch := before(func(call *core.Call) {
		time.Sleep(time.Millisecond) // all wake up at once
		msg := call.Request().(*text)
		msg.s += fmt.Sprint(call.Attempt())
		_ = call.RequestHeader().Add("k", msg.s)
		_, _, _ = call.Peer(), call.Response(), call.ResponseMetadata().Len()
	})
	wait := before(func(*core.Call) { time.Sleep(time.Millisecond) })
	for name, chain := range map[string][]core.Interceptor{
		"hedge":                     {hedge(8), touch},
		"hedge without a touch":     {hedge(8), wait},
		"hedge in retry":            {retry(2), hedge(8), touch},
		"hedge in retry, touched":   {retry(2), touch, hedge(8), touch},
		"hedge in retry, untouched": {retry(2), hedge(8), wait},
		"hedge in retry, half touched": {retry(2), hedge(8), before(func(call *core.Call) {
			time.Sleep(time.Millisecond)
			if call.Attempt()%2 == 0 {
				call.Request().(*text).s += "even"
			}
		})},
		"hedge in hedge": {hedge(4), hedge(4), touch},
		"retry in hedge": {hedge(4), retry(2), touch},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var l log
				st := &stack{invoke: func(_ context.Context, call *transport) error {
					return call.SetResponse(&text{call.Outgoing().(*text).s})
				}}
				if _, err := unary(t.Context(), st, append([]core.Interceptor{hooked(&l, "out")}, chain...)...); err != nil {
					t.Error(err)
				}
				if out := l.String(); strings.Count(out, "?") != 1 || strings.Count(out, "!") != 1 {
					t.Errorf("the hooks outside met %s", out)
				}
			})
		})
	}
}

func TestMisuseOfAttempts(t *testing.T) {
	both := func(first, second func(call *core.Call) *core.Call) core.Interceptor {
		return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			if err := next(ctx, first(call)); err != nil {
				return err
			}
			return next(ctx, second(call))
		})
	}
	same := func(call *core.Call) *core.Call { return call }
	fresh := (*core.Call).NewAttempt
	var kept *core.Call
	keep := func(call *core.Call) *core.Call {
		if kept == nil {
			kept = call.NewAttempt()
		}
		return kept
	}
	for name, test := range map[string]struct {
		interceptor core.Interceptor
		says        string
	}{
		"next twice":                {both(same, same), "NewAttempt"},
		"an attempt after the call": {both(same, fresh), "NewAttempt"},
		"the call after an attempt": {both(fresh, same), "attempt"},
		"one attempt twice":         {both(keep, keep), "NewAttempt"},
		"no Adopt":                  {both(fresh, fresh), "Adopt"},
		"no response":               {answer(nil), "SetResponse"},
	} {
		_, err := unary(t.Context(), &stack{}, test.interceptor)
		wantCode(t, name, err, core.CodeInternal, test.says, searchMethod.String())
	}
	for _, shape := range []core.Shape{core.ShapeUnary, core.ShapeBidiStream} {
		server := newCall(&stack{}, core.SideServer, shape)
		err := core.NewChain(retry(1), tracer(&log{}, "")).Handler()(t.Context(), &server.Call)
		wantCode(t, "on a server", err, core.CodeFailedPrecondition, "server")
		wantText(t, "handler runs", server.stack.invoked, 0)
	}
	call := newCall(&stack{}, core.SideClient, core.ShapeUnary)
	other := newCall(&stack{}, core.SideClient, core.ShapeUnary)
	for _, bad := range []*core.Call{nil, &other.Call, other.Call.NewAttempt(), &call.Call} {
		if value := caught(func() { call.Adopt(bad) }); !strings.Contains(fmt.Sprint(value), "NewAttempt") {
			t.Errorf("Adopt panicked with %v", value)
		}
	}
}

// The response of an attempt that failed is none, whoever makes a success of it.
func TestAFailedAttemptHasNoResponse(t *testing.T) {
	for name, inner := range map[string]core.Interceptor{
		"an interceptor": core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			return errors.Join(next(ctx, call), failed)
		}),
		"a hook": before(func(call *core.Call) { call.OnResponse(func(context.Context, any) error { return failed }) }),
	} {
		_, err := unary(t.Context(), &stack{}, core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			_ = retry(1).Intercept(ctx, call, next)
			wantText(t, name+": response", call.Response(), nil)
			return nil
		}), inner)
		wantCode(t, name, err, core.CodeInternal, "SetResponse")
	}
}

// Messages would be missed: that is a panic, also when next was called with an attempt.
func TestAHookAfterAnAttemptPanics(t *testing.T) {
	for _, registered := range []bool{true, false} {
		_, _ = unary(t.Context(), &stack{}, core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			hook := func(context.Context, any) error { return nil }
			if registered {
				call.OnRequest(hook)
			}
			attempt := call.NewAttempt()
			defer call.Adopt(attempt)
			_ = next(ctx, attempt)
			if value := caught(func() { call.OnResponse(hook) }); value == nil {
				t.Errorf("no panic (another hook: %v)", registered)
			}
			return nil
		}))
	}
}

// The hooks outside of the attempts stick for all of them.
func TestAFailureOfAHookOutsideEndsAllAttempts(t *testing.T) {
	for name, panics := range map[string]bool{"error": false, "panic": true} {
		st := &stack{}
		var err error
		value := caught(func() {
			_, err = unary(t.Context(), st, before(func(call *core.Call) {
				call.OnRequest(func(context.Context, any) error {
					if panics {
						panic("hook")
					}
					return failed
				})
			}), retry(3))
		})
		if p, ok := value.(*core.Panic); ok != panics || ok && p.Value != "hook" {
			t.Errorf("%s: panicked with %v", name, value)
		}
		if !panics {
			wantCode(t, name, err, core.CodeAborted)
		}
		wantText(t, name+": RPCs", st.invoked, 0)
	}
}

// --- streams

func opsOf(a *app, n int) string { return a.stream(n).sent() }

// What the application sent before an attempt failed is sent again, header flush and half-close included.
func TestAttemptsOfAStreamRecordAndReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		a := newApp(t, &stack{}, core.ShapeBidiStream, hooked(&l, "out"), retry(5), hooked(&l, "in"))
		msg := &text{"a"}
		wantText(t, "Send", a.Send(msg), nil)
		msg.s = "used again"
		wantText(t, "Send(nil)", a.Send(nil), nil)
		sends("b")(a)
		peer(1, failed)(a)
		received := make(chan string, 1)
		go func() { m, _ := a.receive(); received <- m }()
		waits(a)
		wantText(t, "first", opsOf(a, 1), "a FLUSH b")
		wantText(t, "second", opsOf(a, 2), "a FLUSH b")
		sends("c")(a)
		wantText(t, "CloseSend", a.CloseSend(), nil)
		peer(2, failed)(a)
		waits(a)
		wantText(t, "third", opsOf(a, 3), "a FLUSH b c END")
		peer(3, "x", "y", io.EOF)(a)
		wantText(t, "message", <-received, "x")
		receives("y")(a)
		ends(core.CodeOK)(a)
		a.wantOver(core.CodeOK)
		wantText(t, "attempts", a.opened(), 3)
		wantText(t, "hooks", l.String(), "out?a in?a out?b in?b in?a in?b out?c in?c in?a in?b in?c in!x out!x in!y out!y")
	})
}

// Each attempt has messages of its own.
func TestAHookInsideDoesNotChangeWhatTheNextAttemptSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shout := before(func(call *core.Call) {
			call.OnRequest(func(_ context.Context, msg any) error { msg.(*text).s += "!"; return nil })
		})
		a := newApp(t, &stack{}, core.ShapeBidiStream, shout, retry(5), shout)
		msg := &text{"a"}
		wantText(t, "Send", a.Send(msg), nil)
		peer(1, failed)(a)
		go func() { _ = a.Receive(&text{}) }()
		waits(a)
		wantText(t, "first", opsOf(a, 1), "a!!")
		wantText(t, "second", opsOf(a, 2), "a!!")
		peer(2, failed)(a)
		waits(a)
		wantText(t, "third", opsOf(a, 3), "a!!")
		closes(a)
	})
}

func TestAnAttemptOfAStreamCommits(t *testing.T) {
	for name, test := range map[string]struct {
		steps     []step
		committed bool
		attempts  int
	}{
		"on the first message": {[]step{sends("a"), peer(1, "x"), receives("x"), peer(1, failed), ends(core.CodeAborted)}, true, 1},
		"on the header": {[]step{sends("a"), func(a *app) {
			a.stream(1).header <- true
			wantText(a.T, "Header", a.soon("Header", a.Header), nil)
		}, peer(1, failed), ends(core.CodeAborted)}, true, 1},
		"not on a header that did not come": {[]step{sends("a"), func(a *app) {
			a.stream(1).header <- false
			wantText(a.T, "Header", a.soon("Header", a.Header), nil)
		}, peer(1, failed), func(a *app) { go func() { _ = a.Receive(&text{}) }() }, waits, peer(2, failed), waits, ends(core.CodeAborted)}, false, 2},
		"past the bound": {[]step{sends(strings.Repeat("a", 200<<10), strings.Repeat("b", 100<<10), "c"), peer(1, failed), ends(core.CodeAborted)}, true, 1},
		"not within the bound": {[]step{sends(strings.Repeat("a", 200<<10), strings.Repeat("b", 56<<10)), peer(1, failed),
			func(a *app) { go func() { _ = a.Receive(&text{}) }() }, waits, peer(2, failed), ends(core.CodeAborted)}, false, 2},
		"past the bound with one message": {[]step{sends(strings.Repeat("a", 300<<10)), peer(1, failed), ends(core.CodeAborted)}, true, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				committed := false
				a := newApp(t, &stack{}, core.ShapeBidiStream, core.InterceptorFunc(
					func(ctx context.Context, call *core.Call, next core.Handler) error {
						var err error
						for range 2 {
							attempt := call.NewAttempt()
							err = next(ctx, attempt)
							if committed = attempt.Committed(); committed {
								again := next(ctx, call.NewAttempt())
								wantCode(t, "another attempt", again, core.CodeFailedPrecondition, "attempt 1", "committed")
								wantText(t, "peer", call.Peer().Addr, "peer 1")
								return err
							}
							call.Adopt(attempt)
						}
						return err
					}))
				for _, s := range test.steps {
					s(a)
				}
				a.wantOver(core.CodeAborted)
				wantText(t, "committed", committed, test.committed)
				wantText(t, "attempts", a.opened(), test.attempts)
				want := ""
				for _, s := range a.streams {
					if want != "" && s.sent() != want {
						t.Error("the second attempt got something else")
					}
					want = s.sent()
				}
			})
		})
	}
}

// A Send on a dead attempt, or between attempts, records and returns nil.
func TestSendBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			for {
				attempt := call.NewAttempt()
				if err := next(ctx, attempt); err == nil || attempt.Committed() || ctx.Err() != nil {
					call.Adopt(attempt)
					return err
				}
				time.Sleep(time.Minute)
			}
		})
		a := newApp(t, &stack{}, core.ShapeBidiStream, slow)
		sends("a")(a)
		a.stream(1).onSend = func(string) error { return io.EOF } // it is dead, but nobody received yet
		sends("b")(a)
		peer(1, failed)(a)
		received := make(chan string)
		go func() { m, _ := a.receive(); received <- m }()
		waits(a)
		start := time.Now()
		sends("c")(a)
		wantText(t, "CloseSend", a.soon("CloseSend", a.CloseSend), nil)
		wantText(t, "waited", time.Since(start), 0)
		time.Sleep(2 * time.Minute)
		wantText(t, "second", opsOf(a, 2), "a b c END")
		peer(2, "x", io.EOF)(a)
		wantText(t, "message", <-received, "x")
		ends(core.CodeOK)(a)
		a.wantOver(core.CodeOK)
	})
	synctest.Test(t, func(t *testing.T) { // a Send that fails for itself is retried too
		a := newApp(t, &stack{open: func(n int, s *stream) error {
			if n == 1 {
				s.onSend = func(string) error { return failed }
			}
			return nil
		}}, core.ShapeBidiStream, retry(2))
		sends("a", "b")(a)
		waits(a)
		wantText(t, "second", opsOf(a, 2), "a b")
		closes(a)
		a.wantOver(core.CodeCanceled)
	})
}

// A Send that was blocked in an attempt which has failed has been sent again by the next one.
func TestASendBlockedInADeadAttemptSucceeds(t *testing.T) {
	for name, result := range map[string]error{"EOF": io.EOF, "error": failed} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				a := newApp(t, &stack{open: func(n int, s *stream) error {
					if n == 1 {
						s.onSend = func(string) error { <-release; return result }
					}
					return nil
				}}, core.ShapeBidiStream, retry(3))
				sent := make(chan error, 1)
				go func() { sent <- a.Send(&text{"a"}) }()
				waits(a)
				peer(1, failed)(a)
				received := make(chan string)
				go func() { m, _ := a.receive(); received <- m }()
				waits(a)
				wantText(t, "second", opsOf(a, 2), "a")
				peer(2, "x")(a)
				wantText(t, "message", <-received, "x") // which commits the second
				close(release)
				wantText(t, "Send", a.soon("Send", func() error { return <-sent }), nil)
				sends("b")(a)
				wantText(t, "second", opsOf(a, 2), "a b")
				peer(2, io.EOF)(a)
				ends(core.CodeOK)(a)
				a.wantOver(core.CodeOK)
			})
		})
	}
}

// The replay runs in the chain's goroutine: whatever ends the stream must reach it there.
func TestTheEndReachesABlockedReplay(t *testing.T) {
	for name, test := range map[string]struct {
		end  step
		hook bool
	}{"Close": {closes, false}, "context": {cancels, false}, "Close, in a hook": {closes, true}, "context, in a hook": {cancels, true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				block := before(func(call *core.Call) {
					if test.hook && call.Attempt() == 2 {
						call.OnRequest(func(ctx context.Context, _ any) error { <-ctx.Done(); return ctx.Err() })
					}
				})
				a := newApp(t, &stack{open: func(n int, s *stream) error {
					if n == 2 && !test.hook {
						s.onSend = func(string) error { <-s.ctx.Done(); return io.EOF }
					}
					return nil
				}}, core.ShapeBidiStream, retry(2), block)
				sends("a")(a)
				peer(1, failed)(a)
				go func() { _ = a.Receive(&text{}) }()
				waits(a)
				test.end(a)
				a.wantOver(core.CodeCanceled)
			})
		})
	}
}

// A panic or a Goexit below the replay is in the chain's goroutine, and ends the stream as any other there.
func TestAPanicBelowTheReplay(t *testing.T) {
	for name, test := range map[string]struct {
		exit, hook bool
	}{"in Send": {false, false}, "exit in Send": {true, false}, "in a hook": {false, true}, "exit in a hook": {true, true}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				bad := func() error {
					if test.exit {
						runtime.Goexit()
					}
					panic("below")
				}
				a := newApp(t, &stack{open: func(n int, s *stream) error {
					if n == 2 && !test.hook {
						s.onSend = func(string) error { return bad() }
					}
					return nil
				}}, core.ShapeBidiStream, retry(2), before(func(call *core.Call) {
					if test.hook && call.Attempt() == 2 {
						call.OnRequest(func(context.Context, any) error { return bad() })
					}
				}))
				sends("a")(a)
				peer(1, failed)(a)
				returned, done := false, make(chan any, 1)
				go func() {
					defer func() { done <- recover() }()
					_ = a.Receive(&text{})
					returned = true
				}()
				value := <-done
				if p, ok := value.(*core.Panic); ok == test.exit || ok && p.Value != "below" || returned {
					t.Errorf("panicked with %v, returned: %v", value, returned)
				}
				ends(core.CodeInternal)(a)
				closes(a)
				for _, s := range a.streams {
					wantText(t, "closed", s.closed, 1)
				}
			})
		})
	}
}

// A hook outside that fails while attempts come and go ends the attempt that is open then.
func TestAFailureOfAHookOutsideEndsTheAttemptAtHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		a := newApp(t, &stack{}, core.ShapeBidiStream, before(func(call *core.Call) {
			call.OnRequest(func(context.Context, any) error { <-release; return &nativeError{core.CodeDataLoss, "hook"} })
		}), retry(3))
		sent := make(chan error, 1)
		go func() { sent <- a.Send(&text{"a"}) }()
		waits(a)
		peer(1, failed)(a)
		received := make(chan error, 1)
		go func() { _, err := a.receive(); received <- err }()
		waits(a)
		wantText(t, "attempts", a.opened(), 2)
		close(release)
		wantCode(t, "Send", a.soon("Send", func() error { return <-sent }), core.CodeDataLoss)
		wantCode(t, "Receive", a.soon("Receive", func() error { return <-received }), core.CodeDataLoss)
		a.wantOver(core.CodeDataLoss)
	})
}

// Past the bound a Send waits for the attempt that will be the last.
func TestSendPastTheBoundBetweenAttempts(t *testing.T) {
	big := strings.Repeat("b", 300<<10)
	for name, closing := range map[string]bool{"the next attempt": false, "Close": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, &stack{open: func(n int, _ *stream) error {
					if n > 1 {
						time.Sleep(time.Hour)
					}
					return nil
				}}, core.ShapeBidiStream, retry(2))
				sends("a")(a)
				peer(1, failed)(a)
				go func() { _ = a.Receive(&text{}) }()
				waits(a)
				sent := make(chan error, 1)
				go func() { sent <- a.Send(&text{big}) }()
				if waits(a); closing {
					closes(a)
					a.wantEdge("Send", <-sent, core.CodeCanceled)
					a.wantOver(core.CodeCanceled)
					return
				}
				wantText(t, "Send", a.soon("Send", func() error { return <-sent }), nil)
				wantText(t, "second", opsOf(a, 2), "a "+big)
				sends("c")(a)
				peer(2, failed)(a)
				waits(a)
				a.wantOver(core.CodeAborted) // it was the last
			})
		})
	}
}

func TestCloseBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, &stack{}, core.ShapeBidiStream, core.InterceptorFunc(
			func(ctx context.Context, call *core.Call, next core.Handler) error {
				attempt := call.NewAttempt()
				defer call.Adopt(attempt)
				_ = next(ctx, attempt)
				<-ctx.Done() // a long backoff
				return next(context.WithoutCancel(ctx), call.NewAttempt())
			}))
		sends("a")(a)
		peer(1, failed)(a)
		go func() { _ = a.Receive(&text{}) }()
		waits(a)
		closes(a)
		a.wantOver(core.CodeCanceled)
		wantText(t, "attempts", a.opened(), 1)
	})
}

// An interceptor that gives up on an attempt in a goroutine of its own and makes another has one attempt at a time.
func TestANewAttemptEndsTheOneBefore(t *testing.T) {
	for name, dawdle := range map[string]time.Duration{"parked": 0, "not yet open": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stray := make(chan error, 1)
				a := newApp(t, &stack{open: func(n int, _ *stream) error {
					if n == 1 {
						time.Sleep(dawdle)
					}
					return nil
				}}, core.ShapeBidiStream, core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
					first := call.NewAttempt()
					go func() { stray <- next(ctx, first) }()
					time.Sleep(time.Minute)
					return next(ctx, call.NewAttempt())
				}))
				sends("a")(a)
				received := make(chan string, 1)
				go func() { m, _ := a.receive(); received <- m }()
				time.Sleep(2 * time.Hour)
				wantCode(t, "the first", <-stray, core.CodeCanceled)
				wantText(t, "second", opsOf(a, 2), "a")
				peer(2, "x", io.EOF)(a)
				wantText(t, "message", <-received, "x")
				ends(core.CodeOK)(a)
				a.wantOver(core.CodeOK)
			})
		})
	}
}

func TestAnAttemptOfAStreamHasNoAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, &stack{}, core.ShapeBidiStream, retry(1), retry(1))
		_, err := a.receive()
		wantCode(t, "Receive", err, core.CodeFailedPrecondition, "attempt")
	})
}

// Under the race detector: one sends while another receives, attempts fail at any time, and someone closes.
func TestAttemptsOfAStreamUnderLoad(t *testing.T) {
	for i := range 200 {
		synctest.Test(t, func(t *testing.T) {
			var l log
			a := newApp(t, &stack{open: func(n int, s *stream) error {
				taken := 0
				s.onSend = func(string) error {
					if taken++; taken > i%7 && n < 4 {
						return []error{io.EOF, failed}[i%2]
					}
					return nil
				}
				go func() {
					time.Sleep(time.Duration(i%5) * time.Millisecond)
					if n < 4 {
						s.responses <- failed
						return
					}
					for range 10 {
						s.responses <- "x"
					}
					if i%3 != 0 {
						s.responses <- io.EOF
					}
				}()
				return nil
			}}, core.ShapeBidiStream, hooked(&l, "out"), retry(5), hooked(&log{}, "in"))
			var wg sync.WaitGroup
			wg.Go(func() {
				for range 10 {
					if a.Send(&text{"m"}) != nil {
						return
					}
					time.Sleep(time.Duration(i%3) * time.Millisecond)
				}
				_ = a.CloseSend()
			})
			wg.Go(func() {
				for range 10 {
					if a.Receive(&text{}) != nil {
						return
					}
				}
				if i%3 != 0 {
					if err := a.Receive(&text{}); !errors.Is(err, io.EOF) {
						t.Errorf("Receive: %v", err)
					}
				}
			})
			wg.Wait()
			_ = a.close()
			wantText(t, "over", a.Over(), true)
			if i%3 != 0 {
				wantText(t, "responses that the hook outside met", strings.Count(l.String(), "!"), 10)
			}
		})
	}
}
