// Package composition tests the resilience batteries together, in each order: what docs/resilience.md says of an order holds
// wherever the two stand in a chain of five, and no order loses a place, a probe or a message.
package composition

import (
	"context"
	stderrors "errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/breaker"
	"github.com/rpcweft/weft/interceptors/concurrency"
	"github.com/rpcweft/weft/interceptors/hedge"
	"github.com/rpcweft/weft/interceptors/ratelimit"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/interceptors/timeout"
	"github.com/rpcweft/weft/rpctest"
)

var down = errors.Unavailable("down")

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// order is the five policies, outermost first.
type order []string

// outside reports whether a stands outside of b.
func (o order) outside(a, b string) bool { return slices.Index(o, a) < slices.Index(o, b) }

func (o order) String() string { return strings.Join(o, ",") }

// orders are all 120.
func orders() []order {
	all := []order{nil}
	for _, policy := range []string{"timeout", "retry", "breaker", "ratelimit", "concurrency"} {
		var longer []order
		for _, o := range all {
			for at := range len(o) + 1 {
				longer = append(longer, slices.Insert(slices.Clone(o), at, policy))
			}
		}
		all = longer
	}
	return all
}

// policies are so generous that none has anything to do, unless a test changes that.
type policies struct {
	timeout    time.Duration
	perMessage bool
	retry      retry.Options
	breaker    breaker.Options
	perSecond  float64
	burst      int
	ratelimit  ratelimit.Options
	limit      int
	queue      int
}

func generous() *policies {
	return &policies{
		timeout:   24 * time.Hour,
		retry:     retry.Options{Methods: func(*core.Call) bool { return true }, Backoff: 1, MaxBackoff: 1, Budget: retry.NoBudget()},
		breaker:   breaker.Options{MinCalls: 1 << 20},
		perSecond: 1e6, burst: 1e6,
		limit: 100,
	}
}

func (p *policies) chain(o order) []core.Interceptor {
	chain := make([]core.Interceptor, 0, len(o))
	for _, name := range o {
		chain = append(chain, must(map[string]func() (core.Interceptor, error){
			"timeout": func() (core.Interceptor, error) {
				return timeout.New(p.timeout, &timeout.Options{PerMessage: p.perMessage})
			},
			"retry":   func() (core.Interceptor, error) { return retry.New(3, &p.retry) },
			"breaker": func() (core.Interceptor, error) { return breaker.New(&p.breaker) },
			"ratelimit": func() (core.Interceptor, error) {
				return ratelimit.New(must(ratelimit.NewLocal(p.perSecond, p.burst, 0)), &p.ratelimit)
			},
			"concurrency": func() (core.Interceptor, error) {
				return concurrency.New(p.limit, &concurrency.Options{Queue: p.queue})
			},
		}[name]()))
	}
	return chain
}

// env is one run of a test: an order, on one side of one path and shape.
type env struct {
	order

	side    core.Side
	client  *rpctest.Client
	mu      sync.Mutex
	reached int                                               // calls that came through all policies: to the server, or to its handler
	answer  func(ctx context.Context, number int) (err error) // nil goes on to the handler
	start   time.Time
	calls   int // that the application made
	wells   int // of them
}

// Intercept is the server of a client's policies, and the handler of a server's.
func (e *env) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	e.mu.Lock()
	e.reached++
	number, answer := e.reached, e.answer
	e.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, number); err != nil {
			return err
		}
	}
	return next(ctx, call)
}

// want checks how often the server was reached since the beginning, and when that is.
func (e *env) want(t *testing.T, what string, res *rpctest.Result, code core.Code, sentinel error, reached int, at time.Duration) {
	t.Helper()
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	if core.CodeOf(res.Err) != code || e.reached != reached || time.Since(e.start).Round(time.Millisecond) != at {
		t.Errorf("%s: the server was reached %d times by %v, want %s, %d and %v: %v", what, e.reached, time.Since(e.start), code, reached, at, res)
	}
	if sentinel != nil && e.side == core.SideClient && !stderrors.Is(res.Err, sentinel) {
		t.Errorf("%s: %q is not in the tree of %v", what, sentinel, res.Err)
	}
}

// each runs test in each order, side and shape, over all paths by turns, in a bubble each, whose end shows that nothing is left.
func each(t *testing.T, sides []core.Side, p func() *policies, test func(t *testing.T, e *env)) {
	t.Helper()
	turn := 0
	for _, side := range sides {
		for _, o := range orders() {
			if side == core.SideServer && o[0] != "retry" {
				continue // which does nothing there
			}
			for _, shape := range shapes(turn) {
				path := rpctest.Paths()[turn%len(rpctest.Paths())]
				for turn++; !path.Can(shape); turn++ {
					path = rpctest.Paths()[turn%len(rpctest.Paths())]
				}
				t.Run(fmt.Sprintf("%s/%s/%s/%s", side, o, path, shape), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						e := &env{order: o, side: side, start: time.Now()}
						options := &rpctest.Options{Client: p().chain(o), Server: []core.Interceptor{e}}
						if side == core.SideServer {
							options = &rpctest.Options{Server: append(p().chain(o), e)}
						}
						servers := rpctest.NewServers(t, options)
						e.client = servers.Client(path, shape)
						test(t, e)
						servers.Close()
						time.Sleep(2 * time.Hour) // over HTTP/1.1 a handler may not hear of the end of its call
					})
				})
			}
		}
	}
}

func shapes(turn int) []core.Shape {
	if everyShape {
		return rpctest.Shapes()
	}
	return rpctest.Shapes()[turn%4 : turn%4+1]
}

var (
	clients = []core.Side{core.SideClient}
	both    = []core.Side{core.SideClient, core.SideServer}
)

// pause ends with the context.
func pause(ctx context.Context, d time.Duration, err error) error {
	select {
	case <-time.After(d):
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func TestTimeoutAndRetry(t *testing.T) {
	each(t, clients, func() *policies {
		p := generous()
		p.timeout = 10 * time.Second
		return p
	}, func(t *testing.T, e *env) {
		e.answer = func(ctx context.Context, _ int) error { return pause(ctx, 6*time.Second, down) }
		res := e.client.Call(t.Context(), "hi")
		if e.outside("timeout", "retry") {
			e.want(t, "all attempts share the limit", res, core.CodeDeadlineExceeded, timeout.ErrTimeout, 2, 10*time.Second)
		} else {
			e.want(t, "each attempt has the limit", res, core.CodeUnavailable, nil, 3, 18*time.Second)
		}
		e.answer, e.reached, e.start = func(ctx context.Context, _ int) error { return pause(ctx, time.Hour, nil) }, 0, time.Now()
		res = e.client.Call(t.Context(), "hi")
		e.want(t, "DEADLINE_EXCEEDED is not tried again", res, core.CodeDeadlineExceeded, timeout.ErrTimeout, 1, 10*time.Second)
	})
}

// Attempts of attempts have what those outside wrote into the request.
func TestRetryAndHedge(t *testing.T) {
	may := func(*core.Call) bool { return true }
	again := must(retry.New(2, &retry.Options{Methods: may, Backoff: 1, MaxBackoff: 1}))
	twice := must(hedge.New(time.Hour, &hedge.Options{Methods: may}))
	outer := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if err := call.RequestHeader().Set("x-outer", "1"); err != nil {
			return err
		}
		return next(ctx, call)
	})
	for name, chain := range map[string][]core.Interceptor{"retry,hedge": {outer, again, twice}, "hedge,retry": {outer, twice, again}} {
		for _, path := range rpctest.Paths() {
			t.Run(name+"/"+path.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					e := &env{answer: func(_ context.Context, number int) error {
						if number < 4 {
							return down
						}
						return nil
					}}
					look := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
						if got := call.RequestHeader().Values("x-outer"); !slices.Equal(got, []string{"1"}) {
							t.Errorf("an attempt has %q", got)
						}
						return next(ctx, call)
					})
					servers := rpctest.NewServers(t, &rpctest.Options{Client: chain, Server: []core.Interceptor{look, e}})
					defer servers.Close()
					servers.Client(path, core.ShapeUnary).Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
					if e.reached != 4 {
						t.Errorf("the server was reached %d times, want 4", e.reached)
					}
				})
			})
		}
	}
}

func TestRetryAndBreaker(t *testing.T) {
	each(t, clients, func() *policies {
		p := generous()
		p.breaker = breaker.Options{Consecutive: 2, OpenFor: 30 * time.Second}
		return p
	}, func(t *testing.T, e *env) {
		e.answer = func(context.Context, int) error { return down }
		res := e.client.Call(t.Context(), "hi")
		if e.outside("retry", "breaker") {
			e.want(t, "the second attempt opens the circuit", res, core.CodeUnavailable, breaker.ErrOpen, 2, 0)
			e.answer = nil
			res = e.client.Call(t.Context(), "hi")
			e.want(t, "retry waits for the probe", res, core.CodeOK, nil, 3, 30*time.Second)
			return
		}
		e.want(t, "three attempts are one failure", res, core.CodeUnavailable, nil, 3, 0)
		res = e.client.Call(t.Context(), "hi")
		e.want(t, "the second call opens the circuit", res, core.CodeUnavailable, nil, 6, 0)
		res = e.client.Call(t.Context(), "hi")
		e.want(t, "the third is turned away", res, core.CodeUnavailable, breaker.ErrOpen, 6, 0)
	})
}

// A stream must be able to live on, so that the limit of its attempt is no deadline.
func TestAnAttemptThatIsTooSlowCountsForABreakerInsideUnlessItIsOfAStream(t *testing.T) {
	each(t, clients, func() *policies {
		p := generous()
		p.retry.AttemptTimeout = time.Second
		p.breaker = breaker.Options{Consecutive: 1, OpenFor: time.Hour}
		return p
	}, func(t *testing.T, e *env) {
		if !e.outside("retry", "breaker") {
			return
		}
		e.answer = func(ctx context.Context, _ int) error { return pause(ctx, time.Minute, nil) }
		res := e.client.Call(t.Context(), "hi")
		if e.client.Shape == core.ShapeUnary {
			e.want(t, "the first attempt opens the circuit", res, core.CodeUnavailable, breaker.ErrOpen, 1, time.Second)
		} else {
			e.want(t, "the circuit stays closed", res, core.CodeDeadlineExceeded, retry.ErrAttemptTimeout, 3, 3*time.Second)
		}
	})
}

func TestRetryAndRatelimit(t *testing.T) {
	each(t, clients, func() *policies {
		p := generous()
		p.perSecond, p.burst = 0.001, 2
		return p
	}, func(t *testing.T, e *env) {
		e.answer = func(context.Context, int) error { return down }
		res := e.client.Call(t.Context(), "hi")
		if e.outside("retry", "ratelimit") {
			e.want(t, "each attempt takes a token", res, core.CodeResourceExhausted, ratelimit.ErrLimit, 2, 0)
			return
		}
		e.want(t, "a call takes a token", res, core.CodeUnavailable, nil, 3, 0)
		res = e.client.Call(t.Context(), "hi")
		e.want(t, "a second call", res, core.CodeUnavailable, nil, 6, 0)
		res = e.client.Call(t.Context(), "hi")
		e.want(t, "a third", res, core.CodeResourceExhausted, ratelimit.ErrLimit, 6, 0)
	})
}

func TestRetryAndConcurrency(t *testing.T) {
	each(t, clients, func() *policies {
		p := generous()
		p.limit = 1
		return p
	}, func(t *testing.T, e *env) {
		e.answer = func(_ context.Context, number int) error {
			if number == 1 {
				return down.WithMetadata("grpc-retry-pushback-ms", "10000")
			}
			return nil
		}
		var calls sync.WaitGroup
		calls.Go(func() {
			res := e.client.Call(t.Context(), "hi")
			res.Want(t, core.CodeOK, "hi")
		})
		time.Sleep(time.Second)
		res, last := e.client.Call(t.Context(), "hi"), 4
		if e.outside("concurrency", "retry") {
			e.want(t, "who waits for an attempt holds a place", res, core.CodeResourceExhausted, concurrency.ErrLimit, 1, time.Second)
			last--
		} else {
			e.want(t, "who waits for an attempt has no place", res, core.CodeOK, nil, 2, time.Second)
		}
		calls.Wait()
		e.want(t, "the place is free again", e.client.Call(t.Context(), "hi"), core.CodeOK, nil, last, 10*time.Second)
	})
}

func TestTimeoutAndConcurrency(t *testing.T) {
	each(t, both, func() *policies {
		p := generous()
		p.timeout, p.limit, p.queue = 20*time.Second, 1, 1
		return p
	}, func(t *testing.T, e *env) {
		e.answer = func(ctx context.Context, _ int) error { return pause(ctx, 15*time.Second, nil) }
		var calls sync.WaitGroup
		calls.Go(func() { e.client.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi") })
		synctest.Wait()
		res := e.client.Call(t.Context(), "hi")
		calls.Wait()
		if e.outside("timeout", "concurrency") {
			e.want(t, "the wait is in the limit", res, core.CodeDeadlineExceeded, timeout.ErrTimeout, 2, 20*time.Second)
		} else {
			e.want(t, "the wait is not in the limit", res, core.CodeOK, nil, 2, 30*time.Second)
		}
	})
}

func TestTimeoutAndRatelimit(t *testing.T) {
	each(t, clients, func() *policies {
		p := generous()
		p.timeout, p.perSecond, p.burst = 20*time.Second, 1./30, 1
		p.ratelimit.Wait = true
		return p
	}, func(t *testing.T, e *env) {
		e.client.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
		res := e.client.Call(t.Context(), "hi")
		if e.outside("timeout", "ratelimit") {
			e.want(t, "what would be too late is turned away", res, core.CodeResourceExhausted, ratelimit.ErrLimit, 1, 0)
		} else {
			e.want(t, "the wait is not in the limit", res, core.CodeOK, nil, 2, 30*time.Second)
		}
	})
}

func TestBreakerAndTimeout(t *testing.T) {
	for _, perMessage := range []bool{false, true} {
		t.Run(fmt.Sprint(perMessage), func(t *testing.T) {
			each(t, both, func() *policies {
				p := generous()
				p.timeout, p.perMessage = 10*time.Second, perMessage
				p.breaker = breaker.Options{Consecutive: 1, OpenFor: time.Hour}
				return p
			}, func(t *testing.T, e *env) {
				e.answer = func(ctx context.Context, _ int) error { return pause(ctx, time.Minute, nil) }
				res := e.client.Call(t.Context(), "hi")
				e.want(t, "a slow call", res, core.CodeDeadlineExceeded, timeout.ErrTimeout, 1, 10*time.Second)
				e.answer = nil
				// retry, outside, would wait for the probe.
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				res = e.client.Call(ctx, "hi")
				if perMessage && e.client.Shape != core.ShapeUnary && e.outside("timeout", "breaker") {
					e.want(t, "it is a cancellation for the breaker", res, core.CodeOK, nil, 2, 10*time.Second)
				} else {
					e.want(t, "it has opened the circuit", res, core.CodeUnavailable, breaker.ErrOpen, 1, 10*time.Second)
				}
			})
		})
	}
}

// What stands inside of a breaker and turns calls away looks like a server that is well.
func TestBreakerAndRatelimit(t *testing.T) {
	var state breaker.State
	each(t, both, func() *policies {
		p := generous()
		p.perSecond, p.burst = 0.01, 1
		p.breaker = breaker.Options{Consecutive: 1, OpenFor: time.Second, OnChange: func(_ string, _, to breaker.State) { state = to }}
		p.retry.Methods = func(*core.Call) bool { return false }
		return p
	}, func(t *testing.T, e *env) {
		e.answer = func(context.Context, int) error { return down }
		e.want(t, "the circuit opens", e.client.Call(t.Context(), "hi"), core.CodeUnavailable, nil, 1, 0)
		e.answer = nil
		time.Sleep(2 * time.Second)
		e.want(t, "there is no token", e.client.Call(t.Context(), "hi"), core.CodeResourceExhausted, ratelimit.ErrLimit, 1, 2*time.Second)
		if closed := state == breaker.Closed; closed != e.outside("breaker", "ratelimit") {
			t.Errorf("after a call that was turned away the circuit is %s", state)
		}
		time.Sleep(100 * time.Second)
		e.answer = func(context.Context, int) error { return down }
		e.want(t, "a probe, or a call through a closed circuit", e.client.Call(t.Context(), "hi"), core.CodeUnavailable, nil, 2, 102*time.Second)
		res := e.client.Call(t.Context(), "hi")
		if e.outside("breaker", "ratelimit") {
			e.want(t, "no token is asked for", res, core.CodeUnavailable, breaker.ErrOpen, 2, 102*time.Second)
		} else {
			e.want(t, "a token is asked for", res, core.CodeResourceExhausted, ratelimit.ErrLimit, 2, 102*time.Second)
		}
	})
}

func TestBreakerAndConcurrency(t *testing.T) {
	each(t, both, func() *policies {
		p := generous()
		p.limit = 1
		p.breaker = breaker.Options{Consecutive: 1, OpenFor: time.Minute}
		p.retry.Methods = func(*core.Call) bool { return false }
		return p
	}, func(t *testing.T, e *env) {
		e.answer = func(ctx context.Context, number int) error {
			if number == 1 {
				return pause(ctx, time.Hour, down)
			}
			return nil
		}
		var calls sync.WaitGroup
		calls.Go(func() { e.client.Call(t.Context(), "hi").Want(t, core.CodeUnavailable, "") })
		synctest.Wait()
		e.want(t, "there is no place", e.client.Call(t.Context(), "hi"), core.CodeResourceExhausted, concurrency.ErrLimit, 1, 0)
		calls.Wait()
		e.want(t, "the circuit is open", e.client.Call(t.Context(), "hi"), core.CodeUnavailable, breaker.ErrOpen, 1, time.Hour)
		time.Sleep(time.Minute + time.Millisecond)
		e.want(t, "the place is free", e.client.Call(t.Context(), "hi"), core.CodeOK, nil, 2, time.Hour+time.Minute+time.Millisecond)
	})
}

func TestRatelimitAndConcurrency(t *testing.T) {
	each(t, both, func() *policies {
		p := generous()
		p.perSecond, p.burst, p.limit = 0.00001, 2, 1
		return p
	}, func(t *testing.T, e *env) {
		e.answer = func(ctx context.Context, _ int) error { return pause(ctx, time.Second, nil) }
		var calls sync.WaitGroup
		calls.Go(func() { e.client.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi") })
		synctest.Wait()
		e.want(t, "there is no place", e.client.Call(t.Context(), "hi"), core.CodeResourceExhausted, concurrency.ErrLimit, 1, 0)
		calls.Wait()
		res := e.client.Call(t.Context(), "hi")
		if e.outside("ratelimit", "concurrency") {
			e.want(t, "it took a token", res, core.CodeResourceExhausted, ratelimit.ErrLimit, 1, time.Second)
		} else {
			e.want(t, "it took no token", res, core.CodeOK, nil, 2, 2*time.Second)
		}
	})
}

// However calls end, in whatever order the policies stand: those outside see one call with one end and each message once, and the one
// place and the one probe are there for the next.
func TestNothingIsLostInAnyOrder(t *testing.T) {
	for turn, o := range orders() {
		for _, side := range both {
			for i, shape := range shapes(turn) {
				path := rpctest.Paths()[(turn*7+i*3)%len(rpctest.Paths())]
				if !path.Can(shape) {
					path.HTTP, path.Codec, path.Protocol = 2, "proto", core.ProtocolConnect
				}
				t.Run(fmt.Sprintf("%s/%s/%s/%s", side, o, path, shape), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						rec := &rpctest.Recorder{}
						p := generous()
						p.limit, p.timeout = 1, time.Minute
						p.breaker = breaker.Options{Consecutive: 4, OpenFor: 30 * time.Second}
						e := &env{order: o, side: side}
						chain := append([]core.Interceptor{rec.Interceptor("outside")}, p.chain(o)...)
						quiet := errors.NewInterceptor(&errors.Options{OnPanic: func(context.Context, *core.Call, any, []byte) {}})
						options := &rpctest.Options{Client: chain, Server: []core.Interceptor{quiet, e}}
						if side == core.SideServer {
							options = &rpctest.Options{Server: append(append([]core.Interceptor{quiet}, chain...), e)}
						}
						servers := rpctest.NewServers(t, options)
						e.client = servers.Client(path, shape)
						e.survive(t)
						servers.Close()
						time.Sleep(2 * time.Hour) // over HTTP/1.1 a handler may not hear of the end of its call
						seen := map[string]int{}
						for _, event := range rec.Reset() {
							if seen[event.What]++; strings.HasPrefix(event.Text, `"e`) || event.Text == `"abcde"` {
								seen["last "+event.What]++ // of a call whose messages are a to e, in one or in five
							}
						}
						if seen["enter"] != e.calls || seen["end"] != e.calls || seen["last request"] != e.wells || seen["last response"] != e.wells {
							t.Errorf("%d calls, %d of them to say that all is well; those outside saw %v", e.calls, e.wells, seen)
						}
					})
				})
			}
		}
	}
}

// survive makes calls that end in all ways.
func (e *env) survive(t *testing.T) {
	t.Helper()
	call := func(ctx context.Context, code core.Code, inputs ...string) {
		t.Helper()
		res := e.client.Call(ctx, inputs...)
		if e.calls++; core.CodeOf(res.Err) != code {
			t.Errorf("%q: want %s, got %v", inputs, code, res)
		}
		time.Sleep(2 * time.Minute) // a handler that hears of nothing else hears of the limit
	}
	well := func() {
		t.Helper()
		inputs := []string{"a", "b", "c", "d", "e"}
		text := "abcde"
		if !e.client.Shape.ClientStreams() {
			inputs, text = []string{"abcde"}, "abcde"
		}
		res := e.client.Call(t.Context(), inputs...)
		e.calls++
		e.wells++
		res.Want(t, core.CodeOK, text)
		synctest.Wait()
	}
	well()
	call(t.Context(), core.CodeNotFound, "fail:not_found")
	well()
	call(t.Context(), core.CodeInternal, "panic")
	well()
	call(t.Context(), core.CodeDeadlineExceeded, "sleep:10m")
	well()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(time.Second, cancel)
	call(ctx, core.CodeCanceled, "sleep:10m")
	well()
	if e.client.Shape == core.ShapeBidiStream {
		e.calls++
		stream, err := e.client.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send("hi")
		if got, err := stream.Receive(); got != "hi" || err != nil {
			t.Errorf("a stream: %q, %v", got, err)
		}
		stream.Cancel() // abandoned
		synctest.Wait()
		well()
	}
	// An attempt fails after it has got some messages: the next one gets them all.
	if e.side == core.SideClient {
		e.mu.Lock()
		failing := e.reached + 1
		e.answer = func(_ context.Context, number int) error {
			if number == failing {
				return down
			}
			return nil
		}
		e.mu.Unlock()
		well()
	}
	// The circuit opens. Its first probe is cancelled, the second one succeeds.
	for range 4 {
		res := e.client.Call(t.Context(), "fail:internal")
		e.calls++
		res.Want(t, core.CodeInternal, "")
		synctest.Wait()
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	call(ctx, core.CodeUnavailable, "hi") // its context ends before there is a probe
	ctx, cancel = context.WithCancel(t.Context())
	time.AfterFunc(time.Second, cancel)
	call(ctx, core.CodeCanceled, "sleep:10m")
	well()
	well()
}
