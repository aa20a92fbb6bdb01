package core_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
)

var failed = &nativeError{core.CodeAborted, "failed"}

// step is what happens on a stream.
type step func(a *app)

func sends(texts ...string) step {
	return func(a *app) {
		for _, s := range texts {
			wantText(a.T, "Send of "+s, a.send(s), nil)
		}
		synctest.Wait() // what is recorded is not sent yet
	}
}

func peer(n int, responses ...any) step {
	return func(a *app) {
		for _, r := range responses {
			a.stream(n).responses <- r
		}
	}
}

func receives(messages ...string) step {
	return func(a *app) {
		for _, m := range messages {
			a.wantReceive(m, core.CodeOK)
		}
	}
}

// ends receives the end, again and again.
func ends(code core.Code) step {
	return func(a *app) {
		for range 3 {
			a.wantReceive("", code)
		}
	}
}

func closes(a *app) { wantText(a.T, "Close", a.close(), nil) }

func cancels(a *app) { a.cancel() }

func waits(*app) { synctest.Wait() }

func later(*app) { time.Sleep(time.Hour) }

func twice(s step) step { return func(a *app) { s(a); s(a) } }

// Over means over: next returns once, whatever ends the stream, and the application's later calls return the result.
func TestNextReturnsOnceWhateverEndsTheStream(t *testing.T) {
	bidi, client := core.ShapeBidiStream, core.ShapeClientStream
	for name, test := range map[string]struct {
		shape  core.Shape
		single bool
		steps  []step
		want   core.Code
	}{
		"EOF":                                   {bidi, false, []step{sends("a"), peer(1, "x", io.EOF), receives("x"), ends(core.CodeOK), closes}, core.CodeOK},
		"EOF without a message":                 {core.ShapeServerStream, false, []step{waits, peer(1, io.EOF), ends(core.CodeOK)}, core.CodeOK},
		"error":                                 {bidi, false, []step{sends("a"), peer(1, "x", failed), receives("x"), ends(core.CodeAborted), closes}, core.CodeAborted},
		"the one response, and its EOF":         {client, false, []step{sends("a", "b"), peer(1, "x", io.EOF), receives("x"), ends(core.CodeOK)}, core.CodeOK},
		"the one response alone":                {client, true, []step{sends("a", "b"), peer(1, "x"), receives("x"), ends(core.CodeOK)}, core.CodeOK},
		"the one response and Close":            {client, false, []step{sends("a"), peer(1, "x"), receives("x"), twice(closes), ends(core.CodeOK)}, core.CodeOK},
		"an error in place of the one response": {client, true, []step{sends("a"), peer(1, failed), ends(core.CodeAborted)}, core.CodeAborted},
		"the context, and nobody receives":      {bidi, false, []step{sends("a"), cancels, waits, ends(core.CodeCanceled), closes}, core.CodeCanceled},
		"the context, before anything":          {bidi, false, []step{cancels, waits, ends(core.CodeCanceled)}, core.CodeCanceled},
		"an early Close":                        {bidi, false, []step{sends("a"), peer(1, "x"), receives("x"), twice(closes), ends(core.CodeCanceled)}, core.CodeCanceled},
		"an early Close before anything":        {bidi, false, []step{waits, closes, ends(core.CodeCanceled)}, core.CodeCanceled},
		"Send fails": {bidi, false, []step{waits, func(a *app) {
			a.stream(1).onSend = func(string) error { return failed }
			a.wantEdge("Send", a.send("a"), core.CodeAborted)
			a.wantEdge("a later Send", a.send("b"), core.CodeAborted)
		}, ends(core.CodeAborted)}, core.CodeAborted},
		"Send fails with EOF, Receive knows why": {bidi, false, []step{waits, func(a *app) {
			a.stream(1).onSend = func(string) error { return io.EOF }
			wantText(a.T, "Send", a.send("a"), io.EOF)
		}, peer(1, failed), ends(core.CodeAborted)}, core.CodeAborted},
		"CloseSend fails": {bidi, false, []step{waits, func(a *app) {
			a.stream(1).onSend = func(string) error { return failed }
			wantText(a.T, "CloseSend", a.soon("CloseSend", a.CloseSend), nil)
		}, ends(core.CodeAborted)}, core.CodeAborted},
		"the stack knows of another call, and of nothing": {bidi, false, []step{sends("a"), func(a *app) {
			a.Expire(&core.Call{}, failed)
			a.Expire(&a.call.Call, nil)
		}, waits, peer(1, io.EOF), ends(core.CodeOK)}, core.CodeOK},
		"the stack knows it by itself": {bidi, false, []step{sends("a"), func(a *app) { a.Expire(&a.call.Call, failed) }, waits, ends(core.CodeAborted)}, core.CodeAborted},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, &stack{single: test.single}, test.shape)
				for _, s := range test.steps {
					s(a)
				}
				a.wantOver(test.want)
				if err := a.send("late"); test.want == core.CodeOK {
					wantText(t, "Send after the end", err, io.EOF)
				} else {
					a.wantEdge("Send after the end", err, test.want)
				}
				wantText(t, "CloseSend after the end", a.soon("CloseSend", a.CloseSend), nil)
			})
		})
	}
}

// A chain of none, of one and of many do the same.
func TestAClientStreamWorksWithAChainOfAnyLength(t *testing.T) {
	for n := range 4 {
		synctest.Test(t, func(t *testing.T) {
			var l log
			links := make([]core.Interceptor, 0, n)
			for range n {
				links = append(links, tracer(&l, "i"))
			}
			a := newApp(t, &stack{}, core.ShapeBidiStream, links...)
			wantText(t, "WaitOpen", a.soon("WaitOpen", a.WaitOpen), nil)
			for _, s := range []step{sends("a", "b"), peer(1, "x", "y", io.EOF), receives("x", "y")} {
				s(a)
			}
			wantText(t, "Send(nil)", a.soon("Send(nil)", func() error { return a.Send(nil) }), nil)
			wantText(t, "CloseSend", a.soon("CloseSend", a.CloseSend), nil)
			wantText(t, "what the peer got", a.stream(1).sent(), "a b FLUSH END")
			wantText(t, "way in", l.String(), strings.TrimSpace(strings.Repeat("i> ", n)))
			ends(core.CodeOK)(a)
			a.wantOver(core.CodeOK)
			wantText(t, "way in and out", l.String(), strings.TrimSpace(strings.Repeat("i> ", n)+strings.Repeat("<i ", n)))
		})
	}
}

// The call that ends the stream waits for the chain, and returns what it makes of the end.
func TestTheApplicationGetsWhatTheChainReturns(t *testing.T) {
	rewrite := func(to error) core.Interceptor {
		return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			_ = next(ctx, call)
			time.Sleep(time.Hour)
			return to
		})
	}
	for name, test := range map[string]struct {
		end  step
		to   error
		want core.Code
	}{
		"an error of a success":         {peer(1, io.EOF), failed, core.CodeAborted},
		"a success of an error":         {peer(1, failed), nil, core.CodeOK},
		"another error":                 {peer(1, failed), &nativeError{core.CodeDataLoss, ""}, core.CodeDataLoss},
		"a success of a canceled call":  {cancels, nil, core.CodeOK},
		"an error of a canceled call":   {cancels, failed, core.CodeAborted},
		"an error of an early Close":    {func(a *app) { a.wantEdge("Close", a.close(), core.CodeAborted); closes(a) }, failed, core.CodeAborted},
		"a success of an early Close":   {closes, nil, core.CodeOK},
		"Canceled of an early Close":    {closes, &nativeError{core.CodeCanceled, ""}, core.CodeCanceled},
		"an uncoded error of a success": {peer(1, io.EOF), errors.New("private"), core.CodeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, &stack{}, core.ShapeBidiStream, rewrite(test.to))
				waits(a)
				test.end(a)
				ends(test.want)(a)
				a.wantOver(test.want)
			})
		})
	}
}

// The Receive in flight when the context ends hears of it anyway, and may bring a good message first.
func TestAReceiveInFlightOwnsTheEndByContext(t *testing.T) {
	for _, good := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			a := newApp(t, &stack{open: func(_ int, s *stream) error {
				s.onReceive = func(msg any) error {
					<-s.ctx.Done()
					time.Sleep(time.Second)
					if good {
						msg.(*text).s = "good"
						return nil
					}
					return s.late()
				}
				return nil
			}}, core.ShapeBidiStream)
			time.AfterFunc(time.Second, a.cancel)
			if good {
				a.wantReceive("good", core.CodeOK)
			}
			ends(core.CodeCanceled)(a)
			a.wantOver(core.CodeCanceled)
		})
	}
}

// What comes after the end was settled is too late.
func TestAMessageAfterCloseIsTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, &stack{open: func(_ int, s *stream) error {
			s.onReceive = func(msg any) error {
				time.Sleep(time.Hour)
				msg.(*text).s = "late"
				return nil
			}
			return nil
		}}, core.ShapeBidiStream)
		received := make(chan error, 1)
		go func() { _, err := a.receive(); received <- err }()
		waits(a)
		closes(a)
		a.wantEdge("Receive", <-received, core.CodeCanceled)
		a.wantOver(core.CodeCanceled)
	})
}

func TestReceiveAndSendInFlightComeBackWithTheEnd(t *testing.T) {
	for name, end := range map[string]step{"Close": closes, "context": cancels, "Expire": func(a *app) { a.Expire(&a.call.Call, failed) }} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, &stack{open: func(_ int, s *stream) error {
					s.onSend = func(string) error { <-s.ctx.Done(); return io.EOF }
					return nil
				}}, core.ShapeBidiStream)
				results := make(chan error, 2)
				if name != "Expire" { // there the native Receive knows it too
					go func() { _, err := a.receive(); results <- err }()
				} else {
					results <- failed
				}
				go func() { results <- a.send("blocked") }()
				waits(a)
				end(a)
				for range 2 {
					if err := a.soon("what was in flight", func() error { return <-results }); err == nil {
						t.Error("a success")
					}
				}
				code := core.CodeCanceled
				if name == "Expire" {
					code = core.CodeAborted
				}
				a.wantOver(code)
			})
		})
	}
}

// A context that an interceptor made ends the stream too, and its deferred cancel does not.
func TestTheContextOfAnInterceptorIsThatOfTheStream(t *testing.T) {
	timeout := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return next(ctx, call)
	})
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, &stack{}, core.ShapeBidiStream, timeout)
		for _, s := range []step{sends("a"), peer(1, "x", io.EOF), receives("x"), ends(core.CodeOK)} {
			s(a)
		}
		a.wantOver(core.CodeOK)
	})
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, &stack{}, core.ShapeBidiStream, timeout)
		ends(core.CodeDeadlineExceeded)(a)
		a.wantOver(core.CodeDeadlineExceeded)
	})
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, &stack{}, core.ShapeBidiStream, timeout)
		time.Sleep(2 * time.Minute) // nobody receives
		a.wantOver(core.CodeDeadlineExceeded)
		ends(core.CodeDeadlineExceeded)(a)
	})
}

func TestAStreamThatDoesNotOpen(t *testing.T) {
	refuse := &stack{open: func(int, *stream) error { return failed }}
	never := core.InterceptorFunc(func(context.Context, *core.Call, core.Handler) error { return failed })
	for name, chain := range map[string][]core.Interceptor{"refused by the stack": nil, "refused by an interceptor": {never}} {
		synctest.Test(t, func(t *testing.T) {
			a := newApp(t, refuse, core.ShapeBidiStream, chain...)
			for what, f := range map[string]func() error{
				"WaitOpen":  a.WaitOpen,
				"Send":      func() error { return a.Send(&text{"a"}) },
				"CloseSend": a.CloseSend,
				"Receive":   func() error { return a.Receive(&text{}) },
				"Header":    a.Header,
				"Close":     a.Close,
			} {
				for range 2 {
					a.wantEdge(name+": "+what, a.soon(what, f), core.CodeAborted)
				}
			}
			refuse.streams = nil // it was not opened
			a.wantOver(core.CodeAborted)
		})
	}
	synctest.Test(t, func(t *testing.T) { // one that does not hear of Close is closed once it is open
		a := newApp(t, &stack{open: func(int, *stream) error { time.Sleep(time.Hour); return nil }}, core.ShapeBidiStream)
		closes(a)
		a.wantOver(core.CodeCanceled)
	})
	synctest.Test(t, func(t *testing.T) { // a slow open hears of Close
		a := newApp(t, &stack{open: func(_ int, s *stream) error { <-s.ctx.Done(); return s.late() }}, core.ShapeBidiStream)
		waits(a)
		if err := a.close(); core.CodeOf(err) != core.CodeCanceled && err != nil {
			t.Errorf("Close: %v", err)
		}
		a.streams = nil
		a.wantOver(core.CodeCanceled)
	})
}

// A Send before the stream is open waits for it, or is recorded if there may be attempts.
func TestASendBeforeTheStreamIsOpen(t *testing.T) {
	for name, test := range map[string]struct {
		chain []core.Interceptor
		wait  time.Duration
	}{"waits": {nil, time.Hour}, "is recorded": {[]core.Interceptor{retry(2)}, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, &stack{open: func(int, *stream) error { time.Sleep(time.Hour); return nil }}, core.ShapeBidiStream, test.chain...)
				start := time.Now()
				sends("a")(a)
				wantText(t, "waited", time.Since(start), test.wait)
				wantText(t, "WaitOpen", a.soon("WaitOpen", a.WaitOpen), nil)
				sends("b")(a)
				wantText(t, "what the peer got", a.stream(1).sent(), "a b")
				closes(a)
				a.wantOver(core.CodeCanceled)
			})
		})
	}
}

// answer is an interceptor that answers by itself.
func answer(msg any) core.Interceptor {
	return core.InterceptorFunc(func(_ context.Context, call *core.Call, _ core.Handler) error {
		if msg == nil {
			return nil
		}
		return call.SetResponse(msg)
	})
}

func TestAnInterceptorMayAnswerAClientStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, &stack{single: true}, core.ShapeClientStream, answer(&text{"answer"}))
		wantText(t, "WaitOpen", a.soon("WaitOpen", a.WaitOpen), nil)
		wantText(t, "Send", a.send("a"), io.EOF)
		wantText(t, "CloseSend", a.soon("CloseSend", a.CloseSend), nil)
		receives("answer")(a)
		ends(core.CodeOK)(a)
		closes(a)
		wantText(t, "streams opened", a.opened(), 0)
		a.wantOver(core.CodeOK)
	})
	synctest.Test(t, func(t *testing.T) { // also after next has failed
		a := newApp(t, &stack{single: true}, core.ShapeClientStream, core.InterceptorFunc(
			func(ctx context.Context, call *core.Call, next core.Handler) error {
				if err := next(ctx, call); core.CodeOf(err) != core.CodeAborted {
					t.Errorf("next: %v", err)
				}
				return call.SetResponse(&text{"answer"})
			}))
		for _, s := range []step{sends("a"), peer(1, failed), receives("answer"), ends(core.CodeOK)} {
			s(a)
		}
		a.wantOver(core.CodeOK)
	})
	synctest.Test(t, func(t *testing.T) { // a success without a response is none
		a := newApp(t, &stack{}, core.ShapeClientStream, answer(nil))
		ends(core.CodeInternal)(a)
		_, err := a.receive()
		wantCode(t, "Receive", err, core.CodeInternal, "SetResponse", searchMethod.String())
	})
	synctest.Test(t, func(t *testing.T) { // an empty stream of responses is fine
		a := newApp(t, &stack{}, core.ShapeServerStream, answer(nil))
		ends(core.CodeOK)(a)
		a.wantOver(core.CodeOK)
	})
	synctest.Test(t, func(t *testing.T) { // the wrong type stays an error
		a := newApp(t, &stack{copied: func(any, any) error { return failed }}, core.ShapeClientStream, answer(&text{}))
		ends(core.CodeAborted)(a)
	})
}

// A panic of the chain is raised in the application's call, once, with the stack that it had.
func TestAPanicOfTheChainIsRaisedInTheApplicationsCall(t *testing.T) {
	inner := func(value any) core.Interceptor {
		return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			_ = next(ctx, call)
			panic(value)
		})
	}
	cause := errors.New("cause")
	for name, call := range map[string]func(a *app) error{
		"Receive":   func(a *app) error { return a.Receive(&text{}) },
		"Send":      func(a *app) error { return a.Send(&text{"b"}) },
		"CloseSend": func(a *app) error { return a.CloseSend() },
		"Close":     func(a *app) error { return a.Close() },
		"Header":    func(a *app) error { return a.Header() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, &stack{}, core.ShapeBidiStream, inner(cause))
				a.cancel()
				waits(a)
				value := caught(func() { _ = call(a) })
				p, ok := value.(*core.Panic)
				if !ok || !is(p.Value, cause) || !errors.Is(p, cause) || !strings.Contains(string(p.Stack), "TestAPanicOfTheChain") ||
					!strings.Contains(p.Error(), "cause") {
					t.Errorf("panicked with %v", value)
				}
				a.wantReceive("", core.CodeInternal)
				_, err := a.receive()
				if strings.Contains(err.Error(), "cause") {
					t.Errorf("the error shows the panic: %v", err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) { // net/http knows its own by identity
		a := newApp(t, &stack{}, core.ShapeBidiStream, inner(http.ErrAbortHandler))
		a.cancel()
		if value := caught(func() { _ = a.Receive(&text{}) }); value != any(http.ErrAbortHandler) {
			t.Errorf("panicked with %v", value)
		}
	})
	synctest.Test(t, func(t *testing.T) { // also that of the code which makes the error fit for the application
		a := newApp(t, &stack{edge: func(err error) error {
			if core.CodeOf(err) == core.CodeCanceled {
				panic(cause) // as the Error method of a nil pointer does
			}
			return &edgeError{err}
		}}, core.ShapeBidiStream)
		a.cancel()
		if p, ok := caught(func() { _ = a.Receive(&text{}) }).(*core.Panic); !ok || !is(p.Value, cause) {
			t.Errorf("panicked with %v", p)
		}
	})
}

func TestGoexitOfTheChainIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, &stack{}, core.ShapeBidiStream, core.InterceptorFunc(
			func(ctx context.Context, call *core.Call, next core.Handler) error {
				_ = next(ctx, call)
				runtime.Goexit()
				return nil
			}))
		a.cancel()
		returned, exited := false, make(chan struct{})
		go func() {
			defer close(exited)
			_ = a.Receive(&text{})
			returned = true
		}()
		<-exited
		if returned {
			t.Error("Receive returned")
		}
		a.wantReceive("", core.CodeInternal)
	})
}

// A panic or a Goexit in the application's own goroutine must not leave the chain behind.
func TestTheStreamStillEndsAfterAPanicBelowTheApplicationsCall(t *testing.T) {
	panics := func(string) error { panic("codec") }
	for name, test := range map[string]struct {
		prepare func(s *stream)
		call    func(a *app)
	}{
		"Receive":           {func(s *stream) { s.onReceive = func(any) error { panic("codec") } }, func(a *app) { _ = a.Receive(&text{}) }},
		"Goexit in Receive": {func(s *stream) { s.onReceive = func(any) error { runtime.Goexit(); return nil } }, func(a *app) { _ = a.Receive(&text{}) }},
		"Send":              {func(s *stream) { s.onSend = panics }, func(a *app) { _ = a.Send(&text{}) }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, &stack{open: func(_ int, s *stream) error { test.prepare(s); return nil }}, core.ShapeBidiStream)
				done := make(chan any)
				go func() {
					defer close(done)
					defer func() { done <- recover() }()
					test.call(a)
				}()
				if value := <-done; value != nil && value != "codec" {
					t.Errorf("panicked with %v", value)
				}
				<-done
				a.cancel()
				a.wantOver(core.CodeCanceled)
				if !a.Over() {
					_ = a.close() // or it leaks
				}
			})
		})
	}
}

// An interceptor may give up on a next in a goroutine of its own: that next comes back, and the stream is canceled.
func TestAStrayNextComesBack(t *testing.T) {
	for name, wait := range map[string]time.Duration{"parked": time.Minute, "before it is open": 0} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				stray := make(chan error, 1)
				a := newApp(t, &stack{open: func(_ int, s *stream) error {
					if wait == 0 {
						<-s.ctx.Done()
					}
					return nil
				}}, core.ShapeBidiStream, core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
					go func() { stray <- next(ctx, call) }()
					time.Sleep(time.Minute)
					return failed
				}))
				ends(core.CodeAborted)(a)
				wantCode(t, "the stray next", a.soon("the stray next", func() error { return <-stray }), core.CodeCanceled)
				a.wantOver(core.CodeAborted)
			})
		})
	}
}

// What the interceptor made of it stays, whenever the stray next comes back.
func TestAStrayNextDoesNotTakeTheAnswerBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stray := make(chan error, 1)
		a := newApp(t, &stack{single: true}, core.ShapeClientStream, core.InterceptorFunc(
			func(ctx context.Context, call *core.Call, next core.Handler) error {
				go func() { stray <- next(ctx, call) }()
				time.Sleep(time.Minute)
				return call.SetResponse(&text{"answer"})
			}))
		sends("a")(a)
		time.Sleep(time.Hour)
		wantCode(t, "the stray next", <-stray, core.CodeCanceled)
		receives("answer")(a)
		ends(core.CodeOK)(a)
	})
}

func TestHooksOfAClientStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l log
		a := newApp(t, &stack{}, core.ShapeBidiStream, hooked(&l, "1"), hooked(&l, "2"))
		for _, s := range []step{sends("a"), peer(1, "x", io.EOF), receives("x")} {
			s(a)
		}
		wantText(t, "Send(nil)", a.Send(nil), nil)
		wantText(t, "CloseSend", a.CloseSend(), nil)
		ends(core.CodeOK)(a)
		wantText(t, "Send after the end", a.send("late"), io.EOF)
		wantText(t, "hooks", l.String(), "1?a 2?a 2!x 1!x")
		a.wantOver(core.CodeOK)
	})
}

// The first failure of a hook sticks: the stream ends with it.
func TestAFailureOfAHookEndsTheStream(t *testing.T) {
	for _, test := range []struct {
		name    string
		request bool
		panics  bool
	}{{"request", true, false}, {"response", false, false}, {"request panics", true, true}, {"response panics", false, true}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hook := func(context.Context, any) error {
					if test.panics {
						panic("hook")
					}
					return failed
				}
				a := newApp(t, &stack{}, core.ShapeBidiStream, before(func(call *core.Call) {
					if test.request {
						call.OnRequest(hook)
					} else {
						call.OnResponse(hook)
					}
				}))
				waits(a)
				peer(1, "x")(a)
				var err error
				value := caught(func() {
					if test.request {
						err = a.Send(&text{"a"})
					} else {
						err = a.Receive(&text{})
					}
				})
				if test.panics {
					if p, ok := value.(*core.Panic); !ok || p.Value != "hook" || !strings.Contains(string(p.Stack), "TestAFailureOfAHook") {
						t.Errorf("panicked with %v", value)
					}
					a.wantReceive("", core.CodeInternal)
					return
				}
				a.wantEdge("the call", err, core.CodeAborted)
				a.wantEdge("a later Send", a.send("b"), core.CodeAborted)
				ends(core.CodeAborted)(a)
				a.wantOver(core.CodeAborted)
			})
		})
	}
}

// A panic of a hook is carried into the chain, where an interceptor may recover it.
func TestAnInterceptorMayRecoverThePanicOfAHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		recovering := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) (err error) {
			defer func() {
				if p, ok := recover().(*core.Panic); ok && p.Value == "hook" {
					err = failed
				}
			}()
			return next(ctx, call)
		})
		a := newApp(t, &stack{}, core.ShapeBidiStream, recovering, before(func(call *core.Call) {
			call.OnRequest(func(context.Context, any) error { panic("hook") })
		}))
		a.wantEdge("Send", a.send("a"), core.CodeAborted)
		a.wantOver(core.CodeAborted)
	})
}

// waiting is an interceptor whose hooks wait for the end of their context.
func waiting(request bool) core.Interceptor {
	return before(func(call *core.Call) {
		hook := func(ctx context.Context, _ any) error { <-ctx.Done(); return ctx.Err() }
		if request {
			call.OnRequest(hook)
		} else {
			call.OnResponse(hook)
		}
	})
}

// The context of a hook ends with the stream, so that a hook that waits does not hold it up, nor change how it ended.
func TestAHookThatWaitsDoesNotHoldUpTheEnd(t *testing.T) {
	limited := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		return next(ctx, call)
	})
	patient := before(func(call *core.Call) {
		call.OnResponse(func(ctx context.Context, _ any) error { <-ctx.Done(); return nil })
	})
	sending := func(a *app) { go func() { _ = a.Send(&text{"a"}) }(); synctest.Wait() }
	receiving := func(a *app) {
		synctest.Wait()
		a.stream(1).responses <- "x"
		go func() { _ = a.Receive(&text{}) }()
		synctest.Wait()
	}
	for name, test := range map[string]struct {
		request bool
		start   step
		end     []step
		inner   []core.Interceptor
		want    core.Code
	}{
		"Close beside Send":                   {true, sending, []step{closes}, nil, core.CodeCanceled},
		"Close beside Receive":                {false, receiving, []step{closes}, nil, core.CodeCanceled},
		"the context beside Send":             {true, sending, []step{cancels}, nil, core.CodeCanceled},
		"the context beside Receive":          {false, receiving, []step{cancels}, nil, core.CodeCanceled},
		"EOF beside Send":                     {true, sending, []step{peer(1, io.EOF), ends(core.CodeOK)}, nil, core.CodeOK},
		"an error beside Send":                {true, sending, []step{peer(1, failed), ends(core.CodeAborted)}, nil, core.CodeAborted},
		"an inner deadline, in Send":          {true, sending, []step{later}, []core.Interceptor{limited}, core.CodeDeadlineExceeded},
		"an inner deadline, in Receive":       {false, receiving, []step{later}, []core.Interceptor{limited}, core.CodeDeadlineExceeded},
		"an attempt's deadline, in Receive":   {false, receiving, []step{later}, []core.Interceptor{retry(1), limited}, core.CodeDeadlineExceeded},
		"Close beside Receive, in an attempt": {false, receiving, []step{closes}, []core.Interceptor{retry(1)}, core.CodeCanceled},
		"Close beside Send, before attempts":  {true, sending, []step{closes}, []core.Interceptor{retry(1)}, core.CodeCanceled},
		"Close beside a hook of an attempt":   {false, receiving, []step{closes}, []core.Interceptor{retry(1), patient}, core.CodeCanceled},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newApp(t, &stack{}, core.ShapeBidiStream, append([]core.Interceptor{waiting(test.request)}, test.inner...)...)
				test.start(a)
				for _, s := range test.end {
					s(a)
				}
				a.wantOver(test.want)
				ends(test.want)(a)
			})
		})
	}
}

// A stack may learn that a stream is dead before the stream is handed over.
func TestExpireBeforeTheStreamIsParkedIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &stack{}
		var a *app
		started := make(chan struct{})
		st.open = func(_ int, s *stream) error {
			<-started
			a.Expire(&s.call.Call, failed)
			return nil
		}
		a = newApp(t, st, core.ShapeBidiStream)
		close(started)
		a.wantOver(core.CodeAborted)
		_ = a.close()
	})
}

func TestHeaderWaitsForTheHeaderOrTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newApp(t, &stack{}, core.ShapeBidiStream)
		waits(a)
		a.stream(1).header <- true
		wantText(t, "Header", a.soon("Header", a.Header), nil)
		time.AfterFunc(time.Minute, a.cancel)
		wantText(t, "Header", a.soon("Header", a.Header), nil)
		a.wantOver(core.CodeCanceled)
		a.wantEdge("Header after the end", a.Header(), core.CodeCanceled)
	})
}
