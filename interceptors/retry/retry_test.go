package retry_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/rpctest"
)

func all(*core.Call) bool { return true }

// must returns an interceptor, without a budget that tests would share.
func must(attempts int, opts *retry.Options) core.Interceptor {
	if opts != nil && opts.Budget == nil {
		opts.Budget = retry.NoBudget()
	}
	i, err := retry.New(attempts, opts)
	if err != nil {
		panic(err)
	}
	return i
}

func budget(tokens int, ratio float64) *retry.Budget {
	b, err := retry.NewBudget(tokens, ratio)
	if err != nil {
		panic(err)
	}
	return b
}

// server sees each attempt that arrives, and decides what becomes of it.
type server struct {
	mu       sync.Mutex
	previous []string // what each said of the ones before
	times    []time.Time
	answer   func(ctx context.Context, number int, call *core.Call) error // nil goes on to the handler
}

func (s *server) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	s.mu.Lock()
	s.previous = append(s.previous, fmt.Sprint(call.RequestHeader().Values("grpc-previous-rpc-attempts"), call.RequestHeader().Values("x-inner")))
	s.times = append(s.times, time.Now())
	number, answer := len(s.times), s.answer
	s.mu.Unlock()
	if answer != nil {
		if err := answer(ctx, number, call); err != nil {
			return err
		}
	}
	return next(ctx, call)
}

// script makes the server new.
func (s *server) script(answer func(ctx context.Context, number int, call *core.Call) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.previous, s.times, s.answer = nil, nil, answer
}

func (s *server) attempts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.times)
}

// waits are the times between attempts.
func (s *server) waits() (waits []time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := 1; i < len(s.times); i++ {
		waits = append(waits, s.times[i].Sub(s.times[i-1]))
	}
	return waits
}

// first fails the first n attempts.
func first(n int, err error) func(context.Context, int, *core.Call) error {
	return func(_ context.Context, number int, _ *core.Call) error {
		if number <= n {
			return err
		}
		return nil
	}
}

var down = errors.Unavailable("down")

// bubble runs test for each path and shape, each in a bubble of its own, whose end shows that nothing is left.
func bubble(t *testing.T, o *rpctest.Options, test func(t *testing.T, c *rpctest.Client, s *server)) {
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

func wantAttempts(t *testing.T, s *server, want int) {
	t.Helper()
	if got := s.attempts(); got != want {
		t.Errorf("%d attempts reached the server, want %d", got, want)
	}
}

// Peers of ours send what an earlier attempt wrote again, and count attempts as retries.
func TestEachAttemptHasItsOwnMetadataAndNumber(t *testing.T) {
	inner := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if err := call.RequestHeader().Add("x-inner", strconv.Itoa(call.Attempt())); err != nil {
			return err
		}
		return next(ctx, call)
	})
	var rec rpctest.Recorder
	bubble(t, &rpctest.Options{Client: []core.Interceptor{rec.Interceptor("outer"), must(3, &retry.Options{Methods: all}), inner}},
		func(t *testing.T, c *rpctest.Client, s *server) {
			s.script(first(2, down))
			c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
			if got, want := fmt.Sprint(s.previous), "[[] [1] [1] [2] [2] [3]]"; got != want {
				t.Errorf("the server got %s, want %s", got, want)
			}
			outer := fmt.Sprint(rec.Reset())
			if got := strings.Count(outer, ": enter"); got != 1 {
				t.Errorf("an interceptor outside of it saw %d calls: %s", got, outer)
			}
			if got := strings.Count(outer, ": request"); got != 1 {
				t.Errorf("an interceptor outside of it saw %d requests: %s", got, outer)
			}
			s.script(first(3, down))
			c.Call(t.Context(), "hi").Want(t, core.CodeUnavailable, "")
			wantAttempts(t, s, 3) // three attempts are three attempts
			rec.Reset()
		})
}

func TestOnlyTheCodesAndMethodsAskedForAreTriedAgain(t *testing.T) {
	for name, one := range map[string]struct {
		opts retry.Options
		err  error
		side core.Side
		idem core.Idempotency
		want int
	}{
		"unavailable":            {retry.Options{}, down, core.SideClient, core.IdempotencyIdempotent, 3},
		"without side effects":   {retry.Options{}, down, core.SideClient, core.IdempotencyNoSideEffects, 3},
		"not idempotent":         {retry.Options{}, down, core.SideClient, core.IdempotencyUnknown, 1},
		"by a list":              {retry.Options{Methods: core.MatchMethod(rpctest.Procedure(core.ShapeUnary))}, down, core.SideClient, core.IdempotencyUnknown, 3},
		"not on the list":        {retry.Options{Methods: core.MatchMethod("/a.A/M")}, down, core.SideClient, core.IdempotencyIdempotent, 1},
		"server":                 {retry.Options{Methods: all}, down, core.SideServer, core.IdempotencyIdempotent, 1},
		"another code":           {retry.Options{}, errors.Aborted("no"), core.SideClient, core.IdempotencyIdempotent, 1},
		"the code asked for":     {retry.Options{Codes: []core.Code{core.CodeAborted}}, errors.Aborted("no"), core.SideClient, core.IdempotencyIdempotent, 3},
		"then not unavailable":   {retry.Options{Codes: []core.Code{core.CodeAborted}}, down, core.SideClient, core.IdempotencyIdempotent, 1},
		"a server's deadline":    {retry.Options{}, errors.DeadlineExceeded("no"), core.SideClient, core.IdempotencyIdempotent, 1},
		"deadline when asked":    {retry.Options{Codes: []core.Code{core.CodeDeadlineExceeded}}, errors.DeadlineExceeded("no"), core.SideClient, core.IdempotencyIdempotent, 3},
		"canceled by the server": {retry.Options{AttemptTimeout: time.Hour}, errors.Canceled("no"), core.SideClient, core.IdempotencyIdempotent, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				call := rpctest.Call(rpctest.Fake{
					Side: one.side, Description: core.Description{Idempotency: one.idem},
					Invoke: func(context.Context, *core.Call) error { return one.err },
				})
				err := call.Run(t.Context(), must(3, &one.opts))
				if !stderrors.Is(err, one.err) || call.Started() != one.want {
					t.Errorf("got %v after %d attempts, want %d", err, call.Started(), one.want)
				}
			})
		})
	}
}

// A peer of ours gave the application [0 1 0 1 2].
func TestAStreamThatFailsAfterAResponseIsNotTriedAgain(t *testing.T) {
	bubble(t, &rpctest.Options{
		Client: []core.Interceptor{must(5, &retry.Options{Methods: all})},
		Shapes: []core.Shape{core.ShapeServerStream, core.ShapeBidiStream},
	}, func(t *testing.T, c *rpctest.Client, s *server) {
		c.Call(t.Context(), "fail-after:2:unavailable").Want(t, core.CodeUnavailable, "01")
		wantAttempts(t, s, 1)
		s.script(first(2, down))
		c.Call(t.Context(), "fail-after:2:unavailable").Want(t, core.CodeUnavailable, "01")
		wantAttempts(t, s, 3)
	})
}

// numbered sends messages 0 to n-1 and returns what came back.
func numbered(ctx context.Context, t *testing.T, c *rpctest.Client, n int, sent func(i int)) (got []string, err error) {
	t.Helper()
	s, err := c.Open(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	var sender sync.WaitGroup
	defer sender.Wait()
	sender.Go(func() {
		for i := range n {
			if err := s.Send(strconv.Itoa(i)); err != nil {
				t.Errorf("send %d: %v", i, err)
				return
			}
			sent(i)
		}
		if err := s.CloseSend(); err != nil {
			t.Error(err)
		}
		sent(n)
	})
	for {
		output, err := s.Receive()
		if stderrors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			return got, err
		}
		got = append(got, output)
	}
}

func wantNumbers(t *testing.T, what string, got []string, n int) {
	t.Helper()
	if len(got) != n {
		t.Errorf("%s: %d messages, want %d", what, len(got), n)
		return
	}
	for i, text := range got {
		if text != strconv.Itoa(i) {
			t.Errorf("%s: message %d is %s", what, i, text)
			return
		}
	}
}

// killer ends attempts when they are about to give their first response, once the client has sent enough.
func killer(kill func(number int) bool, sent func(number int) <-chan struct{}, got *[]string) func(context.Context, int, *core.Call) error {
	return func(_ context.Context, number int, call *core.Call) error {
		*got = nil
		call.OnRequest(func(_ context.Context, msg any) error {
			*got = append(*got, msg.(*rpctest.Request).GetInput())
			return nil
		})
		if kill(number) {
			call.OnResponse(func(ctx context.Context, _ any) error {
				select {
				case <-sent(number):
				case <-ctx.Done():
				}
				return down
			})
		}
		return nil
	}
}

// The first two attempts of one stream die after 700 and after all messages were sent, before their first response.
func TestAThousandMessagesOfOneStreamArriveOnceInOrder(t *testing.T) {
	bubble(t, &rpctest.Options{Client: []core.Interceptor{must(3, &retry.Options{Methods: all})}, Shapes: []core.Shape{core.ShapeBidiStream}},
		func(t *testing.T, c *rpctest.Client, s *server) {
			marks := []chan struct{}{make(chan struct{}), make(chan struct{})}
			var atServer []string
			s.script(killer(func(number int) bool { return number < 3 }, func(number int) <-chan struct{} { return marks[number-1] }, &atServer))
			got, err := numbered(t.Context(), t, c, 1000, func(i int) {
				switch i {
				case 700:
					close(marks[0])
				case 1000:
					close(marks[1])
				}
			})
			if err != nil {
				t.Error(err)
			}
			wantNumbers(t, "the application", got, 1000)
			wantNumbers(t, "the server", atServer, 1000)
			wantAttempts(t, s, 3)
		})
}

// A thousand messages in 100 streams; every third attempt dies before its first response.
func TestAThousandMessagesOfManyStreamsArriveOnceInOrder(t *testing.T) {
	bubble(t, &rpctest.Options{Client: []core.Interceptor{must(2, &retry.Options{Methods: all})}, Shapes: []core.Shape{core.ShapeBidiStream}},
		func(t *testing.T, c *rpctest.Client, s *server) {
			var mark chan struct{}
			var atServer []string
			s.script(killer(func(number int) bool { return number%3 == 0 }, func(int) <-chan struct{} { return mark }, &atServer))
			for stream := range 100 {
				mark = make(chan struct{})
				got, err := numbered(t.Context(), t, c, 10, func(i int) {
					if i == stream%11 {
						close(mark)
					}
				})
				if err != nil {
					t.Fatal(err)
				}
				wantNumbers(t, "the application", got, 10)
				wantNumbers(t, "the server", atServer, 10)
			}
			wantAttempts(t, s, 149)
		})
}

// Peers of ours ignore pushback, or a negative one.
func TestAServerMayAskToWaitOrToStop(t *testing.T) {
	pushback := func(values ...string) error {
		err := down
		for _, value := range values {
			err = err.WithMetadata("grpc-retry-pushback-ms", value)
		}
		return err
	}
	info := func(d time.Duration) error {
		return down.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(d)})
	}
	bubble(t, &rpctest.Options{Client: []core.Interceptor{must(2, &retry.Options{Methods: all, Backoff: time.Second})}},
		func(t *testing.T, c *rpctest.Client, s *server) {
			for _, stop := range [][]string{{"-1"}, {"soon"}, {""}, {"1", "2"}, {"99999999999999999999"}, {"60001"}} {
				if stop[0] == "" {
					continue // has no way through HTTP
				}
				s.script(first(1, pushback(stop...)))
				start := time.Now()
				c.Call(t.Context(), "hi").Want(t, core.CodeUnavailable, "")
				if wantAttempts(t, s, 1); time.Since(start) != 0 {
					t.Errorf("%s: it took %v to stop", stop, time.Since(start))
				}
			}
			s.script(first(1, pushback("12345")))
			c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
			if got := fmt.Sprint(s.waits()); got != "[12.345s]" {
				t.Errorf("waited %s", got)
			}
			s.script(first(1, info(20*time.Second)))
			c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
			if got := s.waits(); len(got) != 1 || got[0] < 20*time.Second || got[0] > 21*time.Second {
				t.Errorf("waited %s, want 20 s and at most a second of backoff", got)
			}
			s.script(first(1, info(2*time.Minute)))
			c.Call(t.Context(), "hi").Want(t, core.CodeUnavailable, "")
			wantAttempts(t, s, 1)
		})
}

// A peer of ours waits -1306346h before attempt 38, which is not at all.
func TestTheLongestWaitThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wait time.Duration
		policy := must(2, &retry.Options{Methods: all, MaxPushback: math.MaxInt64, OnAttempt: func(_ context.Context, _ *core.Call, end retry.End) { wait = end.Wait }})
		ctx, cancel := context.WithCancel(t.Context())
		defer time.AfterFunc(time.Hour, cancel).Stop()
		call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(context.Context, *core.Call) error {
			return down.WithDetails(&errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: 1 << 50}})
		}})
		if err := call.Run(ctx, policy); core.CodeOf(err) != core.CodeCanceled || call.Started() != 1 || wait != math.MaxInt64 {
			t.Errorf("%d attempts, a wait of %v: %v", call.Started(), wait, err)
		}
	})
}

func TestBackoffGrowsToItsCapAndDoesNotOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var waits []time.Duration
		ends := func(_ context.Context, _ *core.Call, end retry.End) { waits = append(waits, end.Wait) }
		opts := &retry.Options{Methods: all, Backoff: time.Second, MaxBackoff: time.Hour, OnAttempt: ends}
		call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(context.Context, *core.Call) error { return down }})
		start := time.Now()
		if err := call.Run(t.Context(), must(200, opts)); !stderrors.Is(err, down) || call.Started() != 200 {
			t.Fatal(err, call.Started())
		}
		sum, most := time.Duration(0), time.Second
		for i, wait := range waits[:199] {
			if wait < 0 || wait >= most {
				t.Errorf("after attempt %d it waited %v, want less than %v", i+1, wait, most)
			}
			sum, most = sum+wait, min(2*most, time.Hour)
		}
		if took := time.Since(start); took != sum || took < 40*time.Hour {
			t.Errorf("it took %v, want %v, about 94 hours", took, sum)
		}
	})
}

func TestTheLongestBackoffThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(context.Context, *core.Call) error { return down }})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		opts := &retry.Options{Methods: all, Backoff: math.MaxInt64, MaxBackoff: math.MaxInt64, MaxPushback: math.MaxInt64}
		if err := call.Run(ctx, must(100, opts)); !stderrors.Is(err, down) {
			t.Error(err)
		}
	})
}

func TestItStopsWhenTheDeadlineCannotBeMet(t *testing.T) {
	var last atomic.Value
	opts := &retry.Options{Methods: all, OnAttempt: func(_ context.Context, _ *core.Call, end retry.End) { last.Store(end.Reason) }}
	bubble(t, &rpctest.Options{Client: []core.Interceptor{must(5, opts)}}, func(t *testing.T, c *rpctest.Client, s *server) {
		s.script(first(1, down.WithMetadata("grpc-retry-pushback-ms", "30000")))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		start := time.Now()
		c.Call(ctx, "hi").Want(t, core.CodeUnavailable, "") // what the server said, not DEADLINE_EXCEEDED
		if wantAttempts(t, s, 1); time.Since(start) != 0 || last.Load() != retry.ReasonDeadline {
			t.Errorf("it took %v to stop: %v", time.Since(start), last.Load())
		}
	})
}

// A peer of ours has no effect on streams here.
func TestAnAttemptThatIsTooSlowIsTriedAgain(t *testing.T) {
	slow := func(ctx context.Context, number int, _ *core.Call) error {
		if number <= 2 {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	opts := &retry.Options{Methods: all, AttemptTimeout: time.Minute, Backoff: 1, MaxBackoff: 1}
	bubble(t, &rpctest.Options{Client: []core.Interceptor{must(3, opts)}}, func(t *testing.T, c *rpctest.Client, s *server) {
		if c.Path.HTTP == 1 && c.Shape != core.ShapeUnary {
			return // the server does not hear of the end: docs/compatibility.md
		}
		start := time.Now()
		s.script(slow)
		c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
		if took := time.Since(start).Round(time.Second); took != 2*time.Minute {
			t.Errorf("it took %v", took)
		}
		wantAttempts(t, s, 3)
		s.script(func(ctx context.Context, _ int, call *core.Call) error { return slow(ctx, 1, call) })
		res := c.Call(t.Context(), "hi")
		res.Want(t, core.CodeDeadlineExceeded, "")
		if !stderrors.Is(res.Err, retry.ErrAttemptTimeout) {
			t.Errorf("got %v, want ErrAttemptTimeout in its tree", res.Err)
		}
		wantAttempts(t, s, 3)
	})
}

// Deadlines travel in whole milliseconds, so that a server's clock may be the first to say that the time is over.
func TestAServerMayBeQuickerToSayThatTheTimeOfAnAttemptIsOver(t *testing.T) {
	for early, want := range map[time.Duration]int{time.Microsecond: 3, time.Millisecond: 3, 2 * time.Millisecond: 1} {
		synctest.Test(t, func(t *testing.T) {
			fake := rpctest.Fake{Side: core.SideClient, Invoke: func(context.Context, *core.Call) error {
				time.Sleep(time.Minute - early)
				return errors.DeadlineExceeded("the server's clock")
			}}
			policy, call := must(3, &retry.Options{Methods: all, AttemptTimeout: time.Minute, Backoff: 1, MaxBackoff: 1}), rpctest.Call(fake)
			if err := call.Run(t.Context(), policy); core.CodeOf(err) != core.CodeDeadlineExceeded || call.Started() != want {
				t.Errorf("%v before: %d attempts, want %d: %v", early, call.Started(), want, err)
			}
			// The deadline is the application's: nothing is tried again.
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			call = rpctest.Call(fake)
			if err := call.Run(ctx, policy); stderrors.Is(err, retry.ErrAttemptTimeout) || call.Started() != 1 {
				t.Errorf("%v before the application's deadline: %d attempts, want 1: %v", early, call.Started(), err)
			}
		})
	}
}

func TestTheOnlyAttemptHasItsLimitToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reason retry.Reason
		policy := must(1, &retry.Options{Methods: all, AttemptTimeout: time.Second, OnAttempt: func(_ context.Context, _ *core.Call, end retry.End) { reason = end.Reason }})
		err := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(ctx context.Context, _ *core.Call) error {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Hour):
				return nil
			}
		}}).Run(t.Context(), policy)
		if !errors.Is(err, retry.ErrAttemptTimeout) || reason != retry.ReasonAttempts {
			t.Errorf("%v, %q", err, reason)
		}
	})
}

func TestTheLimitOfAnAttemptDoesNotEndAStreamThatWorks(t *testing.T) {
	opts := &retry.Options{Methods: all, AttemptTimeout: time.Minute}
	bubble(t, &rpctest.Options{
		Client: []core.Interceptor{must(3, opts)},
		Shapes: []core.Shape{core.ShapeServerStream, core.ShapeBidiStream},
		Cases: map[string]rpctest.Case{"drip": func(_ context.Context, in *rpctest.Input) (string, error) {
			for range 10 {
				time.Sleep(50 * time.Second) // of the bubble
				if err := in.Send("."); err != nil {
					return "", err
				}
			}
			return "!", nil
		}},
	}, func(t *testing.T, c *rpctest.Client, s *server) {
		c.Call(t.Context(), "drip").Want(t, core.CodeOK, "..........!")
		wantAttempts(t, s, 1)
	})
}

func TestACallThatIsAbandonedEndsAtOnce(t *testing.T) {
	bubble(t, &rpctest.Options{Client: []core.Interceptor{must(5, &retry.Options{Methods: all})}}, func(t *testing.T, c *rpctest.Client, s *server) {
		s.script(first(5, down.WithMetadata("grpc-retry-pushback-ms", "50000")))
		ctx, cancel := context.WithCancel(t.Context())
		defer time.AfterFunc(time.Second, cancel).Stop()
		start := time.Now()
		c.Call(ctx, "hi").Want(t, core.CodeCanceled, "") // between two attempts
		if took := time.Since(start); took != time.Second {
			t.Errorf("it took %v", took)
		}
		wantAttempts(t, s, 1)
		// In the middle of one.
		s.script(func(ctx context.Context, _ int, _ *core.Call) error { <-ctx.Done(); return ctx.Err() })
		if c.Path.HTTP == 1 && c.Shape != core.ShapeUnary {
			return // the server does not hear of it: docs/compatibility.md
		}
		ctx, cancel = context.WithCancel(t.Context())
		defer time.AfterFunc(time.Second, cancel).Stop()
		c.Call(ctx, "hi").Want(t, core.CodeCanceled, "")
		wantAttempts(t, s, 1)
	})
}

func TestAServerThatPanicsIsNotTriedAgain(t *testing.T) {
	quiet := errors.NewInterceptor(&errors.Options{OnPanic: func(context.Context, *core.Call, any, []byte) {}})
	bubble(t, &rpctest.Options{Server: []core.Interceptor{quiet}, Client: []core.Interceptor{must(5, &retry.Options{Methods: all})}},
		func(t *testing.T, c *rpctest.Client, s *server) {
			c.Call(t.Context(), "panic").Want(t, core.CodeInternal, "")
			wantAttempts(t, s, 1)
		})
}

// Peers of ours have no budget: three attempts make three times the load of a server that is down.
func TestAnOutageIsNotMultiplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var answer error = down
		policy := must(3, &retry.Options{Methods: all, Budget: budget(10, 0.5)})
		run := func(calls int) (attempts int) {
			for range calls {
				call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(context.Context, *core.Call) error { return answer }})
				_ = call.Run(t.Context(), policy)
				attempts += call.Started()
			}
			return attempts
		}
		// 9, 8 and 7 tokens left; 6, and no retry at 5, half of them; then the first attempts alone.
		if got := run(100); got != 103 {
			t.Errorf("100 calls of a server that is down made %d attempts, want 103", got)
		}
		answer = nil
		run(14) // half a token each
		answer = down
		if got := run(1); got != 2 {
			t.Errorf("with 7 tokens a call made %d attempts, want 2", got)
		}
		answer = errors.NotFound("no")
		if got := run(100); got != 100 {
			t.Errorf("%d attempts", got)
		}
		answer = nil
		run(6) // 5 + 3 tokens: other errors took none
		answer = down
		if got := run(1); got != 3 {
			t.Errorf("with 8 tokens a call made %d attempts, want 3", got)
		}
	})
}

func TestOnAttemptSeesEachAttempt(t *testing.T) {
	var mu sync.Mutex
	var seen []string
	opts := &retry.Options{Methods: all, OnAttempt: func(_ context.Context, attempt *core.Call, end retry.End) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, fmt.Sprintf("%d %d %s %t %s %t", attempt.Attempt(), end.Number, core.CodeOf(end.Err), end.Again, end.Reason, end.Took < time.Hour))
	}}
	bubble(t, &rpctest.Options{Client: []core.Interceptor{must(3, opts)}}, func(t *testing.T, c *rpctest.Client, s *server) {
		seen = nil
		s.script(func(_ context.Context, number int, _ *core.Call) error {
			if number < 3 {
				return down
			}
			return errors.NotFound("no")
		})
		c.Call(t.Context(), "hi").Want(t, core.CodeNotFound, "")
		mu.Lock()
		defer mu.Unlock()
		if got, want := strings.Join(seen, "; "), "1 1 unavailable true  true; 2 2 unavailable true  true; 3 3 not_found false "+string(retry.ReasonCode)+" true"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestBadConfigurationFailsAtConstruction(t *testing.T) {
	for want, f := range map[string]func() (any, error){
		"0 attempts":             func() (any, error) { return retry.New(0, nil) },
		"not the code":           func() (any, error) { return retry.New(2, &retry.Options{Codes: []core.Code{core.CodeOK}}) },
		"AttemptTimeout is nega": func() (any, error) { return retry.New(2, &retry.Options{AttemptTimeout: -1}) },
		"MaxPushback is nega":    func() (any, error) { return retry.New(2, &retry.Options{MaxPushback: -1}) },
		"is less than":           func() (any, error) { return retry.New(2, &retry.Options{Backoff: 2, MaxBackoff: 1}) },
		"a budget of 0":          func() (any, error) { return retry.NewBudget(0, 1) },
		"ratio is NaN":           func() (any, error) { return retry.NewBudget(1, math.NaN()) },
		"ratio is -1":            func() (any, error) { return retry.NewBudget(1, -1) },
		"ratio is +Inf":          func() (any, error) { return retry.NewBudget(1, math.Inf(1)) },
	} {
		if _, err := f(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

func measure(policy ...core.Interceptor) float64 {
	chain := core.NewChain(policy...)
	request := &rpctest.Request{}
	return testing.AllocsPerRun(200, func() {
		_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{Side: core.SideClient, Requests: []any{request}}).Call)
	})
}

// once makes one attempt and no more: what core asks of whoever may make another.
func once(ctx context.Context, call *core.Call, next core.Handler) error {
	attempt := call.NewAttempt()
	err := next(ctx, attempt)
	call.Adopt(attempt)
	return err
}

func TestCosts(t *testing.T) {
	bare := measure()
	if got := measure(must(3, nil)); got > bare {
		t.Errorf("a call that is not tried again costs %v allocations", got-bare)
	}
	attempt := measure(core.InterceptorFunc(once))
	if got := measure(must(3, &retry.Options{Methods: all})); got > attempt {
		t.Errorf("the policy costs %v allocations beside the %v of an attempt", got-attempt, attempt-bare)
	}
}

func BenchmarkRetry(b *testing.B) {
	for name, chain := range map[string]*core.Chain{
		"bare": core.NewChain(), "attempt": core.NewChain(core.InterceptorFunc(once)),
		"off": core.NewChain(must(3, nil)), "on": core.NewChain(must(3, &retry.Options{Methods: all})),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{Side: core.SideClient}).Call)
			}
		})
	}
}
