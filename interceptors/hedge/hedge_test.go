package hedge_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/hedge"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/rpctest"
)

func all(*core.Call) bool { return true }

// must returns an interceptor, without a budget that tests would share.
func must(delay time.Duration, opts *hedge.Options) core.Interceptor {
	if opts != nil && opts.Budget == nil {
		opts.Budget = retry.NoBudget()
	}
	i, err := hedge.New(delay, opts)
	if err != nil {
		panic(err)
	}
	return i
}

var down = errors.Unavailable("down")

// server sees each attempt that arrives, and decides what becomes of it.
type server struct {
	mu     sync.Mutex
	seen   []string
	ended  []int // attempts whose context has ended
	answer func(ctx context.Context, number int) error
}

func (s *server) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	header := call.RequestHeader()
	number := len(header.Values("grpc-previous-rpc-attempts")) // told apart by what the client says: they arrive as they like
	if number == 1 {
		_, _ = fmt.Sscan(header.Get("grpc-previous-rpc-attempts"), &number)
	}
	number++
	s.mu.Lock()
	s.seen = append(s.seen, fmt.Sprint(number, header.Values("x-inner")))
	s.mu.Unlock()
	_ = call.ResponseHeader().Set("x-number", fmt.Sprint(number))
	if s.answer != nil {
		if err := s.answer(ctx, number); err != nil {
			if ctx.Err() != nil {
				s.mu.Lock()
				s.ended = append(s.ended, number)
				s.mu.Unlock()
			}
			return err
		}
	}
	return next(ctx, call)
}

func (s *server) attempts() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.seen)
	return strings.Join(s.seen, " ")
}

func (s *server) script(answer func(ctx context.Context, number int) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.ended, s.answer = nil, nil, answer
}

func after(ctx context.Context, d time.Duration, err error) error {
	select {
	case <-time.After(d):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// bubble runs test for each path, in a bubble of its own, whose end shows that nothing is left.
func bubble(t *testing.T, o *rpctest.Options, test func(t *testing.T, c *rpctest.Client, s *server)) {
	t.Helper()
	shapes := o.Shapes
	if shapes == nil {
		shapes = []core.Shape{core.ShapeUnary}
	}
	for _, path := range rpctest.Paths() {
		for _, shape := range shapes {
			if path.Can(shape) {
				t.Run(path.String()+"/"+shape.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s, o := &server{}, *o
						o.Server = append(slices.Clone(o.Server), s)
						servers := rpctest.NewServers(t, &o)
						defer servers.Close()
						test(t, servers.Client(path, shape), s)
					})
				})
			}
		}
	}
}

// inner writes metadata that belongs to one attempt.
var inner = core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
	if err := call.RequestHeader().Add("x-inner", fmt.Sprint(call.Attempt())); err != nil {
		return err
	}
	return next(ctx, call)
})

func took(t *testing.T, want time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	if f(); time.Since(start) != want {
		t.Errorf("it took %v, want %v", time.Since(start), want)
	}
}

func TestTheFirstAnswerWinsAndTheOthersAreCancelled(t *testing.T) {
	var rec rpctest.Recorder
	var mu sync.Mutex
	var ends []string
	policy := must(time.Second, &hedge.Options{Methods: all, Attempts: 3, OnAttempt: func(_ context.Context, _ *core.Call, end hedge.End) {
		mu.Lock()
		defer mu.Unlock()
		ends = append(ends, fmt.Sprint(end.Number, " ", core.CodeOf(end.Err), " ", end.Won))
	}})
	bubble(t, &rpctest.Options{Client: []core.Interceptor{rec.Interceptor("outer"), policy, inner}}, func(t *testing.T, c *rpctest.Client, s *server) {
		rec.Reset()
		mu.Lock()
		ends = nil
		mu.Unlock()
		took(t, 0, func() { c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi") })
		if got := s.attempts(); got != "1[1]" && got != "1 [1]" {
			t.Errorf("a fast answer took the attempts %s", got)
		}
		// The second one is the fast one.
		s.script(func(ctx context.Context, number int) error {
			if number == 2 {
				return after(ctx, 500*time.Millisecond, nil)
			}
			return after(ctx, time.Hour, nil)
		})
		var res *rpctest.Result
		took(t, 1500*time.Millisecond, func() { res = c.Call(t.Context(), "hi") })
		res.Want(t, core.CodeOK, "hi")
		if got := res.Header.Get("x-number"); got != "2" {
			t.Errorf("the application got the header of attempt %q", got)
		}
		synctest.Wait()
		s.mu.Lock()
		if !slices.Equal(s.ended, []int{1}) {
			t.Errorf("attempts %v were cancelled", s.ended)
		}
		s.mu.Unlock()
		mu.Lock()
		defer mu.Unlock()
		if got := strings.Join(ends, "; "); got != "1 ok true; 2 ok true; 1 canceled false" {
			t.Errorf("the hook saw %s", got)
		}
		if outer := fmt.Sprint(rec.Events(core.SideClient)); strings.Count(outer, ": enter") != 2 || strings.Count(outer, ": response") != 2 || strings.Count(outer, ": request") != 2 {
			t.Errorf("an interceptor outside of it saw %s", outer)
		}
	})
}

// A peer of ours has all attempts decode into one reply, which is a data race.
func TestAttemptsThatAnswerAtOnceDoNotShareAReply(t *testing.T) {
	policy := must(time.Second, &hedge.Options{Methods: all, Attempts: 4})
	bubble(t, &rpctest.Options{Client: []core.Interceptor{policy, inner}}, func(t *testing.T, c *rpctest.Client, s *server) {
		s.script(func(ctx context.Context, number int) error {
			return after(ctx, time.Duration(5-number)*time.Second, nil)
		}) // all at 4 s
		for range 5 {
			res := c.Call(t.Context(), "hi")
			res.Want(t, core.CodeOK, "hi")
			if n := len(res.Header.Values("x-number")); n != 1 {
				t.Errorf("%d values of a header that each attempt has once", n)
			}
		}
	})
}

func TestFailures(t *testing.T) {
	policy := must(time.Minute, &hedge.Options{Methods: all, Attempts: 3})
	bubble(t, &rpctest.Options{Client: []core.Interceptor{policy}}, func(t *testing.T, c *rpctest.Client, s *server) {
		// One that another attempt may heal starts the next at once.
		s.script(func(_ context.Context, number int) error {
			if number < 3 {
				return down
			}
			return nil
		})
		took(t, 0, func() { c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi") })
		s.script(func(context.Context, int) error { return down })
		took(t, 0, func() { c.Call(t.Context(), "hi").Want(t, core.CodeUnavailable, "") })
		if got := strings.Count(s.attempts(), "["); got != 3 {
			t.Errorf("%d attempts, want 3", got)
		}
		// Any other ends the call.
		s.script(func(context.Context, int) error { return errors.NotFound("no") })
		took(t, 0, func() { c.Call(t.Context(), "hi").Want(t, core.CodeNotFound, "") })
		if got := strings.Count(s.attempts(), "["); got != 1 {
			t.Errorf("%d attempts, want 1", got)
		}
		// The server may ask to stop, or to wait.
		s.script(func(context.Context, int) error { return down.WithMetadata("grpc-retry-pushback-ms", "-1") })
		took(t, 0, func() { c.Call(t.Context(), "hi").Want(t, core.CodeUnavailable, "") })
		if got := strings.Count(s.attempts(), "["); got != 1 {
			t.Errorf("%d attempts, want 1", got)
		}
		s.script(func(_ context.Context, number int) error {
			if number == 1 {
				return down.WithMetadata("grpc-retry-pushback-ms", "7000")
			}
			return nil
		})
		took(t, 7*time.Second, func() { c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi") })
		s.script(func(context.Context, int) error { return down.WithMetadata("grpc-retry-pushback-ms", "60001") }) // more than MaxPushback
		took(t, 0, func() { c.Call(t.Context(), "hi").Want(t, core.CodeUnavailable, "") })
		// The application gives up.
		s.script(func(ctx context.Context, _ int) error { return after(ctx, time.Hour, nil) })
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		took(t, 90*time.Second, func() { c.Call(ctx, "hi").Want(t, core.CodeDeadlineExceeded, "") })
		if got := strings.Count(s.attempts(), "["); got != 2 {
			t.Errorf("%d attempts, want 2", got)
		}
	})
}

// Peers of ours have no budget, or one for failures alone: each call of a slow service is made several times.
func TestAnOutageOrASlowServiceIsNotMultiplied(t *testing.T) {
	for name, one := range map[string]struct {
		answer func(ctx context.Context) error
		want   int
	}{
		// 9, 8 and 7 tokens are left after the first call, 6 and 5 after the second, none in the end.
		"down": {func(context.Context) error { return down }, 103},
		// Each of the first calls takes a token and brings a tenth back, until 5.5 are left; then one in ten is hedged.
		"slow": {func(ctx context.Context) error { return after(ctx, time.Minute, nil) }, 114},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				budget, err := retry.NewBudget(10, 0.1)
				if err != nil {
					t.Fatal(err)
				}
				policy := must(time.Second, &hedge.Options{Methods: all, Attempts: 3, Budget: budget})
				attempts := 0
				for range 100 {
					call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(ctx context.Context, _ *core.Call) error { return one.answer(ctx) }})
					_ = call.Run(t.Context(), policy)
					attempts += call.Started()
				}
				if attempts != one.want {
					t.Errorf("100 calls made %d attempts, want %d", attempts, one.want)
				}
			})
		})
	}
}

func TestThereIsABudgetByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy, err := hedge.New(time.Second, &hedge.Options{Methods: all})
		if err != nil {
			t.Fatal(err)
		}
		attempts := 0
		for range 1000 {
			call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(ctx context.Context, _ *core.Call) error { return after(ctx, time.Minute, nil) }})
			_ = call.Run(t.Context(), policy)
			attempts += call.Started()
		}
		if attempts < 1100 || attempts > 1160 {
			t.Errorf("1000 slow calls made %d attempts", attempts)
		}
	})
}

func TestStreamsAndMethodsThatMayNotBeRepeatedPass(t *testing.T) {
	for name, o := range map[string]*rpctest.Options{
		"streams": {Client: []core.Interceptor{must(time.Second, &hedge.Options{Methods: all})}, Shapes: rpctest.Shapes()[1:]},
		"methods": {Client: []core.Interceptor{must(time.Second, nil)}},
		"servers": {Server: []core.Interceptor{must(time.Second, &hedge.Options{Methods: all})}, Shapes: rpctest.Shapes()},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, o, func(t *testing.T, c *rpctest.Client, s *server) {
				c.Call(t.Context(), "sleep:1m").Want(t, core.CodeOK, "sleep:1m")
				if got := strings.Count(s.attempts(), "["); got != 1 {
					t.Errorf("%d attempts, want 1", got)
				}
			})
		})
	}
}

func TestAPanicOfAnAttemptReachesTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		defer func() {
			if p, ok := recover().(*core.Panic); !ok || p.Value != "no" || !strings.Contains(string(p.Stack), "TestAPanicOfAnAttempt") {
				t.Errorf("got %v", p)
			}
		}()
		call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(ctx context.Context, call *core.Call) error {
			if call.Attempt() == 2 {
				panic("no")
			}
			<-ctx.Done() // nothing is left behind
			return ctx.Err()
		}})
		_ = call.Run(t.Context(), must(time.Second, &hedge.Options{Methods: all}))
	})
}

func TestBadConfigurationFailsAtConstruction(t *testing.T) {
	for want, f := range map[string]func() (core.Interceptor, error){
		"delay is 0s": func() (core.Interceptor, error) { return hedge.New(0, nil) },
		"1 attempts":  func() (core.Interceptor, error) { return hedge.New(1, &hedge.Options{Attempts: 1}) },
		"2 to 100":    func() (core.Interceptor, error) { return hedge.New(1, &hedge.Options{Attempts: math.MaxInt}) },
		"is negative": func() (core.Interceptor, error) { return hedge.New(1, &hedge.Options{MaxPushback: -1}) },
		"not the code": func() (core.Interceptor, error) {
			return hedge.New(1, &hedge.Options{Codes: []core.Code{99}})
		},
	} {
		if _, err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func measure(policy ...core.Interceptor) float64 {
	chain := core.NewChain(policy...)
	return testing.AllocsPerRun(200, func() {
		_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{Side: core.SideClient}).Call)
	})
}

func TestCosts(t *testing.T) {
	bare := measure()
	if got := measure(must(time.Hour, nil)); got > bare {
		t.Errorf("a call that is not hedged costs %v allocations", got-bare)
	}
	// An attempt, a context, a timer, a channel and a goroutine. What it costs on each stack, internal/bench says.
	if got := measure(must(time.Hour, &hedge.Options{Methods: all})) - bare; got > 16 {
		t.Errorf("a call with one attempt costs %v allocations", got)
	}
}

func BenchmarkHedge(b *testing.B) {
	for name, chain := range map[string]*core.Chain{
		"bare": core.NewChain(), "off": core.NewChain(must(time.Hour, nil)), "on": core.NewChain(must(time.Hour, &hedge.Options{Methods: all})),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{Side: core.SideClient}).Call)
			}
		})
	}
}

func ExampleNew() {
	twice, err := hedge.New(10*time.Millisecond, &hedge.Options{
		Methods: core.MatchMethod("/weft.dummy.v1.DummyService/Execute"), // its schema does not say that it is idempotent
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// The first request meets a server that hangs.
	call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(ctx context.Context, call *core.Call) error {
		if call.Attempt() == 1 {
			<-ctx.Done()
			return ctx.Err()
		}
		return call.SetResponse(&rpctest.Response{Output: "from the second"})
	}})
	err = call.Run(context.Background(), twice)
	fmt.Println(call.Response().(*rpctest.Response).GetOutput(), err)
	// Output: from the second <nil>
}
