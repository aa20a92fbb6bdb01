package ratelimit_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/ratelimit"
	"github.com/rpcweft/weft/rpctest"
)

func local(perSecond float64, burst, keys int) *ratelimit.Local {
	l, err := ratelimit.NewLocal(perSecond, burst, keys)
	if err != nil {
		panic(err)
	}
	return l
}

func must(l ratelimit.Limiter, opts *ratelimit.Options) core.Interceptor {
	i, err := ratelimit.New(l, opts)
	if err != nil {
		panic(err)
	}
	return i
}

// sides runs test for each path, shape and side, in a bubble of its own, whose end shows that nothing is left.
func sides(t *testing.T, policy func() core.Interceptor, shapes []core.Shape, test func(t *testing.T, c *rpctest.Client, side core.Side)) {
	t.Helper()
	for _, side := range []core.Side{core.SideServer, core.SideClient} {
		for _, path := range rpctest.Paths() {
			for _, shape := range shapes {
				if path.Can(shape) {
					t.Run(side.String()+"/"+path.String()+"/"+shape.String(), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							o := &rpctest.Options{}
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

// Peers of ours send such a rejection as Unknown, and drop the details that the limiter gave.
func TestARejectionSaysWhenToComeBack(t *testing.T) {
	sides(t, func() core.Interceptor { return must(local(0.1, 3, 0), nil) }, rpctest.Shapes(), func(t *testing.T, c *rpctest.Client, side core.Side) {
		for range 3 {
			c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
		}
		res := c.Call(t.Context(), "hi")
		res.Want(t, core.CodeResourceExhausted, "")
		info, ok := errors.DetailOf[*errdetails.RetryInfo](res.Err)
		if wait := info.GetRetryDelay().AsDuration(); !ok || wait < 9*time.Second || wait > 10*time.Second {
			t.Errorf("RetryInfo says %v", wait)
		}
		if quota, ok := errors.DetailOf[*errdetails.QuotaFailure](res.Err); !ok || len(quota.GetViolations()) != 1 {
			t.Errorf("QuotaFailure is %v", quota)
		}
		if got := stderrors.Is(res.Err, ratelimit.ErrLimit); got != (side == core.SideClient) {
			t.Errorf("ErrLimit is in the error: %t", got)
		}
		time.Sleep(info.GetRetryDelay().AsDuration()) // of the bubble
		c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
	})
}

func TestAClientMayWaitWithinItsDeadline(t *testing.T) {
	policy := func() core.Interceptor {
		return must(local(1, 1, 0), &ratelimit.Options{Wait: true, MaxWait: 10 * time.Second})
	}
	sides(t, policy, rpctest.Shapes(), func(t *testing.T, c *rpctest.Client, side core.Side) {
		if side == core.SideServer {
			c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
			c.Call(t.Context(), "hi").Want(t, core.CodeResourceExhausted, "") // a server does not wait
			return
		}
		start := time.Now()
		for range 5 {
			c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
		}
		if took := time.Since(start); took < 4*time.Second || took > 4*time.Second+time.Millisecond {
			t.Errorf("5 calls took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		start = time.Now()
		c.Call(ctx, "hi").Want(t, core.CodeResourceExhausted, "") // at once: it would be too late
		if took := time.Since(start); took != 0 {
			t.Errorf("a call that cannot have its token in time took %v", took)
		}
		ctx, cancel = context.WithCancel(t.Context())
		defer time.AfterFunc(time.Second/4, cancel).Stop()
		c.Call(ctx, "hi").Want(t, core.CodeCanceled, "")
	})
}

func TestNobodyWaitsLongerThanMaxWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := must(local(1, 1, 0), &ratelimit.Options{Wait: true, MaxWait: 3500 * time.Millisecond})
		var calls sync.WaitGroup
		var wells, late atomic.Int32
		start := time.Now()
		for range 10 {
			calls.Go(func() {
				if err := rpctest.Call(rpctest.Fake{Side: core.SideClient}).Run(t.Context(), policy); err == nil {
					wells.Add(1)
				}
				if time.Since(start) > 3500*time.Millisecond {
					late.Add(1)
				}
			})
		}
		calls.Wait()
		if wells.Load() != 4 || late.Load() > 0 {
			t.Errorf("of 10 calls at once %d have got a token, and %d have waited longer than MaxWait", wells.Load(), late.Load())
		}
	})
}

// A peer of ours took a token for each message that it saw before the read.
func TestMessagesCountOnlyWhenAskedFor(t *testing.T) {
	shapes := []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}
	sides(t, func() core.Interceptor { return must(local(0.001, 3, 0), nil) }, shapes, func(t *testing.T, c *rpctest.Client, _ core.Side) {
		for range 3 {
			c.Call(t.Context(), "a", "b", "c", "d").Want(t, core.CodeOK, "abcd")
		}
		c.Call(t.Context(), "a").Want(t, core.CodeResourceExhausted, "")
	})
	sides(t, func() core.Interceptor { return must(local(0.001, 4, 0), &ratelimit.Options{PerMessage: true}) }, shapes, func(t *testing.T, c *rpctest.Client, _ core.Side) {
		if res := c.Call(t.Context(), "a", "b", "c", "d"); core.CodeOf(res.Err) != core.CodeResourceExhausted {
			t.Errorf("a call and its 4 messages with 4 tokens: %s", res)
		}
		time.Sleep(time.Minute) // of the bubble: over HTTP/1.1 connectx lets go of an aborted request a second later
	})
}

func TestEachKeyHasItsOwnRate(t *testing.T) {
	var rejected string
	policy := must(local(0.001, 1, 0), &ratelimit.Options{Key: ratelimit.ByPeer, OnReject: func(_ context.Context, _ *core.Call, key string) { rejected += key + " " }})
	for addr, want := range map[string]core.Code{"10.0.0.1:1": core.CodeOK, "[::1]:1": core.CodeOK, "pipe": core.CodeOK} {
		if err := rpctest.Call(rpctest.Fake{Peer: core.Peer{Addr: addr}}).Run(t.Context(), policy); core.CodeOf(err) != want {
			t.Errorf("%s: %v", addr, err)
		}
	}
	for _, addr := range []string{"10.0.0.1:2", "[::ffff:10.0.0.1]:3", "[::1]:4", "pipe"} { // other ports, another spelling
		if err := rpctest.Call(rpctest.Fake{Peer: core.Peer{Addr: addr}}).Run(t.Context(), policy); !stderrors.Is(err, ratelimit.ErrLimit) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if rejected != "10.0.0.1 10.0.0.1 ::1 pipe " {
		t.Errorf("OnReject saw %q", rejected)
	}
}

func TestMillionsOfKeysDoNotFillTheHeap(t *testing.T) {
	l := local(0.001, 1, 100)
	take := func(key string) bool {
		wait, err := l.Take(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		return wait == 0
	}
	for i := range 100_000 {
		if !take(fmt.Sprint(i)) {
			t.Fatalf("key %d has no token", i)
		}
		if i > 0 && take("0") { // who comes often is not forgotten
			t.Fatal("a key that is in use was forgotten")
		}
	}
	if got := l.Len(); got != 100 {
		t.Errorf("%d keys are kept, want 100", got)
	}
}

// broken is a limiter that fails, as one behind a network may.
type broken struct{}

func (broken) Take(context.Context, string) (time.Duration, error) {
	return 0, stderrors.New("redis: 10.0.0.7 refused")
}

func TestALimiterThatFails(t *testing.T) {
	err := rpctest.Call(rpctest.Fake{}).Run(t.Context(), must(broken{}, nil))
	if core.CodeOf(err) != core.CodeUnavailable || strings.Contains(errors.Wire(err, nil).Message, "redis") {
		t.Errorf("closed: %v", err)
	}
	if err := rpctest.Call(rpctest.Fake{}).Run(t.Context(), must(broken{}, &ratelimit.Options{FailOpen: true})); err != nil {
		t.Errorf("open: %v", err)
	}
}

func TestBadConfigurationFailsAtConstruction(t *testing.T) {
	for _, perSecond := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		if _, err := ratelimit.NewLocal(perSecond, 1, 0); err == nil {
			t.Errorf("a rate of %v passes", perSecond)
		}
	}
	if _, err := ratelimit.NewLocal(1, 0, 0); err == nil {
		t.Error("a burst of 0 passes")
	}
	if _, err := ratelimit.NewLocal(1, 1, -1); err == nil {
		t.Error("-1 keys pass")
	}
	if _, err := ratelimit.New(broken{}, &ratelimit.Options{MaxWait: -1}); err == nil {
		t.Error("a negative MaxWait passes")
	}
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "nil limiter") {
			t.Errorf("panicked with %q", got)
		}
	}()
	_, _ = ratelimit.New(nil, nil)
}

func measure(policy ...core.Interceptor) float64 {
	chain := core.NewChain(policy...)
	return testing.AllocsPerRun(200, func() {
		_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{Peer: core.Peer{Addr: "10.0.0.1:1"}}).Call)
	})
}

func TestCosts(t *testing.T) {
	bare := measure()
	if got := measure(must(local(1e9, 1e6, 0), nil)); got > bare {
		t.Errorf("a token costs %v allocations", got-bare)
	}
	if got := measure(must(local(1e9, 1e6, 0), &ratelimit.Options{Key: ratelimit.ByPeer})) - bare; got > 2 {
		t.Errorf("a token by peer costs %v allocations", got)
	}
}

func BenchmarkRateLimit(b *testing.B) {
	for name, chain := range map[string]*core.Chain{
		"bare": core.NewChain(), "with": core.NewChain(must(local(1e9, 1e6, 0), nil)),
		"by peer": core.NewChain(must(local(1e9, 1e6, 0), &ratelimit.Options{Key: ratelimit.ByPeer})),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{Peer: core.Peer{Addr: "10.0.0.1:1"}}).Call)
			}
		})
	}
}

func ExampleNew() {
	limiter, err := ratelimit.NewLocal(0.5, 2, 10_000) // a call every two seconds, two at once, for 10,000 callers
	if err != nil {
		fmt.Println(err)
		return
	}
	limit, err := ratelimit.New(limiter, &ratelimit.Options{Key: ratelimit.ByPeer})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 3 {
		err := rpctest.Call(rpctest.Fake{Peer: core.Peer{Addr: "192.0.2.1:4711"}}).Run(context.Background(), limit)
		info, _ := errors.DetailOf[*errdetails.RetryInfo](err)
		fmt.Println(errors.CodeOf(err), info.GetRetryDelay().AsDuration().Round(time.Second))
	}
	// Output:
	// ok 0s
	// ok 0s
	// resource_exhausted 2s
}
