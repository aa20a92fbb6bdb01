package concurrency_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/concurrency"
	"github.com/rpcweft/weft/rpctest"
)

func must(limit int, opts *concurrency.Options) core.Interceptor {
	i, err := concurrency.New(limit, opts)
	if err != nil {
		panic(err)
	}
	return i
}

// sides runs test for each path, shape and side, in a bubble of its own, whose end shows that nothing is left.
func sides(t *testing.T, policy func() core.Interceptor, test func(t *testing.T, c *rpctest.Client, side core.Side)) {
	t.Helper()
	quiet := errors.NewInterceptor(&errors.Options{OnPanic: func(context.Context, *core.Call, any, []byte) {}})
	for _, side := range []core.Side{core.SideServer, core.SideClient} {
		for _, path := range rpctest.Paths() {
			for _, shape := range rpctest.Shapes() {
				if path.Can(shape) {
					t.Run(side.String()+"/"+path.String()+"/"+shape.String(), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							o := &rpctest.Options{Server: []core.Interceptor{quiet}}
							if side == core.SideServer {
								o.Server = append(o.Server, policy())
							} else {
								o.Client = append(o.Client, policy())
							}
							s := rpctest.NewServers(t, o)
							defer s.Close()
							test(t, s.Client(path, shape), side)
						})
					})
				}
			}
		}
	}
}

func TestSoManyAtOnceSoManyWaitTheRestIsTurnedAway(t *testing.T) {
	policy := func() core.Interceptor { return must(2, &concurrency.Options{Queue: 1, RetryAfter: 7 * time.Second}) }
	sides(t, policy, func(t *testing.T, c *rpctest.Client, side core.Side) {
		start := time.Now()
		var mu sync.Mutex
		var ends []string
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				res := c.Call(t.Context(), "sleep:1m")
				mu.Lock()
				defer mu.Unlock()
				ends = append(ends, fmt.Sprint(core.CodeOf(res.Err), " ", time.Since(start)))
				if res.Err == nil {
					return
				}
				if info, ok := errors.DetailOf[*errdetails.RetryInfo](res.Err); !ok || info.GetRetryDelay().AsDuration() != 7*time.Second {
					t.Errorf("no RetryInfo of 7 s: %v", res)
				}
				if got := stderrors.Is(res.Err, concurrency.ErrLimit); got != (side == core.SideClient) {
					t.Errorf("ErrLimit is in the error: %t", got)
				}
			})
		}
		calls.Wait()
		if got, want := strings.Join(ends, ", "), "resource_exhausted 0s, ok 1m0s, ok 1m0s, ok 2m0s"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// A peer of ours loses a place with each panic.
func TestThePlaceIsFreeHoweverACallEnds(t *testing.T) {
	sides(t, func() core.Interceptor { return must(1, nil) }, func(t *testing.T, c *rpctest.Client, side core.Side) {
		for _, end := range []struct {
			input string
			code  core.Code
		}{{"fail:not_found", core.CodeNotFound}, {"panic", core.CodeInternal}, {"fail-after:1:aborted", core.CodeAborted}} {
			if res := c.Call(t.Context(), end.input); core.CodeOf(res.Err) != end.code {
				t.Errorf("%s: %s", end.input, res)
			}
			synctest.Wait()
			c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
			synctest.Wait()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if res := c.Call(ctx, "sleep:1m"); res.Err == nil {
			t.Errorf("it outlived its deadline: %s", res)
		}
		time.Sleep(time.Minute) // of the bubble: over HTTP/1.1 the server may not hear of it
		c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
		if c.Shape != core.ShapeBidiStream {
			return
		}
		s, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = s.Send("hi")
		if got, err := s.Receive(); got != "hi" || err != nil {
			t.Fatal(got, err)
		}
		if res := c.Call(t.Context(), "hi"); core.CodeOf(res.Err) != core.CodeResourceExhausted {
			t.Errorf("an open stream holds no place: %s", res)
		}
		s.Cancel() // abandoned
		synctest.Wait()
		c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
	})
}

// changing is a limiter whose limit a test sets.
type changing struct {
	mu                       sync.Mutex
	limit, running           int
	acquired, recorded, lost int
}

func (c *changing) TryAcquire() (concurrency.Place, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running >= c.limit {
		return nil, false
	}
	c.running++
	c.acquired++
	return &place{of: c}, true
}

type place struct {
	of    *changing
	freed bool
}

func (p *place) free(told int) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if p.of.recorded += told; p.freed {
		p.of.lost++ // freed twice
	}
	p.freed = true
	p.of.running--
}

func (p *place) Record() { p.free(1) }
func (p *place) Drop()   { p.free(0) }

func (c *changing) set(limit int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = limit
}

func (c *changing) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return fmt.Sprintf("%d acquired, %d recorded, %d running, %d freed twice", c.acquired, c.recorded, c.running, c.lost)
}

func TestALimiterHearsOfUnaryCallsThatTellSomethingAndGetsAllPlacesBack(t *testing.T) {
	var c *changing
	sides(t, func() core.Interceptor {
		c = &changing{limit: 1}
		return must(0, &concurrency.Options{Limiter: func(string) concurrency.Limiter { return c }})
	}, func(t *testing.T, client *rpctest.Client, _ core.Side) {
		call := func(input string) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_ = client.Call(ctx, input)
			time.Sleep(time.Hour) // of the bubble: over HTTP/1.1 the server may not hear of a deadline
		}
		call("hi")
		call("fail:deadline_exceeded")
		told := 0
		if client.Shape == core.ShapeUnary {
			told = 2
		}
		for _, input := range []string{"fail:not_found", "panic", "fail:canceled", "sleep:1h"} {
			call(input)
		}
		// The last one may be heard of as a deadline or as a cancellation.
		got, want := c.String(), fmt.Sprintf("6 acquired, %d recorded, 0 running, 0 freed twice", told)
		if more := fmt.Sprintf("6 acquired, %d recorded, 0 running, 0 freed twice", told+1); got != want && (told == 0 || got != more) {
			t.Errorf("%s, want %s", got, want)
		}
		var calls sync.WaitGroup
		defer calls.Wait()
		calls.Go(func() { client.Call(t.Context(), "sleep:1s").Want(t, core.CodeOK, "sleep:1s") })
		synctest.Wait()
		client.Call(t.Context(), "hi").Want(t, core.CodeResourceExhausted, "")
	})
}

func TestThoseWhoWaitHearOfALimitThatGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &changing{limit: 1}
		policy := must(0, &concurrency.Options{Queue: 10, Limiter: func(string) concurrency.Limiter { return c }})
		start := time.Now()
		var calls sync.WaitGroup
		var ends []string
		for i := range 6 {
			calls.Go(func() {
				_ = rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error {
					if time.Sleep(time.Second); i == 0 {
						c.set(3)
					}
					return nil
				}}).Run(t.Context(), policy)
				c.mu.Lock()
				defer c.mu.Unlock()
				ends = append(ends, time.Since(start).String())
			})
			synctest.Wait()
		}
		calls.Wait()
		if got := strings.Join(ends, " "); got != "1s 2s 2s 2s 3s 3s" {
			t.Errorf("calls ended after %s", got)
		}
	})
}

func TestWithALimiterEachKeyHasItsOwnAndManyShareOne(t *testing.T) {
	made := map[string]int{}
	n := 0
	policy := must(0, &concurrency.Options{
		Key:     func(context.Context, *core.Call) string { n++; return fmt.Sprint(n % 20_000) },
		Limiter: func(key string) concurrency.Limiter { made[key]++; return &changing{limit: 1} },
	})
	for range 40_000 {
		if err := rpctest.Call(rpctest.Fake{}).Run(t.Context(), policy); err != nil {
			t.Fatal(err)
		}
	}
	if len(made) != 10_001 || made[""] != 1 || made["1"] != 1 {
		t.Errorf("%d limiters, %d of them shared; key 1 had %d", len(made), made[""], made["1"])
	}
}

func TestALimiterThatPanicsHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken concurrency.Limiter
		policy := must(0, &concurrency.Options{Key: concurrency.ByMethod, Limiter: func(string) concurrency.Limiter { return broken }})
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, "Options.Limiter returned nil for key") {
					t.Errorf("a nil limiter: %s", got)
				}
			}()
			_ = rpctest.Call(rpctest.Fake{}).Run(t.Context(), policy)
		}()
		broken = &changing{limit: 1}
		done := make(chan error, 1)
		go func() { done <- rpctest.Call(rpctest.Fake{}).Run(t.Context(), policy) }()
		synctest.Wait()
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		default:
			t.Fatal("the next call waits for ever")
		}
	})
}

func TestACallMayGiveUpWaiting(t *testing.T) {
	for name, one := range map[string]struct {
		opts concurrency.Options
		ctx  time.Duration
		want core.Code
	}{
		"MaxWait": {concurrency.Options{Queue: 5, MaxWait: time.Second}, time.Hour, core.CodeResourceExhausted},
		"context": {concurrency.Options{Queue: 5}, time.Second, core.CodeDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var rejected atomic.Int64
				one.opts.OnReject = func(context.Context, *core.Call) { rejected.Add(1) }
				policy := must(1, &one.opts)
				sleep := rpctest.Fake{Invoke: func(context.Context, *core.Call) error { time.Sleep(time.Minute); return nil }}
				var calls sync.WaitGroup
				defer calls.Wait()
				calls.Go(func() { _ = rpctest.Call(sleep).Run(t.Context(), policy) })
				synctest.Wait()
				ctx, cancel := context.WithTimeout(t.Context(), one.ctx)
				defer cancel()
				start := time.Now()
				if err := rpctest.Call(sleep).Run(ctx, policy); core.CodeOf(err) != one.want || time.Since(start) != time.Second {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
				if got := rejected.Load() == 1; got != (name == "MaxWait") {
					t.Errorf("OnReject was called %d times", rejected.Load())
				}
				time.Sleep(time.Minute)
				if err := rpctest.Call(sleep).Run(t.Context(), policy); err != nil {
					t.Errorf("a place is lost: %v", err)
				}
			})
		})
	}
}

func TestTheQueueIsServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := must(1, &concurrency.Options{Queue: 10})
		var order []int
		var calls sync.WaitGroup
		for i := range 10 {
			calls.Go(func() {
				_ = rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error {
					order = append(order, i) // one at a time
					time.Sleep(time.Second)
					return nil
				}}).Run(t.Context(), policy)
			})
			synctest.Wait()
		}
		calls.Wait()
		if !slices.IsSorted(order) || len(order) != 10 {
			t.Error(order)
		}
	})
}

func TestEachKeyHasItsOwnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := must(1, &concurrency.Options{Key: concurrency.ByMethod})
		run := func(method string) error {
			return rpctest.Call(rpctest.Fake{Method: method, Invoke: func(_ context.Context, call *core.Call) error {
				if call.Method().Name() == "M" {
					time.Sleep(time.Second)
				}
				return nil
			}}).Run(t.Context(), policy)
		}
		var calls sync.WaitGroup
		defer calls.Wait()
		calls.Go(func() { _ = run("/a.A/M") })
		synctest.Wait()
		if err := run("/a.A/N"); err != nil {
			t.Error(err)
		}
		if err := run("/a.A/M"); !stderrors.Is(err, concurrency.ErrLimit) {
			t.Error(err)
		}
	})
}

// Calls that come, wait and give up at the same time never are more than the limit, and no place is lost.
func TestNeverMoreThanTheLimit(t *testing.T) {
	for _, key := range []concurrency.KeyFunc{nil, concurrency.ByService} {
		policy := must(3, &concurrency.Options{Key: key, Queue: 20})
		var running, most atomic.Int64
		work := rpctest.Fake{Invoke: func(context.Context, *core.Call) error {
			now := running.Add(1)
			defer running.Add(-1)
			for {
				if was := most.Load(); now <= was || most.CompareAndSwap(was, now) {
					return nil
				}
			}
		}}
		var calls sync.WaitGroup
		for i := range 40 {
			calls.Go(func() {
				for range 200 {
					ctx, cancel := context.WithCancel(context.Background())
					if i%2 == 0 {
						go cancel()
					}
					_ = rpctest.Call(work).Run(ctx, policy)
					cancel()
				}
			})
		}
		calls.Wait()
		if most.Load() > 3 || running.Load() != 0 {
			t.Errorf("%d at once, %d left", most.Load(), running.Load())
		}
		synctest.Test(t, func(t *testing.T) { // all three places are there
			wait := rpctest.Fake{Invoke: func(context.Context, *core.Call) error { time.Sleep(time.Second); return nil }}
			var again sync.WaitGroup
			for range 3 {
				again.Go(func() {
					if err := rpctest.Call(wait).Run(t.Context(), policy); err != nil {
						t.Error(err)
					}
				})
			}
			start := time.Now()
			again.Wait()
			if time.Since(start) != time.Second {
				t.Errorf("places are lost: it took %v", time.Since(start))
			}
		})
	}
}

func TestBadConfigurationFailsAtConstruction(t *testing.T) {
	for want, f := range map[string]func() (core.Interceptor, error){
		"limit of 0": func() (core.Interceptor, error) { return concurrency.New(0, nil) },
		"beside a Limiter": func() (core.Interceptor, error) {
			return concurrency.New(1, &concurrency.Options{Limiter: func(string) concurrency.Limiter { return nil }})
		},
		"Queue is neg":     func() (core.Interceptor, error) { return concurrency.New(1, &concurrency.Options{Queue: -1}) },
		"MaxWait is neg":   func() (core.Interceptor, error) { return concurrency.New(1, &concurrency.Options{MaxWait: -1}) },
		"RetryAfter is ne": func() (core.Interceptor, error) { return concurrency.New(1, &concurrency.Options{RetryAfter: -1}) },
	} {
		if _, err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func measure(policy ...core.Interceptor) float64 {
	chain := core.NewChain(policy...)
	return testing.AllocsPerRun(200, func() {
		_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{}).Call)
	})
}

func TestCosts(t *testing.T) {
	bare := measure()
	if got := measure(must(1, nil)); got > bare {
		t.Errorf("a place costs %v allocations", got-bare)
	}
	if got := measure(must(1, &concurrency.Options{Key: concurrency.ByMethod})) - bare; got > 1 {
		t.Errorf("a place by key costs %v allocations", got)
	}
}

func BenchmarkConcurrency(b *testing.B) {
	for name, chain := range map[string]*core.Chain{
		"bare": core.NewChain(), "with": core.NewChain(must(1, nil)), "by method": core.NewChain(must(1, &concurrency.Options{Key: concurrency.ByMethod})),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{}).Call)
			}
		})
	}
}

func ExampleNew() {
	limit, err := concurrency.New(1, &concurrency.Options{
		Key:   concurrency.ByMethod,
		Queue: 0, // nobody waits
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	call := rpctest.Call(rpctest.Fake{Invoke: func(ctx context.Context, _ *core.Call) error {
		// A second call of the same method, while this one runs.
		err := rpctest.Call(rpctest.Fake{}).Run(ctx, limit)
		fmt.Println(errors.CodeOf(err), errors.Is(err, concurrency.ErrLimit))
		info, _ := errors.DetailOf[*errdetails.RetryInfo](err)
		fmt.Println("again in", info.GetRetryDelay().AsDuration())
		return nil
	}})
	fmt.Println(call.Run(context.Background(), limit))
	// Output:
	// resource_exhausted true
	// again in 1s
	// <nil>
}
