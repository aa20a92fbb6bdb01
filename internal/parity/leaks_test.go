package parity

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
	"github.com/rpcweft/weft/rpctest"
)

// kinds are the kinds of client stream that there are.
var kinds = []rpctest.Path{
	{Client: rpctest.Connect, Server: rpctest.Connect, Protocol: core.ProtocolConnect, Codec: "proto", HTTP: 1},
	{Client: rpctest.Connect, Server: rpctest.Connect, Protocol: core.ProtocolConnect, Codec: "proto", HTTP: 2},
	{Client: rpctest.Connect, Server: rpctest.Connect, Protocol: core.ProtocolGRPC, Codec: "proto", HTTP: 2},
	{Client: rpctest.Connect, Server: rpctest.Connect, Protocol: core.ProtocolGRPCWeb, Codec: "proto", HTTP: 2},
	{Client: rpctest.GRPC, Server: rpctest.GRPC, Protocol: core.ProtocolGRPC, Codec: "proto", HTTP: 2},
}

// manner is what the application does with a stream that is open.
type manner int

const (
	drains      manner = iota // reads to the end
	receives                  // reads beyond the end
	cancels                   // cancels midway and reads on
	cancelsAway               // cancels and never touches it again
	expires                   // has a deadline and never touches it again
	forgets                   // never touches it again, whoever ends it (an interceptor does)
	closes                    // closes early, and once more
	atOnce                    // sends and receives at once, from two goroutines
	aside                     // cancels or closes from another goroutine than the one that receives
	manners
)

func (m manner) String() string {
	return [...]string{"drains", "receives on", "cancels", "cancels and abandons", "expires", "forgets", "closes", "at once", "aside"}[m]
}

// fate is what shall happen to one stream, and the books about what did.
type fate struct {
	number   int
	shape    core.Shape
	end      manner
	inputs   []string
	hook     string        // what a hook does with a message: "", "fail", "panic" or "wait"
	request  bool          // of requests
	at       int32         // which message
	limit    time.Duration // of an interceptor, 0 for none
	stray    bool          // an interceptor gives up on its next after the limit
	refusals int           // how many attempts the server refuses; nobody retries if negative
	after    time.Duration // until what is done aside

	outer, inner, attempts, strays ledger
	release                        context.CancelFunc
}

func (f *fate) String() string {
	return fmt.Sprintf("stream %d, %s, %s: inputs %q, hook %q at %d (of requests: %v), limit %v, stray %v, refusals %d",
		f.number, f.shape, f.end, f.inputs, f.hook, f.at, f.request, f.limit, f.stray, f.refusals)
}

// quiet reports whether nothing keeps the stream from being a success.
func (f *fate) quiet() bool { return f.hook == "" && f.limit == 0 && f.refusals < 3 }

// newFate draws a fate.
func newFate(random *rand.Rand, number int, path rpctest.Path) *fate {
	shapes := slices.DeleteFunc(slices.Clone(streams), func(shape core.Shape) bool { return !path.Can(shape) })
	f := &fate{
		number: number, refusals: -1,
		shape: shapes[random.IntN(len(shapes))], end: manner(random.IntN(int(manners))),
		after: time.Duration(random.IntN(1500)) * time.Microsecond,
	}
	if f.end == atOnce && path.Can(core.ShapeBidiStream) {
		f.shape = core.ShapeBidiStream
	}
	for range random.IntN(4) {
		f.inputs = append(f.inputs, "abc")
	}
	last := []string{"xyz", "fail:aborted", "fail-after:9:data_loss", "sleep:1ms"}
	if f.end != drains && f.end != receives && f.end != atOnce {
		last = append(last, "hang", "hang", "hang")
	}
	if f.end == drains {
		last = []string{"xyz"}
	}
	f.inputs = append(f.inputs, last[random.IntN(len(last))])
	if f.shape == core.ShapeServerStream {
		f.inputs = f.inputs[len(f.inputs)-1:]
	}
	if f.end == forgets || random.IntN(6) == 0 {
		f.limit = time.Duration(1+random.IntN(3000)) * time.Microsecond
	}
	if random.IntN(3) == 0 {
		f.hook, f.request, f.at = []string{"fail", "panic"}[random.IntN(2)], random.IntN(2) == 0, int32(1+random.IntN(3))
		if f.limit > 0 && random.IntN(2) == 0 {
			f.hook = "wait"
		}
	}
	if random.IntN(2) == 0 {
		f.refusals = random.IntN(4)
	}
	return f
}

// ledger counts how often something was entered and left, and which hooks ran too late.
type ledger struct{ entered, left, late atomic.Int32 }

func (l *ledger) even() bool { return l.entered.Load() == l.left.Load() }

// watch calls next and sees to it that no hook runs after it.
func (l *ledger) watch(ctx context.Context, call *core.Call, next core.Handler) error {
	var running, over atomic.Int32
	hook := func(context.Context, any) error {
		running.Add(1)
		defer running.Add(-1)
		if over.Load() != 0 {
			l.late.Add(1)
		}
		runtime.Gosched()
		return nil
	}
	call.OnRequest(hook)
	call.OnResponse(hook)
	l.entered.Add(1)
	defer l.left.Add(1)
	defer func() {
		over.Store(1)
		if running.Load() != 0 {
			l.late.Add(1)
		}
	}()
	return next(ctx, call)
}

type fateKey struct{}

// fated makes an interceptor that knows the stream's fate.
func fated(intercept func(f *fate, ctx context.Context, call *core.Call, next core.Handler) error) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		f, ok := ctx.Value(fateKey{}).(*fate)
		if !ok {
			return errors.DataLoss("the application's context is lost")
		}
		return intercept(f, ctx, call, next)
	})
}

// fatedChain is what the streams go through.
func fatedChain() []core.Interceptor {
	return []core.Interceptor{
		fated((*fate).giveUp),
		fated(func(f *fate, ctx context.Context, call *core.Call, next core.Handler) error {
			return f.outer.watch(ctx, call, next)
		}),
		fated((*fate).strike),
		fated((*fate).hurry),
		fated((*fate).retry),
		fated(func(f *fate, ctx context.Context, call *core.Call, next core.Handler) error {
			return f.inner.watch(ctx, call, next)
		}),
	}
}

// giveUp runs next in a goroutine of its own and may not wait for it.
func (f *fate) giveUp(ctx context.Context, call *core.Call, next core.Handler) error {
	if !f.stray {
		return next(ctx, call)
	}
	done := make(chan error, 1)
	f.strays.entered.Add(1)
	go func() {
		defer f.strays.left.Add(1)
		defer func() {
			if value := recover(); value != nil {
				done <- errors.Internal("panic")
			}
		}()
		done <- next(ctx, call)
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(f.limit):
		return errors.DeadlineExceeded("gave up")
	}
}

// strike has the hook that fails, panics or waits.
func (f *fate) strike(ctx context.Context, call *core.Call, next core.Handler) error {
	var met atomic.Int32
	hook := func(ctx context.Context, _ any) error {
		if met.Add(1) != f.at {
			return nil
		}
		switch f.hook {
		case "fail":
			return errors.OutOfRange("struck")
		case "panic":
			panic("struck")
		}
		<-ctx.Done()
		return ctx.Err()
	}
	switch {
	case f.hook == "":
	case f.request:
		call.OnRequest(hook)
	default:
		call.OnResponse(hook)
	}
	return next(ctx, call)
}

// hurry sets a limit in the plainest way.
func (f *fate) hurry(ctx context.Context, call *core.Call, next core.Handler) error {
	if f.limit == 0 || f.stray {
		return next(ctx, call)
	}
	ctx, cancel := context.WithTimeout(ctx, f.limit)
	defer cancel()
	return next(ctx, call)
}

// retry makes up to three attempts.
func (f *fate) retry(ctx context.Context, call *core.Call, next core.Handler) error {
	if f.refusals < 0 {
		return next(ctx, call)
	}
	for {
		attempt := call.NewAttempt()
		if err := attempt.RequestHeader().Set("x-attempt", strconv.Itoa(attempt.Attempt())); err != nil {
			return err
		}
		err := func() error {
			f.attempts.entered.Add(1)
			defer f.attempts.left.Add(1)
			return next(ctx, attempt)
		}()
		if core.CodeOf(err) != core.CodeUnavailable || attempt.Attempt() == 3 || attempt.Committed() {
			call.Adopt(attempt)
			return err
		}
	}
}

// play is the application. It returns what it did not expect.
func (f *fate) play(ctx context.Context, c *rpctest.Client) (problem error) {
	expect := func() {
		if value := recover(); value != nil && f.hook != "panic" {
			problem = errors.Internal("panicked: %v", value)
		}
	}
	defer expect()
	ctx = context.WithValue(ctx, fateKey{}, f)
	if f.end == expires {
		ctx, f.release = context.WithTimeout(ctx, f.after)
	}
	s, err := c.With("x-refusals", strconv.Itoa(f.refusals)).Open(ctx)
	if err != nil {
		return nil // grpc tells of the end in this way
	}
	if f.end == atOnce {
		f.both(s, expect)
		return problem
	}
	for _, input := range f.inputs {
		if err = s.Send(input); err != nil {
			break // Receive says why
		}
	}
	if f.end == aside {
		time.AfterFunc(f.after, func() {
			if f.number%2 == 0 {
				s.Cancel()
				return
			}
			defer func() { _ = recover() }() // of a hook
			_ = s.Close()
		})
	}
	switch f.end {
	case drains, receives:
		res := s.Drain()
		if f.end == drains && f.quiet() && (res.Err != nil || len(res.Outputs) == 0) {
			problem = errors.Internal("%s", res)
		}
		if f.end == receives {
			problem = f.again(s, res.Err)
		}
	case cancels:
		if f.shape.ServerStreams() && err == nil {
			_, _ = s.Receive()
		}
		s.Cancel()
		for range 20 { // what was received before may still be read
			if _, err = s.Receive(); err != nil {
				break
			}
		}
		if err == nil {
			problem = errors.Internal("received after Cancel without an end")
		}
	case cancelsAway:
		s.Cancel()
	case expires, forgets:
	case closes:
		_ = s.Close()
		_ = s.Close()
		_, _ = s.Receive()
	case aside:
		for err == nil {
			_, err = s.Receive()
		}
	case atOnce, manners:
	}
	return problem
}

// again demands that the end stays what it was.
func (f *fate) again(s *rpctest.Stream, first error) (problem error) {
	for range 3 {
		output, err := s.Receive()
		if want := core.CodeOf(first).String(); first == nil && eof(err) != "EOF" || first != nil && eof(err) != want {
			problem = errors.Internal("the stream ended with %v; Receive after that returned %q, %v", first, output, err)
		}
	}
	return problem
}

// both sends and receives at once.
func (f *fate) both(s *rpctest.Stream, expect func()) {
	var sending sync.WaitGroup
	if f.shape == core.ShapeBidiStream {
		sending.Go(func() {
			defer expect()
			for _, input := range append(f.inputs, "xyz", "xyz") {
				if s.Send(input) != nil {
					break
				}
			}
			_ = s.CloseSend()
		})
	} else {
		for _, input := range f.inputs {
			if s.Send(input) != nil {
				break
			}
		}
	}
	func() {
		defer expect()
		for {
			if _, err := s.Receive(); err != nil {
				break
			}
		}
	}()
	sending.Wait()
}

// books are those of a server.
type books struct {
	ledger

	stop chan struct{} // ends handlers that hang
}

// options are those of servers that can do to streams what a fate wants.
func (b *books) options(chain []core.Interceptor) *rpctest.Options {
	watch := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		return b.watch(ctx, call, func(ctx context.Context, call *core.Call) error {
			number, _ := strconv.Atoi(call.RequestHeader().Get("x-attempt"))
			refusals, _ := strconv.Atoi(call.RequestHeader().Get("x-refusals"))
			switch {
			case number == 0 || number > refusals:
			case number%2 == 1:
				return errors.Unavailable("refused")
			default:
				call.OnRequest(func(context.Context, any) error { return errors.Unavailable("refused after a message") })
			}
			return next(ctx, call)
		})
	})
	hang := func(ctx context.Context, in *rpctest.Input) (string, error) {
		if in.Streams() {
			if err := in.Send("first"); err != nil {
				return "", err
			}
		}
		select {
		case <-ctx.Done():
		case <-b.stop: // HTTP/1.1 does not tell a server that reads no more
		}
		return "", ctx.Err()
	}
	return &rpctest.Options{
		Client:         chain,
		Server:         []core.Interceptor{errors.NewInterceptor(nil), watch},
		Cases:          map[string]rpctest.Case{"hang": hang},
		HandlerOptions: cheap,
	}
}

// eventually waits until a condition holds.
func eventually(condition func() bool) bool {
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// baseline returns the number of goroutines when it has come to rest.
func baseline() int {
	n := runtime.NumGoroutine()
	for calm := 0; calm < 20; calm++ {
		time.Sleep(time.Millisecond)
		if now := runtime.NumGoroutine(); now != n {
			n, calm = now, 0
		}
	}
	return n
}

// stacks returns those of all goroutines, alike ones once.
func stacks() string {
	var all strings.Builder
	_ = pprof.Lookup("goroutine").WriteTo(&all, 1)
	return all.String()
}

// wantRest demands that no stream runs and that there are no more goroutines than before.
func wantRest(t *testing.T, before int) {
	t.Helper()
	if !eventually(func() bool { return runtime.NumGoroutine() <= before }) {
		t.Errorf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), stacks())
	}
}

// wantEven demands that whatever was entered was left, once, and that no hook ran late.
func wantEven(t *testing.T, fates []*fate, b *books) {
	t.Helper()
	ledgers := func(f *fate) map[string]*ledger {
		return map[string]*ledger{"outer": &f.outer, "inner": &f.inner, "attempts": &f.attempts, "strays": &f.strays}
	}
	uneven := func() (list []string) {
		for _, f := range fates {
			for name, l := range ledgers(f) {
				if !l.even() {
					list = append(list, fmt.Sprintf("%s: %s entered %d times, left %d times", f, name, l.entered.Load(), l.left.Load()))
				}
			}
		}
		return list
	}
	if !eventually(func() bool { return len(uneven()) == 0 }) {
		list := uneven()
		t.Errorf("%d interceptors have not come back:\n%s\n%s", len(list), strings.Join(list[:min(len(list), 10)], "\n"), stacks())
	}
	close(b.stop)
	if !eventually(b.even) {
		t.Errorf("%d handlers entered, %d left:\n%s", b.entered.Load(), b.left.Load(), stacks())
	}
	if b.late.Load() != 0 {
		t.Errorf("%d hooks of the server ran late", b.late.Load())
	}
	for _, f := range fates {
		for name, l := range ledgers(f) {
			if l.late.Load() != 0 {
				t.Errorf("%s: %d hooks of %s ran late", f, l.late.Load(), name)
			}
		}
		if n := f.outer.entered.Load(); n > 1 || n == 0 && f.end == drains {
			t.Errorf("%s: the outer interceptor was entered %d times", f, n)
		}
		if inner, attempts := f.inner.entered.Load(), f.attempts.entered.Load(); f.refusals >= 0 && inner > attempts || inner > 3 {
			t.Errorf("%s: the inner interceptor was entered %d times, for %d attempts", f, inner, attempts)
		}
	}
}

// Thousands of client streams of each kind end in all ways that there are: each interceptor is left as often as it was
// entered, no hook runs late, and no goroutine stays behind.
func TestNoClientStreamLeaks(t *testing.T) { playAll(t, 2500, func(*fate) {}) }

// The same when an interceptor runs next in a goroutine of its own and gives up on it: the stray next comes back.
func TestAnInterceptorMayGiveUpOnItsNext(t *testing.T) {
	playAll(t, 500, func(f *fate) {
		f.stray, f.limit = true, max(f.limit, f.after)*time.Duration(1+f.number%10)
	})
}

// playAll plays n fates, amended, of each kind.
func playAll(t *testing.T, n int, amend func(*fate)) {
	if testing.Short() {
		n /= 10
	}
	for i, path := range kinds {
		t.Run(path.String(), func(t *testing.T) {
			random := rand.New(rand.NewPCG(20260730, uint64(i)))
			fates := make([]*fate, n)
			for i := range fates {
				fates[i] = newFate(random, i, path)
				amend(fates[i])
			}
			before := baseline()
			b := &books{stop: make(chan struct{})}
			servers := rpctest.NewServers(t, b.options(fatedChain()))
			ctx, cancel := context.WithCancel(context.Background()) // outlives all, and ends none of them
			defer cancel()
			const workers = 16
			var playing sync.WaitGroup
			problems := make(chan string, n)
			for w := range workers {
				client := servers.Client(path, streams[0]) // more connections than one, but not one for each stream
				playing.Go(func() {
					for i := w; i < n; i += workers {
						if err := fates[i].play(ctx, client.InShape(fates[i].shape)); err != nil {
							problems <- fmt.Sprintf("%s: %v", fates[i], err)
						}
					}
				})
			}
			if !within(time.Minute, playing.Wait) {
				t.Fatalf("an application hangs:\n%s", stacks())
			}
			for range len(problems) {
				t.Error(<-problems)
			}
			wantEven(t, fates, b)
			servers.Close()
			cancel()
			wantRest(t, before)
			var attempts int32
			for _, f := range fates {
				attempts += f.attempts.entered.Load()
				if f.release != nil {
					f.release()
				}
			}
			t.Logf("%d streams, %d attempts, %d handlers", n, attempts, b.entered.Load())
		})
	}
}

// within reports whether f returns before a limit.
func within(limit time.Duration, f func()) bool {
	done := make(chan struct{})
	go func() {
		f()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// A connection of grpc that is closed in the middle ends its streams, whatever the application is doing with them.
func TestAClosedConnectionEndsItsStreams(t *testing.T) {
	path := kinds[len(kinds)-1]
	conns, each := 40, 12
	if testing.Short() {
		conns = 5
	}
	random := rand.New(rand.NewPCG(20260730, 99))
	before := baseline()
	b := &books{stop: make(chan struct{})}
	servers := rpctest.NewServers(t, b.options(fatedChain()))
	fates := make([]*fate, 0, conns*each)
	for range conns {
		conn := servers.Conn(path)
		client := dummyv1.NewDummyServiceClient(conn)
		var playing, open sync.WaitGroup
		for i := range each {
			f := newFate(random, len(fates), path)
			f.shape, f.inputs, f.limit, f.stray = core.ShapeBidiStream, nil, 0, false
			if f.hook == "wait" {
				f.hook = ""
			}
			fates = append(fates, f)
			ctx := context.WithValue(context.Background(), fateKey{}, f)
			open.Add(1)
			playing.Go(func() {
				defer func() { _ = recover() }() // of a hook
				stream, err := client.ExecuteClientServerStream(ctx)
				open.Done()
				if err != nil {
					return
				}
				switch i % 4 {
				case 0: // parked, and never touched again
				case 1: // in Receive
					_ = stream.Send(&dummyv1.DummyRequest{Input: "hang"})
					for err == nil {
						_, err = stream.Recv()
					}
				case 2: // in Send
					for err == nil {
						err = stream.Send(&dummyv1.DummyRequest{Input: "abc"})
					}
					for range 3 {
						_, _ = stream.Recv()
					}
				case 3: // in Header
					_, _ = stream.Header()
				}
			})
		}
		open.Wait()
		time.Sleep(time.Duration(random.IntN(2000)) * time.Microsecond)
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if !within(patience, playing.Wait) {
			t.Fatalf("an application hangs on a closed connection:\n%s", stacks())
		}
	}
	wantEven(t, fates, b)
	servers.Close()
	wantRest(t, before)
}

// A server that goes away ends the streams on which the application waits.
func TestAClosedServerEndsTheStreamsThatWait(t *testing.T) {
	for i, path := range kinds {
		t.Run(path.String(), func(t *testing.T) {
			random := rand.New(rand.NewPCG(20260730, 200+uint64(i)))
			before := baseline()
			b := &books{stop: make(chan struct{})}
			servers := rpctest.NewServers(t, b.options(fatedChain()))
			client := servers.Client(path, streams[0])
			const n = 60
			fates := make([]*fate, 0, n)
			var playing sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for range n {
				f := newFate(random, len(fates), path)
				f.hook, f.limit, f.stray, f.end, f.inputs = "", 0, false, receives, []string{"hang"}
				f.refusals = min(f.refusals, 2)
				fates = append(fates, f)
				playing.Go(func() {
					s, err := client.InShape(f.shape).With("x-refusals", strconv.Itoa(f.refusals)).Open(context.WithValue(ctx, fateKey{}, f))
					if err != nil {
						return
					}
					_ = s.Send("hang")
					for err == nil {
						_, err = s.Receive() // and no Close after it
					}
				})
			}
			eventually(func() bool { return b.entered.Load() >= n })
			servers.Close()
			if !within(patience, playing.Wait) {
				t.Errorf("an application hangs on a server that is gone:\n%s", stacks())
				cancel()
			}
			wantEven(t, fates, b)
			wantRest(t, before)
		})
	}
}

// A stream that the application forgets ends by itself when its deadline comes: not before, and with nothing left of it,
// or the bubble would not end.
func TestAForgottenStreamEndsAtItsDeadline(t *testing.T) {
	const hour = time.Hour
	for name, limits := range map[string]struct{ application, interceptor time.Duration }{
		"of the application":                          {hour, 0},
		"of an interceptor":                           {0, hour},
		"of an interceptor, before the application's": {2 * hour, hour},
	} {
		for _, path := range rpctest.Paths() {
			for _, shape := range streams {
				if !path.Can(shape) {
					continue
				}
				t.Run(fmt.Sprint(name, "/", path, "/", shape), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						f := &fate{shape: shape, refusals: -1, limit: limits.interceptor}
						var end time.Time
						timed := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
							err := next(ctx, call)
							if end = time.Now(); core.CodeOf(err) != core.CodeDeadlineExceeded {
								t.Errorf("next returned %v", err)
							}
							return err
						})
						b := &books{stop: make(chan struct{})}
						servers := rpctest.NewServers(t, b.options(append([]core.Interceptor{timed}, fatedChain()...)))
						ctx, cancel := context.WithCancel(context.WithValue(context.Background(), fateKey{}, f))
						if limits.application > 0 {
							ctx, cancel = context.WithTimeout(ctx, limits.application)
						}
						start := time.Now()
						s, err := servers.Client(path, shape).Open(ctx)
						if err != nil {
							t.Fatal(err)
						}
						if err := s.Send("hang"); err != nil {
							t.Fatal(err)
						}
						time.Sleep(hour - time.Nanosecond)
						synctest.Wait()
						if f.outer.left.Load() != 0 || f.outer.entered.Load() != 1 {
							t.Errorf("before the deadline: entered %d times, left %d times", f.outer.entered.Load(), f.outer.left.Load())
						}
						time.Sleep(time.Nanosecond)
						synctest.Wait()
						for _, l := range []*ledger{&f.outer, &f.inner} {
							if l.left.Load() != 1 || l.entered.Load() != 1 || l.late.Load() != 0 {
								t.Errorf("after the deadline: entered %d times, left %d times, %d hooks ran late", l.entered.Load(), l.left.Load(), l.late.Load())
							}
						}
						if took := end.Sub(start); took != hour {
							t.Errorf("the stream ended after %v", took)
						}
						close(b.stop)
						servers.Close()
						cancel()
						time.Sleep(hour) // what is let go of later
					})
				})
			}
		}
	}
}

// The same for streams that are canceled and not touched again, at any point, with attempts or without.
func TestACanceledStreamLeavesNothingBehind(t *testing.T) {
	for _, path := range rpctest.Paths() {
		t.Run(path.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &books{stop: make(chan struct{})}
				servers := rpctest.NewServers(t, b.options(fatedChain()))
				for _, shape := range streams {
					if !path.Can(shape) {
						continue
					}
					for point := range 4 {
						for refusals := -1; refusals < 4; refusals++ {
							f := &fate{shape: shape, refusals: refusals}
							client := servers.Client(path, shape).With("x-refusals", strconv.Itoa(refusals))
							s, err := client.Open(context.WithValue(context.Background(), fateKey{}, f))
							if err != nil {
								continue // grpc: all attempts were refused
							}
							if point > 0 {
								_ = s.Send("hang")
							}
							if point > 1 && shape.ServerStreams() {
								_, _ = s.Receive()
							}
							if point > 2 && shape == core.ShapeBidiStream {
								_ = s.CloseSend()
							}
							s.Cancel()
							synctest.Wait()
							for name, l := range map[string]*ledger{"outer": &f.outer, "inner": &f.inner, "attempts": &f.attempts} {
								if !l.even() || l.late.Load() != 0 {
									t.Errorf("%s, canceled at point %d, refused %d times: %s entered %d times, left %d times, %d hooks ran late",
										shape, point, refusals, name, l.entered.Load(), l.left.Load(), l.late.Load())
								}
							}
						}
					}
				}
				close(b.stop)
				synctest.Wait()
				if !b.even() {
					t.Errorf("%d handlers entered, %d left", b.entered.Load(), b.left.Load())
				}
				servers.Close()
				time.Sleep(time.Hour) // what is let go of later
			})
		})
	}
}

// A cancellation ends a Receive that waits, whoever has canceled and however much is still open.
func TestACancellationReachesAReceiveInFlight(t *testing.T) {
	for _, by := range []core.Side{core.SideClient, 0} {
		name := map[core.Side]string{core.SideClient: "by an interceptor", 0: "by the application"}[by]
		for _, path := range rpctest.Paths() {
			for _, shape := range streaming {
				if !path.Can(shape) {
					continue
				}
				t.Run(fmt.Sprint(name, "/", path, "/", shape), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						b := &books{stop: make(chan struct{})}
						// Without a deadline, of which the server would hear.
						cancels := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
							ctx, cancel := context.WithCancel(ctx)
							defer cancel()
							if by == call.Side() {
								defer time.AfterFunc(time.Hour, cancel).Stop()
							}
							return next(ctx, call)
						})
						servers := rpctest.NewServers(t, b.options([]core.Interceptor{cancels}))
						s, err := servers.Client(path, shape).Open(t.Context())
						if err != nil {
							t.Fatal(err)
						}
						_ = s.Send("hang")
						if output, err := s.Receive(); output != "first" || err != nil {
							t.Errorf("received %q, %v", output, err)
						}
						returned := make(chan error, 1)
						go func() {
							_, err := s.Receive()
							returned <- err
						}()
						synctest.Wait()
						if by == 0 {
							s.Cancel()
						} else {
							time.Sleep(time.Hour)
						}
						synctest.Wait()
						select {
						case err := <-returned:
							if core.CodeOf(err) != core.CodeCanceled {
								t.Error(err)
							}
						default:
							t.Error("Receive does not return")
						}
						close(b.stop)
						servers.Close()
						time.Sleep(time.Hour) // what is let go of later
					})
				})
			}
		}
	}
}

// The end of an attempt reaches the hooks outside of the attempts too, when a response is on its way to them.
func TestAHookOutsideOfTheAttemptsHearsOfTheirEnd(t *testing.T) {
	for _, path := range kinds[1:] {
		t.Run(path.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				outside := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
					call.OnResponse(func(ctx context.Context, _ any) error {
						<-ctx.Done()
						return ctx.Err()
					})
					return next(ctx, call)
				})
				slow := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
					call.OnResponse(func(context.Context, any) error {
						time.Sleep(2 * time.Hour)
						return nil
					})
					return next(ctx, call)
				})
				f := &fate{limit: time.Hour}
				b := &books{stop: make(chan struct{})}
				servers := rpctest.NewServers(t, b.options([]core.Interceptor{outside, fated((*fate).hurry), fated((*fate).retry), slow}))
				ctx, cancel := context.WithTimeout(context.WithValue(t.Context(), fateKey{}, f), 10*time.Hour)
				defer cancel()
				s, err := servers.Client(path, core.ShapeBidiStream).Open(ctx)
				if err != nil {
					t.Fatal(err)
				}
				_ = s.Send("hang")
				start := time.Now()
				_, err = s.Receive()
				if took := time.Since(start); core.CodeOf(err) != core.CodeDeadlineExceeded || took != 2*time.Hour {
					t.Errorf("Receive returned %v after %v", err, took)
				}
				close(b.stop)
				servers.Close()
				time.Sleep(time.Hour) // what is let go of later
			})
		})
	}
}

// lateResponse is a network on which a response comes at the very moment of the cancellation.
type lateResponse struct {
	closed chan struct{}
	once   sync.Once
}

func (l *lateResponse) RoundTrip(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	time.Sleep(time.Microsecond) // whoever asked has stopped waiting
	return &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 2, Request: req, Body: l,
		Header: http.Header{"Content-Type": {"application/connect+proto"}},
	}, nil
}

func (l *lateResponse) Read([]byte) (int, error) {
	<-l.closed
	return 0, errors.New("closed")
}

func (l *lateResponse) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// A response that comes together with the cancellation is closed too: HTTP/2 keeps the whole stream until then.
func TestAResponseThatComesWithTheCancellationIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &lateResponse{closed: make(chan struct{})}
		client := dummyv1connect.NewDummyServiceClient(&http.Client{Transport: network}, "http://example.com",
			connect.WithInterceptors(connectx.New(pass)))
		ctx, cancel := context.WithCancel(t.Context())
		stream := client.ExecuteClientServerStream(ctx)
		_ = stream.Send(nil)
		synctest.Wait()
		cancel()
		if _, err := stream.Receive(); core.CodeOf(err) != core.CodeCanceled {
			t.Error(err)
		}
		_ = stream.CloseResponse()
		time.Sleep(time.Hour)
		select {
		case <-network.closed:
		default:
			t.Error("the body of the response was never closed")
		}
	})
}

// An end that only Header has seen is an end: the connection can be closed, and nothing of the stream is left.
func TestAStreamThatHeaderHasSeenTheEndOfEndsWithItsConnection(t *testing.T) {
	f := &fate{refusals: -1}
	empty := core.InterceptorFunc(func(context.Context, *core.Call, core.Handler) error { return nil })
	servers := rpctest.NewServers(t, &rpctest.Options{Client: fatedChain(), Server: []core.Interceptor{empty}})
	conn := servers.Conn(kinds[len(kinds)-1])
	stream, err := dummyv1.NewDummyServiceClient(conn).ExecuteClientServerStream(context.WithValue(context.Background(), fateKey{}, f))
	if err != nil {
		t.Fatal(err)
	}
	if md, err := stream.Header(); len(md) != 0 || err != nil {
		t.Errorf("header %v, %v", md, err)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	if !eventually(func() bool { return f.outer.left.Load() == 1 && f.inner.left.Load() == 1 }) {
		t.Error("the stream outlives its connection")
	}
}
