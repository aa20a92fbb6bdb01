package timeout_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/timeout"
	"github.com/rpcweft/weft/rpctest"
)

func must(limit time.Duration, opts *timeout.Options) core.Interceptor {
	i, err := timeout.New(limit, opts)
	if err != nil {
		panic(err)
	}
	return i
}

// bubble runs test for each path and shape, each in a bubble of its own, whose end shows that nothing is left.
func bubble(t *testing.T, o rpctest.Options, test func(t *testing.T, c *rpctest.Client)) {
	t.Helper()
	shapes := o.Shapes
	if shapes == nil {
		shapes = rpctest.Shapes()
	}
	for _, path := range rpctest.Paths() {
		for _, shape := range shapes {
			if path.Can(shape) {
				t.Run(path.String()+"/"+shape.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := rpctest.NewServers(t, &o)
						defer s.Close()
						test(t, s.Client(path, shape))
					})
				})
			}
		}
	}
}

func took(t *testing.T, want time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if got := time.Since(start); got != want {
		t.Errorf("it took %v, want %v", got, want)
	}
}

// A peer of ours has a timeout for unary calls on clients alone.
func TestTheLimitHoldsOnBothSidesInAllShapes(t *testing.T) {
	limit := must(time.Minute, nil)
	for name, o := range map[string]rpctest.Options{"server": {Server: []core.Interceptor{limit}}, "client": {Client: []core.Interceptor{limit}}} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan error, 1)
			o.Cases = map[string]rpctest.Case{"wait": func(ctx context.Context, _ *rpctest.Input) (string, error) {
				<-ctx.Done()
				ended <- ctx.Err()
				return "", ctx.Err()
			}}
			bubble(t, o, func(t *testing.T, c *rpctest.Client) {
				ended = make(chan error, 1)
				took(t, 59*time.Second, func() { c.Call(t.Context(), "sleep:59s").Want(t, core.CodeOK, "sleep:59s") })
				took(t, time.Minute, func() { c.Call(t.Context(), "wait").Want(t, core.CodeDeadlineExceeded, "") })
				if err := <-ended; err == nil {
					t.Error("the handler's context has not ended")
				}
				// Never longer than what is there already.
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				took(t, time.Second, func() { c.Call(ctx, "sleep:1h").Want(t, core.CodeDeadlineExceeded, "") })
			})
		})
	}
}

func TestTheApplicationOfAClientCanTellTheLimitFromItsOwnDeadline(t *testing.T) {
	bubble(t, rpctest.Options{Client: []core.Interceptor{must(time.Minute, nil)}}, func(t *testing.T, c *rpctest.Client) {
		if res := c.Call(t.Context(), "sleep:1h"); !stderrors.Is(res.Err, timeout.ErrTimeout) {
			t.Errorf("got %v, want ErrTimeout in its tree", res.Err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if res := c.Call(ctx, "sleep:1h"); stderrors.Is(res.Err, timeout.ErrTimeout) {
			t.Errorf("got %v, which is not of the limit", res.Err)
		}
	})
}

func TestAMessageLimitLetsAStreamLiveAsLongAsSomethingHappens(t *testing.T) {
	limit := must(time.Minute, &timeout.Options{PerMessage: true})
	cases := map[string]rpctest.Case{"drip": func(ctx context.Context, in *rpctest.Input) (string, error) {
		for range 10 {
			select {
			case <-time.After(50 * time.Second):
			case <-ctx.Done():
				return "", ctx.Err()
			}
			if err := in.Send("."); err != nil {
				return "", err
			}
		}
		<-ctx.Done()
		return "", ctx.Err()
	}}
	for name, o := range map[string]rpctest.Options{"server": {Server: []core.Interceptor{limit}}, "client": {Client: []core.Interceptor{limit}}} {
		t.Run(name, func(t *testing.T) {
			o.Cases = cases
			o.Shapes = []core.Shape{core.ShapeServerStream, core.ShapeBidiStream}
			bubble(t, o, func(t *testing.T, c *rpctest.Client) {
				took(t, 560*time.Second, func() {
					res := c.Call(t.Context(), "drip")
					res.Want(t, core.CodeDeadlineExceeded, "..........")
					if name == "client" && !stderrors.Is(res.Err, timeout.ErrTimeout) {
						t.Errorf("got %v, want ErrTimeout in its tree", res.Err)
					}
				})
			})
			o.Shapes = []core.Shape{core.ShapeUnary, core.ShapeClientStream}
			bubble(t, o, func(t *testing.T, c *rpctest.Client) {
				if c.Path.HTTP == 1 && c.Shape == core.ShapeClientStream && name == "client" {
					return // the server would not hear of it: docs/compatibility.md
				}
				took(t, time.Minute, func() { c.Call(t.Context(), "sleep:1h").Want(t, core.CodeDeadlineExceeded, "") })
			})
		})
	}
}

// Neither stack can interrupt a receive for the sake of a context that an interceptor made.
func TestALimitOfAServerEndsAHandlerThatWaitsForItsClient(t *testing.T) {
	o := rpctest.Options{Server: []core.Interceptor{must(time.Minute, nil)}, Shapes: []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}}
	bubble(t, o, func(t *testing.T, c *rpctest.Client) {
		if c.Path.HTTP == 1 {
			return // net/http wants the whole request before it ends the response
		}
		s, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send("hi")
		if c.Shape == core.ShapeBidiStream {
			if got, err := s.Receive(); got != "hi" || err != nil {
				t.Fatal(got, err)
			}
			took(t, time.Minute, func() {
				if _, err := s.Receive(); core.CodeOf(err) != core.CodeDeadlineExceeded {
					t.Errorf("a client that keeps quiet: %v", err)
				}
			})
			_ = s.Close()
			return
		}
		time.Sleep(2 * time.Minute)
		s.Drain().Want(t, core.CodeDeadlineExceeded, "")
	})
}

// fake runs an RPC of a minute's limit without a stack.
func fake(t *testing.T, side core.Side, invoke func(ctx context.Context) error) (err error) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		call := rpctest.Call(rpctest.Fake{Side: side, Invoke: func(ctx context.Context, _ *core.Call) error { return invoke(ctx) }, Responses: []any{&rpctest.Response{}}})
		err = call.Run(t.Context(), must(time.Minute, nil))
	})
	return err
}

func TestWhatAHandlerReturnsTooLate(t *testing.T) {
	for name, one := range map[string]struct {
		side core.Side
		late error
		want core.Code
	}{
		// Many handlers of streams return nil at the end of their context: half a stream must not be a success.
		"a success":                     {core.SideServer, nil, core.CodeDeadlineExceeded},
		"an error of its own":           {core.SideServer, errors.NotFound("no"), core.CodeNotFound},
		"an Unknown of its own":         {core.SideServer, errors.Unknown("no"), core.CodeUnknown},
		"an error of a library":         {core.SideServer, stderrors.New("i/o timeout"), core.CodeDeadlineExceeded},
		"a cancelled call of its own":   {core.SideServer, errors.Canceled("no"), core.CodeDeadlineExceeded},
		"a response that a client has":  {core.SideClient, nil, core.CodeOK},
		"a client's error with a code":  {core.SideClient, errors.Aborted("no"), core.CodeAborted},
		"a client's own context's end":  {core.SideClient, context.DeadlineExceeded, core.CodeDeadlineExceeded},
		"a client's canceled transport": {core.SideClient, context.Canceled, core.CodeDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			err := fake(t, one.side, func(ctx context.Context) error { <-ctx.Done(); return one.late })
			if got := core.CodeOf(err); got != one.want {
				t.Errorf("got %v, want %s", err, one.want)
			}
			if err := fake(t, one.side, func(context.Context) error { return one.late }); err != one.late { //nolint:errorlint // it must pass as it is
				t.Errorf("in time it became %v", err)
			}
		})
	}
}

// Deadlines travel in whole milliseconds, so that a server's clock may be the first to say that the time is over.
func TestAServerMayBeQuickerToSayThatTheTimeIsOver(t *testing.T) {
	for early, want := range map[time.Duration]bool{time.Microsecond: true, time.Millisecond: true, 2 * time.Millisecond: false} {
		err := fake(t, core.SideClient, func(context.Context) error {
			time.Sleep(time.Minute - early)
			return errors.DeadlineExceeded("the server's clock")
		})
		if got := stderrors.Is(err, timeout.ErrTimeout); got != want || core.CodeOf(err) != core.CodeDeadlineExceeded {
			t.Errorf("%v before: %v is of the limit: %t", early, err, got)
		}
	}
}

func TestAPanicStopsTheClock(t *testing.T) {
	for _, perMessage := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("the panic is lost")
				}
			}()
			call := rpctest.Call(rpctest.Fake{Shape: core.ShapeServerStream, Invoke: func(context.Context, *core.Call) error { panic("no") }})
			_ = call.Run(t.Context(), must(time.Hour, &timeout.Options{PerMessage: perMessage}))
		})
	}
}

func TestLimitsOfMethodsAndServices(t *testing.T) {
	limits := must(time.Hour, &timeout.Options{Methods: map[string]time.Duration{
		"a.A": time.Minute, "/a.A/Fast": time.Second, "/a.A/Watch": 0,
	}})
	for method, want := range map[string]time.Duration{"/a.A/Any": time.Minute, "/a.A/Fast": time.Second, "/a.A/Watch": 0, "/b.B/Any": time.Hour} {
		var got time.Duration
		call := rpctest.Call(rpctest.Fake{Method: method, Invoke: func(ctx context.Context, _ *core.Call) error {
			if deadline, ok := ctx.Deadline(); ok {
				got = time.Until(deadline).Round(time.Second)
			}
			return nil
		}})
		if err := call.Run(t.Context(), limits); err != nil || got != want {
			t.Errorf("%s has %v, want %v: %v", method, got, want, err)
		}
	}
}

func TestBadConfigurationFailsAtConstruction(t *testing.T) {
	for want, f := range map[string]func() (core.Interceptor, error){
		"is negative":       func() (core.Interceptor, error) { return timeout.New(-1, nil) },
		"there is no limit": func() (core.Interceptor, error) { return timeout.New(0, nil) },
		`"/a.A/M" is neg`:   func() (core.Interceptor, error) { return timeout.New(1, methods("/a.A/M", -1)) },
		`has "/a.A"`:        func() (core.Interceptor, error) { return timeout.New(1, methods("/a.A", 1)) },
		`has ""`:            func() (core.Interceptor, error) { return timeout.New(1, methods("", 1)) },
		`has "a.A/M"`:       func() (core.Interceptor, error) { return timeout.New(1, methods("a.A/M", 1)) },
	} {
		if i, err := f(); i != nil || err == nil || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("got %v, %v, want an error with %s", i, err, want)
		}
	}
}

func methods(name string, limit time.Duration) *timeout.Options {
	return &timeout.Options{Methods: map[string]time.Duration{name: limit}}
}

func measure(chain *core.Chain, shape core.Shape, messages int) float64 {
	fake := rpctest.Fake{Shape: shape}
	for range messages {
		fake.Responses = append(fake.Responses, &rpctest.Response{})
	}
	return testing.AllocsPerRun(200, func() { _ = chain.Handler()(context.Background(), &rpctest.Call(fake).Call) })
}

// What a limit costs is what context.WithTimeout costs, nothing of ours.
func TestCosts(t *testing.T) {
	bare := measure(core.NewChain(), core.ShapeUnary, 0)
	std := measure(core.NewChain(core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		ctx, cancel := context.WithTimeout(ctx, time.Hour)
		defer cancel()
		return next(ctx, call)
	})), core.ShapeUnary, 0)
	if got := measure(core.NewChain(must(time.Hour, nil)), core.ShapeUnary, 0); got > std {
		t.Errorf("a limit costs %v allocations, context.WithTimeout alone %v", got-bare, std-bare)
	}
	off := core.NewChain(must(0, methods("other.Service", time.Hour)))
	if got := measure(off, core.ShapeUnary, 0); got > bare {
		t.Errorf("a call without a limit costs %v allocations", got-bare)
	}
	watched := core.NewChain(must(time.Hour, &timeout.Options{PerMessage: true}))
	few, many := measure(watched, core.ShapeServerStream, 10), measure(watched, core.ShapeServerStream, 1000)
	if plain := measure(core.NewChain(), core.ShapeServerStream, 1000) - measure(core.NewChain(), core.ShapeServerStream, 10); many-few > plain {
		t.Errorf("990 messages cost %v allocations", many-few-plain)
	}
}

func BenchmarkTimeout(b *testing.B) {
	for name, chain := range map[string]*core.Chain{"bare": core.NewChain(), "with": core.NewChain(must(time.Hour, nil))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{}).Call)
			}
		})
	}
}

func ExampleNew() {
	limit, err := timeout.New(10*time.Second, &timeout.Options{Methods: map[string]time.Duration{
		"weft.dummy.v1.DummyService":                            time.Second,
		"/weft.dummy.v1.DummyService/Execute":                   time.Millisecond,
		"/weft.dummy.v1.DummyService/ExecuteClientServerStream": 0, // lives as long as it wants
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	// A call of Execute whose handler waits for its context, as a query of a database does.
	call := rpctest.Call(rpctest.Fake{Invoke: func(ctx context.Context, _ *core.Call) error {
		<-ctx.Done()
		return ctx.Err()
	}})
	err = call.Run(context.Background(), limit)
	fmt.Println(errors.CodeOf(err), errors.Is(err, timeout.ErrTimeout))
	fmt.Println("the caller reads:", errors.Wire(err, nil).Message)
	// Output:
	// deadline_exceeded true
	// the caller reads: the call took longer than 1ms
}
