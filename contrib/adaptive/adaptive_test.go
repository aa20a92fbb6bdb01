package adaptive_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/contrib/adaptive"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/concurrency"
	"github.com/rpcweft/weft/rpctest"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// service has some workers, each of which takes 5 to 15 ms for a call. Calls that find none free wait.
type service struct {
	mu      sync.Mutex
	free    int
	waiting []chan struct{}
	jitter  *rand.Rand
}

func (s *service) call(context.Context, *core.Call) error {
	s.mu.Lock()
	took := 5*time.Millisecond + time.Duration(s.jitter.Int64N(int64(10*time.Millisecond)))
	if s.free--; s.free < 0 {
		turn := make(chan struct{})
		s.waiting = append(s.waiting, turn)
		s.mu.Unlock()
		<-turn
	} else {
		s.mu.Unlock()
	}
	time.Sleep(took)
	s.add(1)
	return nil
}

// add adds workers, or takes some away when they are done.
func (s *service) add(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.free += n; len(s.waiting) > max(0, -s.free); s.waiting = s.waiting[1:] {
		close(s.waiting[0])
	}
}

// load keeps so many callers calling for a time.
func load(ctx context.Context, limit core.Interceptor, s *service, callers int, d time.Duration) {
	end := time.Now().Add(d)
	var calls sync.WaitGroup
	for i := range callers {
		calls.Go(func() {
			time.Sleep(time.Duration(i) * time.Millisecond)
			for time.Now().Before(end) {
				if err := rpctest.Call(rpctest.Fake{Invoke: s.call}).Run(ctx, limit); stderrors.Is(err, concurrency.ErrLimit) {
					time.Sleep(10 * time.Millisecond)
				}
			}
		})
	}
	calls.Wait()
}

func TestTheLimitFallsWhenCallsTakeLongerAndRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiters := must(adaptive.New(&adaptive.Options{Min: 2, Max: 100}))
		limit := must(concurrency.New(0, &concurrency.Options{Limiter: limiters.Limiter}))
		s := &service{free: 40, jitter: rand.New(rand.NewPCG(1, 2))}
		extremes := func(d time.Duration) (least, most int) {
			least = math.MaxInt
			for end := time.Now().Add(d); time.Now().Before(end); {
				load(t.Context(), limit, s, 80, 5*time.Second)
				now := limiters.Limits()[""]
				least, most = min(least, now), max(most, now)
			}
			return least, most
		}
		if _, most := extremes(time.Minute); most < 40 {
			t.Errorf("40 workers: the limit grows from 20 to %d", most)
		}
		s.add(-30)
		if least, _ := extremes(2 * time.Minute); least > 20 {
			t.Errorf("10 workers: the limit falls to %d", least)
		}
		s.add(30)
		if _, most := extremes(time.Minute); most < 40 {
			t.Errorf("40 workers again: the limit grows to %d", most)
		}
	})
}

func TestWhatTellsNothingOfTheServiceLeavesTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiters := must(adaptive.New(nil))
		limit := must(concurrency.New(0, &concurrency.Options{Limiter: limiters.Limiter}))
		for i := range 400 {
			fake := rpctest.Fake{Invoke: func(context.Context, *core.Call) error { time.Sleep(time.Duration(i) * time.Second); return nil }}
			if fake.Shape = core.ShapeServerStream; i%2 == 0 {
				fake.Shape = core.ShapeUnary
				fake.Invoke = func(context.Context, *core.Call) error { time.Sleep(time.Second); return errors.NotFound("no") }
			}
			_ = rpctest.Call(fake).Run(t.Context(), limit)
		}
		if now := limiters.Limits()[""]; now != 20 {
			t.Errorf("the limit was 20 and is %d", now)
		}
	})
}

func TestEachKeyHasALimitOfItsOwnAndPlacesAreFreed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := must(concurrency.New(0, &concurrency.Options{Key: concurrency.ByMethod, Limiter: must(adaptive.New(&adaptive.Options{Initial: 2, Max: 2})).Limiter}))
		run := func(method string) error {
			return rpctest.Call(rpctest.Fake{Method: method, Invoke: func(context.Context, *core.Call) error { time.Sleep(time.Second); return nil }}).Run(t.Context(), limit)
		}
		for range 3 {
			var calls sync.WaitGroup
			for range 2 {
				calls.Go(func() { _ = run("/a.A/M") })
			}
			synctest.Wait()
			if err := run("/a.A/M"); !stderrors.Is(err, concurrency.ErrLimit) || core.CodeOf(err) != core.CodeResourceExhausted {
				t.Errorf("a third call: %v", err)
			}
			if err := run("/a.A/N"); err != nil {
				t.Errorf("another method: %v", err)
			}
			calls.Wait()
		}
	})
}

func TestBadConfigurationFailsAtConstruction(t *testing.T) {
	for want, o := range map[string]adaptive.Options{
		"Min is negative": {Min: -1}, "Window is neg": {Window: -1}, "in this order": {Min: 5, Initial: 4}, "30 at first and 20": {Initial: 30, Max: 20},
	} {
		if _, err := adaptive.New(&o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
	for _, o := range []*adaptive.Options{nil, {Min: 300}, {Max: 5}, {Initial: 500}} {
		if _, err := adaptive.New(o); err != nil {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

func BenchmarkAdaptive(b *testing.B) {
	for name, chain := range map[string]*core.Chain{
		"fixed":    core.NewChain(must(concurrency.New(20, nil))),
		"adaptive": core.NewChain(must(concurrency.New(0, &concurrency.Options{Limiter: must(adaptive.New(nil)).Limiter}))),
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
	limiters, err := adaptive.New(&adaptive.Options{Min: 5, Initial: 20, Max: 500})
	if err != nil {
		fmt.Println(err)
		return
	}
	shed, err := concurrency.New(0, &concurrency.Options{Key: concurrency.ByMethod, Limiter: limiters.Limiter, Queue: 50})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(rpctest.Call(rpctest.Fake{}).Run(context.Background(), shed))
	// Output: <nil>
}
