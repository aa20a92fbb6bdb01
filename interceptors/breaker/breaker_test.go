package breaker_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/breaker"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/rpctest"
)

func must(opts *breaker.Options) core.Interceptor {
	i, err := breaker.New(opts)
	if err != nil {
		panic(err)
	}
	return i
}

// Peers of ours send such a rejection as Unknown.
func TestItOpensTurnsAwayTriesAndCloses(t *testing.T) {
	for _, side := range []core.Side{core.SideServer, core.SideClient} {
		for _, path := range rpctest.Paths() {
			for _, shape := range rpctest.Shapes() {
				if !path.Can(shape) {
					continue
				}
				t.Run(side.String()+"/"+path.String()+"/"+shape.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						var changes []string
						policy := must(&breaker.Options{Consecutive: 3, OpenFor: time.Minute, OnChange: func(key string, from, to breaker.State) {
							changes = append(changes, fmt.Sprintf("%s %s>%s", key, from, to))
						}})
						o := &rpctest.Options{Server: []core.Interceptor{policy}}
						if side == core.SideClient {
							o = &rpctest.Options{Client: []core.Interceptor{policy}}
						}
						s := rpctest.NewServers(t, o)
						defer s.Close()
						c := s.Client(path, shape)
						call := func(input string, want core.Code) *rpctest.Result {
							res := c.Call(t.Context(), input)
							if synctest.Wait(); core.CodeOf(res.Err) != want {
								t.Errorf("%s: want %s, got %s", input, want, res)
							}
							return res
						}
						for range 10 {
							call("fail:not_found", core.CodeNotFound) // the caller's fault
						}
						for range 3 {
							call("fail:unavailable", core.CodeUnavailable)
						}
						res := call("hi", core.CodeUnavailable)
						if info, ok := errors.DetailOf[*errdetails.RetryInfo](res.Err); !ok || info.GetRetryDelay().AsDuration() != time.Minute+1 {
							t.Errorf("RetryInfo is %v", info)
						}
						if got := stderrors.Is(res.Err, breaker.ErrOpen); got != (side == core.SideClient) {
							t.Errorf("ErrOpen is in the error: %t", got)
						}
						time.Sleep(time.Minute + 1) // of the bubble
						call("fail:internal", core.CodeInternal)
						call("hi", core.CodeUnavailable)
						time.Sleep(time.Minute + 1)
						call("hi", core.CodeOK)
						call("hi", core.CodeOK)
						want := strings.ReplaceAll("closed>open open>half_open half_open>open open>half_open half_open>closed", " ", ", weft.dummy.v1.DummyService ")
						if got := strings.Join(changes, ", "); got != "weft.dummy.v1.DummyService "+want {
							t.Errorf("changes: %s", got)
						}
					})
				})
			}
		}
	}
}

func run(ctx context.Context, policy core.Interceptor, method string, invoke func(ctx context.Context) error) error {
	return rpctest.Call(rpctest.Fake{Side: core.SideClient, Method: method, Invoke: func(ctx context.Context, _ *core.Call) error { return invoke(ctx) }}).Run(ctx, policy)
}

func returns(err error) func(context.Context) error {
	return func(context.Context) error { return err }
}

var down = errors.Unavailable("down")

// A peer of ours loses a probe with each panic: then nobody passes any more.
func TestAPanicOrACancelGivesItsProbeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := must(&breaker.Options{Consecutive: 1, OpenFor: time.Minute})
		_ = run(t.Context(), policy, "/a.A/M", returns(down))
		time.Sleep(time.Minute + 1)
		for range 5 { // half open: each of them is the probe
			if err := run(t.Context(), policy, "/a.A/M", returns(context.Canceled)); core.CodeOf(err) != core.CodeCanceled {
				t.Fatal(err)
			}
		}
		// While one is under way there is no other.
		if err := run(t.Context(), policy, "/a.A/M", func(ctx context.Context) error {
			if err := run(ctx, policy, "/a.A/M", returns(nil)); !stderrors.Is(err, breaker.ErrOpen) {
				t.Errorf("a second probe: %v", err)
			}
			return context.Canceled
		}); core.CodeOf(err) != core.CodeCanceled {
			t.Fatal(err)
		}
		func() {
			defer func() { _ = recover() }()
			_ = run(t.Context(), policy, "/a.A/M", func(context.Context) error { panic("no") })
		}()
		if err := run(t.Context(), policy, "/a.A/M", returns(nil)); !stderrors.Is(err, breaker.ErrOpen) {
			t.Errorf("a panic is no failure: %v", err)
		}
		time.Sleep(time.Minute + 1)
		if err := run(t.Context(), policy, "/a.A/M", returns(nil)); err != nil {
			t.Errorf("a probe is lost: %v", err)
		}
	})
}

func TestAPanicIsAFailureWhateverTheCodes(t *testing.T) {
	policy := must(&breaker.Options{Consecutive: 1, Codes: []core.Code{core.CodeUnavailable}})
	func() {
		defer func() { _ = recover() }()
		_ = run(t.Context(), policy, "/a.A/M", func(context.Context) error { panic("no") })
	}()
	if err := run(t.Context(), policy, "/a.A/M", returns(nil)); !stderrors.Is(err, breaker.ErrOpen) {
		t.Errorf("a panic is no failure: %v", err)
	}
}

func TestTheLongestTimesThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := must(&breaker.Options{Consecutive: 2, Window: math.MaxInt64, OpenFor: math.MaxInt64})
		for range 2 {
			_ = run(t.Context(), policy, "/a.A/M", returns(down))
			time.Sleep(time.Hour)
		}
		err := run(t.Context(), policy, "/a.A/M", returns(nil))
		if info, ok := errors.DetailOf[*errdetails.RetryInfo](err); !ok || info.GetRetryDelay().AsDuration() < math.MaxInt64/4 {
			t.Errorf("the circuit is to be open for ever: %v, %v", err, info)
		}
	})
}

func TestARatioOfFailuresWithinTheWindowOpensIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := must(&breaker.Options{Key: breaker.ByMethod, Ratio: 0.5, MinCalls: 10, Window: 10 * time.Second})
		open := func(method string) bool {
			return stderrors.Is(run(t.Context(), policy, method, returns(nil)), breaker.ErrOpen)
		}
		for range 9 {
			_ = run(t.Context(), policy, "/a.A/Few", returns(down))
		}
		for range 9 {
			_ = run(t.Context(), policy, "/a.A/Old", returns(down))
		}
		time.Sleep(20 * time.Second)
		_ = run(t.Context(), policy, "/a.A/Old", returns(down))
		for i := range 20 {
			_ = run(t.Context(), policy, "/a.A/Half", returns([]error{nil, down}[i%2]))
		}
		for i := range 30 {
			_ = run(t.Context(), policy, "/a.A/Third", returns([]error{nil, nil, down}[i%3]))
		}
		for method, want := range map[string]bool{"/a.A/Few": false, "/a.A/Old": false, "/a.A/Half": true, "/a.A/Third": false} {
			if got := open(method); got != want {
				t.Errorf("%s is open: %t", method, got)
			}
		}
	})
}

// Its library counts a call when it begins, and forgets those that take longer than the window.
func TestCallsThatTakeLongerThanTheWindowCount(t *testing.T) {
	hang := func(context.Context) error { time.Sleep(time.Hour); return context.DeadlineExceeded }
	for name, opts := range map[string]*breaker.Options{
		"consecutive": {Consecutive: 5, Window: 10 * time.Second}, "ratio": {MinCalls: 5, Window: 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				policy := must(opts)
				var calls sync.WaitGroup
				for range 5 {
					calls.Go(func() { _ = run(t.Context(), policy, "/a.A/M", hang) })
				}
				calls.Wait()
				if err := run(t.Context(), policy, "/a.A/M", returns(nil)); !stderrors.Is(err, breaker.ErrOpen) {
					t.Errorf("the circuit is not open: %v", err)
				}
			})
		})
	}
}

// A call that began before the circuit opened says nothing of the probe.
func TestACallFromBeforeIsNoProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := must(&breaker.Options{Consecutive: 1, OpenFor: time.Minute})
		var calls sync.WaitGroup
		defer calls.Wait()
		calls.Go(func() {
			_ = run(t.Context(), policy, "/a.A/M", func(context.Context) error { time.Sleep(2 * time.Minute); return nil })
		})
		synctest.Wait()
		_ = run(t.Context(), policy, "/a.A/M", returns(down))
		time.Sleep(time.Minute + 1)
		calls.Go(func() { // the probe
			_ = run(t.Context(), policy, "/a.A/M", func(context.Context) error { time.Sleep(time.Hour); return nil })
		})
		time.Sleep(2 * time.Minute)
		if err := run(t.Context(), policy, "/a.A/M", returns(nil)); !stderrors.Is(err, breaker.ErrOpen) {
			t.Errorf("it has closed the circuit: %v", err)
		}
	})
}

func TestManyKeysShareABreaker(t *testing.T) {
	n := 0
	policy := must(&breaker.Options{Consecutive: 1, Key: func(context.Context, *core.Call) string { n++; return fmt.Sprint(n) }})
	for range 10_000 {
		_ = run(t.Context(), policy, "/a.A/M", returns(nil))
	}
	_ = run(t.Context(), policy, "/a.A/M", returns(down)) // key 10001
	if err := run(t.Context(), policy, "/a.A/M", returns(nil)); !stderrors.Is(err, breaker.ErrOpen) {
		t.Errorf("key 10002 has a breaker of its own: %v", err)
	}
	n = 0
	if err := run(t.Context(), policy, "/a.A/M", returns(nil)); err != nil {
		t.Errorf("key 1 has none of its own: %v", err)
	}
}

// The order of docs/resilience.md: retry waits until the circuit lets a probe pass.
func TestRetryOutsideOfABreakerWaitsForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		again, err := retry.New(3, &retry.Options{Methods: func(*core.Call) bool { return true }})
		if err != nil {
			t.Fatal(err)
		}
		call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(_ context.Context, call *core.Call) error {
			if call.Attempt() == 1 {
				return down
			}
			return nil
		}})
		start := time.Now()
		err = call.Run(t.Context(), again, must(&breaker.Options{Consecutive: 1, OpenFor: 10 * time.Second}))
		if took := time.Since(start); err != nil || call.Started() != 2 || took < 10*time.Second || took > 11*time.Second {
			t.Errorf("after %v and %d attempts that reached the server: %v", took, call.Started(), err)
		}
	})
}

func TestBadConfigurationFailsAtConstruction(t *testing.T) {
	for want, opts := range map[string]*breaker.Options{
		"Ratio is 1.5": {Ratio: 1.5}, "Ratio is NaN": {Ratio: math.NaN()}, "MinCalls is -1": {MinCalls: -1}, "Probes is -1": {Probes: -1},
		"Window is neg": {Window: -1}, "OpenFor is neg": {OpenFor: -1}, "not the code": {Codes: []core.Code{core.CodeOK}},
	} {
		if _, err := breaker.New(opts); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func measure(policy ...core.Interceptor) float64 {
	chain := core.NewChain(policy...)
	return testing.AllocsPerRun(200, func() { _ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{}).Call) })
}

func TestCosts(t *testing.T) {
	if got := measure(must(nil)) - measure(); got > 2 {
		t.Errorf("a call through a closed breaker costs %v allocations", got)
	}
}

func BenchmarkBreaker(b *testing.B) {
	for name, chain := range map[string]*core.Chain{"bare": core.NewChain(), "with": core.NewChain(must(nil))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{}).Call)
			}
		})
	}
}

func ExampleNew() {
	circuit, err := breaker.New(&breaker.Options{
		Consecutive: 2,
		OnChange:    func(key string, from, to breaker.State) { fmt.Println(key, "is", to) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		err := run(context.Background(), circuit, "/shop.v1.Stock/Get", returns(down))
		fmt.Println(errors.CodeOf(err), errors.Is(err, breaker.ErrOpen))
	}
	// Output:
	// unavailable false
	// shop.v1.Stock is open
	// unavailable false
	// unavailable true
}
