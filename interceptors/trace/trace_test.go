package trace_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/hedge"
	"github.com/rpcweft/weft/interceptors/requestid"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/interceptors/trace"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
	"github.com/rpcweft/weft/rpctest"
)

func must(t testing.TB, capacity int, opts *trace.Options) *trace.Recorder {
	t.Helper()
	rec, err := trace.New(capacity, opts)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// on is a recorder that is on.
func on(t testing.TB) *trace.Recorder {
	t.Helper()
	return must(t, 100, &trace.Options{Enabled: true})
}

func ids(t testing.TB) core.Interceptor {
	t.Helper()
	i, err := requestid.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func pass(ctx context.Context, call *core.Call, next core.Handler) error { return next(ctx, call) }

// named is an interceptor that does nothing.
func named(name string) core.Interceptor { return trace.Named(name, core.InterceptorFunc(pass)) }

// outline draws the spans of a trace without times, one a line: indented, with what is not as usual.
func outline(tr trace.Trace) string {
	var out strings.Builder
	for _, s := range tr.Spans {
		fmt.Fprintf(&out, "%s%s", strings.Repeat(" ", s.Depth), s.Name)
		if s.Attempt > 1 {
			fmt.Fprintf(&out, "#%d", s.Attempt)
		}
		end := s.Code
		if s.Running {
			end += "running"
		}
		if s.Panicked {
			end += "panicked"
		}
		fmt.Fprintf(&out, " %s next=%d %d/%d\n", end, s.Next, s.Requests, s.Responses)
	}
	return out.String()
}

func want(t *testing.T, tr trace.Trace, lines ...string) {
	t.Helper()
	if got := outline(tr); got != strings.Join(lines, "\n")+"\n" {
		t.Errorf("got\n%swant\n%s", got, strings.Join(lines, "\n"))
	}
	consistent(t, tr)
}

// consistent checks what holds for each trace that is over.
func consistent(t *testing.T, tr trace.Trace) {
	t.Helper()
	for i, s := range tr.Spans {
		if (i == 0) != (s.Parent < 0) || s.Parent >= i {
			t.Errorf("span %d has the parent %d", i, s.Parent)
			continue
		}
		if len(s.Events) != min(s.Requests+s.Responses, 100) || !slices.IsSortedFunc(s.Events, func(a, b trace.Event) int { return int(a.At - b.At) }) {
			t.Errorf("%s has the events %v", s.Name, s.Events)
		}
		if i == 0 {
			continue
		}
		if p := tr.Spans[s.Parent]; s.Depth != p.Depth+1 || s.Entered < p.Entered || s.Entered+s.Duration > p.Entered+p.Duration {
			t.Errorf("%+v is not inside of %+v", s, p)
		}
	}
	first := tr.Spans[0]
	if tr.Code != first.Code || tr.Duration != first.Duration || tr.Running != first.Running || tr.Panicked != first.Panicked {
		t.Errorf("the call differs from its outermost span: %+v", tr)
	}
}

// one returns the one call of the recorder.
func one(t *testing.T, rec *trace.Recorder) trace.Trace {
	t.Helper()
	traces := rec.Recent(10)
	if len(traces) != 1 {
		t.Fatalf("%d calls are recorded, want 1: %+v", len(traces), traces)
	}
	return traces[0]
}

// bubble runs test for each path and shape, each in a bubble of its own.
func bubble(t *testing.T, options func(t *testing.T) *rpctest.Options, test func(t *testing.T, c *rpctest.Client)) {
	t.Helper()
	for _, path := range rpctest.Paths() {
		for _, shape := range rpctest.Shapes() {
			if path.Can(shape) {
				t.Run(path.String()+"/"+shape.String(), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := rpctest.NewServers(t, options(t))
						defer s.Close()
						test(t, s.Client(path, shape))
					})
				})
			}
		}
	}
}

func TestTheOnionOnEveryStackAndSide(t *testing.T) {
	var rec *trace.Recorder
	bubble(t, func(t *testing.T) *rpctest.Options {
		rec = on(t)
		return &rpctest.Options{
			Server: rec.Wrap(ids(t), errors.NewInterceptor(nil)),
			Client: rec.Wrap(ids(t), named("log")),
			Cases: map[string]rpctest.Case{"hidden": func(context.Context, *rpctest.Input) (string, error) {
				time.Sleep(time.Second)
				panic("no")
			}},
		}
	}, func(t *testing.T, c *rpctest.Client) {
		for input, end := range map[string][2]string{"a": {"ok", "ok"}, "fail:not_found": {"not_found", "not_found"}, "hidden": {"internal", "panicked"}} {
			inputs := []string{input}
			if input == "a" {
				inputs = append(inputs, "b")
			}
			res := c.With("x-request-id", input).Call(t.Context(), inputs...)
			synctest.Wait() // for the server
			traces := rec.Calls(input)
			if len(traces) != 2 || traces[0].Side != "server" || traces[1].Side != "client" {
				t.Fatalf("got %+v", traces)
			}
			requests, responses := 1, len(res.Outputs)
			if c.Shape.ClientStreams() {
				requests = len(inputs)
			}
			count := fmt.Sprintf("%d/%d", requests, responses)
			want(t, traces[0],
				"requestid "+end[0]+" next=1 "+count,
				" errors "+end[0]+" next=1 "+count,
				"  handler "+end[1]+" next=0 "+count)
			want(t, traces[1],
				"requestid "+end[0]+" next=1 "+count,
				" log "+end[0]+" next=1 "+count,
				"  rpc "+end[0]+" next=0 "+count)
			for _, tr := range traces {
				if tr.ID != input || tr.Method != rpctest.Procedure(c.Shape) || tr.Shape != c.Shape.String() || tr.Protocol != string(c.Path.Protocol) || tr.HTTPMethod != "POST" {
					t.Errorf("got %+v", tr)
				}
				if input == "hidden" && tr.Duration != time.Second {
					t.Errorf("the %s took %v, want 1s", tr.Side, tr.Duration)
				}
			}
		}
	})
}

func TestTimesAreThoseOfTheCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := on(t)
		slow := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			call.OnRequest(func(context.Context, any) error { time.Sleep(10 * time.Nanosecond); return nil })
			call.OnResponse(func(context.Context, any) error { time.Sleep(100 * time.Nanosecond); return nil })
			time.Sleep(1000)
			err := next(ctx, call)
			time.Sleep(2000)
			return err
		})
		call := rpctest.Call(rpctest.Fake{Shape: core.ShapeBidiStream, Requests: []any{1}, Responses: []any{2, 3}, Invoke: func(context.Context, *core.Call) error {
			time.Sleep(5000)
			return nil
		}})
		start := time.Now()
		if err := call.Run(t.Context(), rec.Wrap(trace.Named("slow", slow))...); err != nil {
			t.Fatal(err)
		}
		tr := one(t, rec)
		want(t, tr, "slow ok next=1 1/2", " handler ok next=0 1/2")
		outer := []trace.Event{{"request", 1000}, {"response", 6110}, {"response", 6210}}
		inner := []trace.Event{{"request", 1010}, {"response", 6010}, {"response", 6110}}
		if s := tr.Spans[0]; s.Entered != 0 || s.Duration != 8210 || !slices.Equal(s.Events, outer) {
			t.Errorf("got %+v", s)
		}
		if s := tr.Spans[1]; s.Entered != 1000 || s.Duration != 5210 || !slices.Equal(s.Events, inner) {
			t.Errorf("got %+v", s)
		}
		if !tr.Start.Equal(start) || tr.Start.Location() != time.UTC {
			t.Errorf("it began at %v, want %v", tr.Start, start)
		}
	})
}

func TestACallIsThereWhileItRuns(t *testing.T) {
	var rec *trace.Recorder
	bubble(t, func(t *testing.T) *rpctest.Options {
		rec = on(t)
		late := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			time.Sleep(time.Second)
			return next(ctx, call)
		})
		return &rpctest.Options{Server: rec.Wrap(late), Client: rec.Wrap(ids(t))}
	}, func(t *testing.T, c *rpctest.Client) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.With("x-request-id", "r").Call(t.Context(), "sleep:1h")
		}()
		time.Sleep(time.Minute)
		synctest.Wait()
		traces := rec.Recent(9)
		if len(traces) != 2 {
			t.Fatalf("got %+v", traces)
		}
		for i, inner := range []time.Duration{59 * time.Second, time.Minute} {
			if tr := traces[i]; !tr.Running || tr.Code != "" || tr.Duration != time.Minute || !tr.Spans[1].Running || tr.Spans[1].Duration != inner {
				t.Errorf("got %+v", tr)
			}
		}
		<-done
		synctest.Wait()
		for _, tr := range rec.Recent(9) {
			if tr.Running || tr.Code != "ok" || tr.Duration != time.Hour+time.Second {
				t.Errorf("got %+v", tr)
			}
		}
	})
}

func TestAnAnswerWithoutTheRPC(t *testing.T) {
	for name, answer := range map[string]func(call *core.Call) error{
		"permission_denied next=0 0/0": func(*core.Call) error { return errors.PermissionDenied("no") },
		"ok next=0 0/1":                func(call *core.Call) error { return call.SetResponse(&rpctest.Response{}) },
	} {
		rec := on(t)
		deny := core.InterceptorFunc(func(_ context.Context, call *core.Call, _ core.Handler) error { return answer(call) })
		_ = rpctest.Call(rpctest.Fake{}).Run(t.Context(), rec.Wrap(named("log"), trace.Named("deny", deny), named("inner"))...)
		want(t, one(t, rec), strings.Replace("log "+name, "next=0", "next=1", 1), " deny "+name)
	}
}

func TestAMessageThatAHookStopsPassedThoseBefore(t *testing.T) {
	for _, shape := range rpctest.Shapes() {
		for _, request := range []bool{true, false} {
			rec := on(t)
			stop := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
				hook := func(context.Context, any) error { return errors.InvalidArgument("no") }
				if request {
					call.OnRequest(hook)
				} else {
					call.OnResponse(hook)
				}
				return next(ctx, call)
			})
			fake := rpctest.Fake{Shape: shape, Requests: []any{&rpctest.Request{}}, Responses: []any{&rpctest.Response{}}}
			_ = rpctest.Call(fake).Run(t.Context(), rec.Wrap(named("log"), trace.Named("stop", stop))...)
			outside, inside := "1/0", "1/1"
			if request {
				inside = "0/0"
			}
			want(t, one(t, rec), "log invalid_argument next=1 "+outside, " stop invalid_argument next=1 "+outside, "  handler invalid_argument next=0 "+inside)
		}
	}
}

// tries makes so many attempts, whatever comes of them.
func tries(n int) core.Interceptor {
	return trace.Named("tries", core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) (err error) {
		for range n {
			attempt := call.NewAttempt()
			err = next(ctx, attempt)
			call.Adopt(attempt)
		}
		return err
	}))
}

func TestEachAttemptHasSpansOnEveryStack(t *testing.T) {
	var rec *trace.Recorder
	bubble(t, func(t *testing.T) *rpctest.Options {
		rec = on(t)
		again, err := retry.New(3, &retry.Options{Methods: func(*core.Call) bool { return true }})
		if err != nil {
			t.Fatal(err)
		}
		return &rpctest.Options{Client: rec.Wrap(ids(t), again, named("inner"))}
	}, func(t *testing.T, c *rpctest.Client) {
		c.Call(t.Context(), "fail:unavailable").Want(t, core.CodeUnavailable, "")
		want(t, one(t, rec),
			"requestid unavailable next=1 1/0",
			" retry unavailable next=3 1/0",
			"  inner unavailable next=1 1/0",
			"   rpc unavailable next=0 1/0",
			"  inner#2 unavailable next=1 1/0",
			"   rpc#2 unavailable next=0 1/0",
			"  inner#3 unavailable next=1 1/0",
			"   rpc#3 unavailable next=0 1/0")
	})
}

func TestAttemptsAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := on(t)
		twice, err := hedge.New(time.Second, &hedge.Options{Methods: func(*core.Call) bool { return true }})
		if err != nil {
			t.Fatal(err)
		}
		call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Responses: []any{&rpctest.Response{}}, Invoke: func(ctx context.Context, call *core.Call) error {
			if call.Attempt() == 2 {
				time.Sleep(time.Second)
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}})
		if err := call.Run(t.Context(), rec.Wrap(twice, named("inner"))...); err != nil {
			t.Fatal(err)
		}
		tr := one(t, rec)
		want(t, tr, "hedge ok next=2 1/1", " inner canceled next=1 1/0", "  rpc canceled next=0 1/0", " inner#2 ok next=1 1/1", "  rpc#2 ok next=0 1/1")
		if tr.Spans[2].Parent != 1 || tr.Spans[4].Parent != 3 || tr.Spans[3].Entered != time.Second || tr.Spans[1].Duration != 2*time.Second {
			t.Errorf("got %+v", tr.Spans)
		}
	})
}

func TestCompositesAreOneSpanUnlessTheyAreWrappedToo(t *testing.T) {
	run := func(rec *trace.Recorder, side core.Side, chain ...core.Interceptor) trace.Trace {
		t.Helper()
		if err := rpctest.Call(rpctest.Fake{Side: side, Responses: []any{&rpctest.Response{}}}).Run(t.Context(), rec.Wrap(chain...)...); err != nil {
			t.Fatal(err)
		}
		return one(t, rec)
	}
	always := core.MatchSide(core.SideServer)
	rec := on(t)
	want(t, run(rec, core.SideServer, named("a"), core.NewChain(named("b"), named("c")), core.When(always, named("d"))),
		"a ok next=1 1/1", " core.Chain ok next=1 1/1", "  core.when ok next=1 1/1", "   handler ok next=0 1/1")

	rec = on(t)
	inner := core.NewChain(rec.Wrap(named("b"), named("c"))...)
	want(t, run(rec, core.SideServer, named("a"), trace.Named("both", inner), core.When(always, core.NewChain(rec.Wrap(named("d"))...)),
		core.When(core.MatchNot(always), core.NewChain(rec.Wrap(named("e"))...)), named("f")),
		"a ok next=1 1/1", " both ok next=1 1/1", "  b ok next=1 1/1", "   c ok next=1 1/1", "    core.when ok next=1 1/1", "     d ok next=1 1/1",
		"      core.when ok next=1 1/1", "       f ok next=1 1/1", "        handler ok next=0 1/1")

	// Attempts that are made inside of the composite, and a composite that runs its own chain.
	rec = on(t)
	inner = core.NewChain(tries(2), core.NewChain(rec.Wrap(named("b"))...))
	opaque := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		return inner.Intercept(ctx, call, next)
	})
	want(t, run(rec, core.SideClient, named("a"), trace.Named("opaque", opaque), named("c")),
		"a ok next=1 1/1", " opaque ok next=2 1/1",
		"  b ok next=1 1/1", "   c ok next=1 1/1", "    rpc ok next=0 1/1",
		"  b#2 ok next=1 1/1", "   c#2 ok next=1 1/1", "    rpc#2 ok next=0 1/1")
}

// One chain may serve a server and the clients that its handlers and interceptors use: each call is its own.
func TestACallThatAHandlerOrAnInterceptorMakesIsItsOwn(t *testing.T) {
	rec := on(t)
	var chain []core.Interceptor
	client := func(ctx context.Context) error {
		return rpctest.Call(rpctest.Fake{Side: core.SideClient}).Run(ctx, chain...)
	}
	chain = rec.Wrap(ids(t), trace.Named("asks", core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if call.Side() == core.SideServer {
			if err := client(ctx); err != nil {
				return err
			}
		}
		return next(ctx, call)
	})), named("last"))
	call := rpctest.Call(rpctest.Fake{RequestHeader: map[string][]string{"x-request-id": {"r"}}, Invoke: func(ctx context.Context, _ *core.Call) error { return client(ctx) }})
	if err := call.Run(t.Context(), chain...); err != nil {
		t.Fatal(err)
	}
	traces := rec.Calls("r")
	if len(traces) != 3 {
		t.Fatalf("%d calls, want 3", len(traces))
	}
	for i, tr := range traces {
		rpc := "rpc"
		if i == 2 {
			rpc = "handler"
		}
		want(t, tr, "requestid ok next=1 1/0", " asks ok next=1 1/0", "  last ok next=1 1/0", "   "+rpc+" ok next=0 1/0")
	}

	// The same method again, on the same side, made by what is innermost.
	rec = on(t)
	chain = rec.Wrap(named("a"))
	call = rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(ctx context.Context, _ *core.Call) error { return client(ctx) }})
	if err := call.Run(t.Context(), chain...); err != nil {
		t.Fatal(err)
	}
	for _, tr := range rec.Recent(2) {
		want(t, tr, "a ok next=1 1/0", " rpc ok next=0 1/0")
	}
}

func TestPanicsPassAsTheyAre(t *testing.T) {
	value := &struct{ int }{1}
	for _, v := range []any{value, http.ErrAbortHandler, nil} {
		rec := on(t)
		done := make(chan any)
		go func() {
			var got any
			defer func() { done <- got }()
			defer func() { got = recover() }()
			_ = rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error {
				if v == nil {
					runtime.Goexit()
				}
				panic(v)
			}}).Run(t.Context(), rec.Wrap(named("a"))...)
		}()
		if got := <-done; got != v {
			t.Errorf("%v became %v", v, got)
		}
		want(t, one(t, rec), "a panicked next=1 1/0", " handler panicked next=0 1/0")
	}
}

func TestWhatIsNotRecordedIsAsWithout(t *testing.T) {
	rec := must(t, 10, nil)
	seen := 0
	chain := []core.Interceptor{core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if seen++; seen == 2 {
			rec.SetEnabled(true) // within a call
		}
		return next(ctx, call)
	}), named("b")}
	run := func() {
		if err := rpctest.Call(rpctest.Fake{}).Run(t.Context(), rec.Wrap(chain...)...); err != nil {
			t.Fatal(err)
		}
	}
	run()
	run()
	if rec.Recent(1) != nil || !rec.Enabled() {
		t.Errorf("got %+v", rec.Recent(1))
	}
	run()
	want(t, one(t, rec), "trace_test.TestWhatIsNotRecordedIsAsWithout ok next=1 1/0", " b ok next=1 1/0", "  handler ok next=0 1/0")
	rec.SetEnabled(false)
	run()
	if len(rec.Recent(9)) != 1 {
		t.Error("a call was recorded while it was off")
	}

	var none *trace.Recorder
	none.SetEnabled(true)
	if got := none.Wrap(chain...); len(got) != 2 || none.Enabled() || none.Calls("x") != nil || none.Recent(1) != nil {
		t.Errorf("a nil recorder does something: %v", got)
	}
}

func TestOneNextTooManyIsTheSameErrorAsWithout(t *testing.T) {
	inner := func(rec *trace.Recorder) *core.Chain { return core.NewChain(rec.Wrap(core.InterceptorFunc(pass))...) }
	for name, twice := range map[string]func(rec *trace.Recorder) core.InterceptorFunc{
		"the same call": func(*trace.Recorder) core.InterceptorFunc {
			return func(ctx context.Context, call *core.Call, next core.Handler) error {
				_ = next(ctx, call)
				return next(ctx, call)
			}
		},
		"in a chain of its own": func(rec *trace.Recorder) core.InterceptorFunc {
			return func(ctx context.Context, call *core.Call, next core.Handler) error {
				_ = inner(rec).Intercept(ctx, call, next)
				return inner(rec).Intercept(ctx, call, next)
			}
		},
	} {
		run := func(rec *trace.Recorder) error {
			return rpctest.Call(rpctest.Fake{}).Run(t.Context(), rec.Wrap(twice(rec), core.InterceptorFunc(pass))...)
		}
		if bare, with := run(nil), run(on(t)); fmt.Sprint(bare) != fmt.Sprint(with) || core.CodeOf(with) != core.CodeInternal {
			t.Errorf("%s: got %v, without recording %v", name, with, bare)
		}
	}
}

func TestAContextThatIsNotOfTheCallHidesTheRest(t *testing.T) {
	rec := on(t)
	lost := core.InterceptorFunc(func(_ context.Context, call *core.Call, next core.Handler) error {
		return next(context.Background(), call)
	})
	_ = rpctest.Call(rpctest.Fake{}).Run(t.Context(), rec.Wrap(trace.Named("lost", lost), named("b"))...)
	want(t, one(t, rec), "lost ok next=0 1/0")
}

func TestItIsBounded(t *testing.T) {
	rec := must(t, 3, &trace.Options{Enabled: true, ID: func(_ context.Context, call *core.Call) string { return call.RequestHeader().Get("id") }})
	run := func(id string, f rpctest.Fake, chain ...core.Interceptor) {
		f.RequestHeader = map[string][]string{"id": {id}}
		if err := rpctest.Call(f).Run(t.Context(), rec.Wrap(chain...)...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5 {
		run(fmt.Sprint("call ", i), rpctest.Fake{})
	}
	traces := rec.Recent(10)
	if len(traces) != 3 || traces[0].ID != "call 4" || traces[2].ID != "call 2" || rec.Calls("call 1") != nil || len(rec.Recent(2)) != 2 || rec.Recent(0) != nil {
		t.Errorf("got %+v", traces)
	}

	run("messages", rpctest.Fake{Shape: core.ShapeServerStream, Responses: slices.Repeat([]any{1}, 5000)}, slices.Repeat([]core.Interceptor{named("x")}, 20)...)
	tr := rec.Recent(1)[0]
	events := 0
	for _, s := range tr.Spans {
		events += len(s.Events)
		if s.Responses != 5000 || len(s.Events) > 100 {
			t.Errorf("%d responses, %d events", s.Responses, len(s.Events))
		}
	}
	if len(tr.Spans) != 21 || events != 1000 {
		t.Errorf("%d spans, %d events in all", len(tr.Spans), events)
	}
	run("messages", rpctest.Fake{Shape: core.ShapeServerStream, Responses: slices.Repeat([]any{1}, 5000)})
	if s := rec.Recent(1)[0].Spans[0]; s.Responses != 5000 || len(s.Events) != 100 {
		t.Errorf("%d responses, %d events", s.Responses, len(s.Events))
	}

	run("spans", rpctest.Fake{Side: core.SideClient, Responses: []any{&rpctest.Response{}}}, tries(500), named("x"))
	tr = rec.Recent(1)[0]
	if len(tr.Spans) != 100 || tr.Spans[0].Next != 500 || tr.DroppedSpans != 451 {
		t.Errorf("%d spans, %d dropped of %d attempts", len(tr.Spans), tr.DroppedSpans, tr.Spans[0].Next)
	}
	consistent(t, tr)

	run(strings.Repeat("x", trace.MaxIDLen+1), rpctest.Fake{Method: "/a.B/" + strings.Repeat("x", 1<<20)}, named("x"))
	tr = rec.Recent(1)[0]
	if tr.ID != "" || len(tr.Method) != 256 || rec.Calls("") != nil || len(tr.Spans) != 2 {
		t.Errorf("an id of %d bytes, a method of %d", len(tr.ID), len(tr.Method))
	}
}

// HTTP/1.1 requests have their method in one string with the whole URL, which may be a message.
func TestNoMoreIsKeptOfAPeersStringsThanIsShown(t *testing.T) {
	const calls, size = 20, 500_000
	rec := must(t, calls, &trace.Options{Enabled: true, ID: func(_ context.Context, call *core.Call) string {
		id, _, _ := strings.Cut(call.RequestHeader().Get("x-long"), ";")
		return id
	}})
	_, handler := dummyv1connect.NewDummyServiceHandler(dummy.New(nil).Connect(),
		connect.WithInterceptors(connectx.New(rec.Wrap()...)), connect.WithIdempotency(connect.IdempotencyNoSideEffects))
	server := httptest.NewServer(handler)
	defer server.Close()
	long := strings.Repeat("x", size)
	used := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := used()
	for range calls {
		req, _ := http.NewRequest(http.MethodGet, server.URL+rpctest.Procedure(core.ShapeUnary)+"?encoding=proto&message=&unused="+long, nil)
		req.Header.Set("X-Long", "id;"+long[:size/2])
		req.Close = true
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
	}
	if tr := rec.Calls("id"); len(tr) != calls || tr[0].HTTPMethod != http.MethodGet {
		t.Fatalf("got %+v", tr)
	}
	if kept := int64(used()-before) / calls; kept > size/4 {
		t.Errorf("a call keeps %d bytes", kept)
	}
	runtime.KeepAlive(rec)
}

func TestTheIDIsTheInnermost(t *testing.T) {
	rec := on(t)
	ctx, err := requestid.NewContext(t.Context(), "outside")
	if err != nil {
		t.Fatal(err)
	}
	call := rpctest.Call(rpctest.Fake{Side: core.SideClient, RequestHeader: map[string][]string{"x-request-id": {"inside"}}})
	if err := call.Run(ctx, rec.Wrap(ids(t))...); err != nil {
		t.Fatal(err)
	}
	if tr := one(t, rec); tr.ID != "inside" || rec.Calls("outside") != nil {
		t.Errorf("got %q", tr.ID)
	}

	// And one that is known outside only is not forgotten.
	answers := []string{"a", ""}
	rec = must(t, 1, &trace.Options{Enabled: true, ID: func(context.Context, *core.Call) string {
		id := answers[0]
		answers = answers[1:]
		return id
	}})
	if err := rpctest.Call(rpctest.Fake{}).Run(t.Context(), rec.Wrap(named("x"))...); err != nil {
		t.Fatal(err)
	}
	if len(rec.Calls("a")) != 1 {
		t.Errorf("got %+v", one(t, rec))
	}
}

func TestWhatIsReadIsACopy(t *testing.T) {
	rec := on(t)
	_ = rpctest.Call(rpctest.Fake{}).Run(t.Context(), rec.Wrap(named("a"))...)
	tr := one(t, rec)
	tr.Spans[0].Name, tr.Spans[0].Events[0].Kind = "x", "x"
	if again := one(t, rec); again.Spans[0].Name != "a" || again.Spans[0].Events[0].Kind != "request" {
		t.Errorf("got %+v", again)
	}
}

func TestManyAtOnce(t *testing.T) {
	rec := must(t, 4, &trace.Options{Enabled: true, List: true})
	twice, err := hedge.New(time.Nanosecond, &hedge.Options{Methods: func(*core.Call) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	o := &rpctest.Options{Server: rec.Wrap(ids(t), named("a")), Client: rec.Wrap(ids(t), twice, named("b")), Paths: []rpctest.Path{rpctest.Paths()[1], rpctest.Paths()[8]}}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for range 20 {
					switch i {
					case 0:
						rec.SetEnabled(false)
						rec.SetEnabled(true)
					case 1:
						get(rec, "/")
					default:
						c.With("x-request-id", "r").Call(t.Context(), "a", "b", "c").Want(t, core.CodeOK, map[bool]string{true: "abc", false: "a"}[c.Shape.ClientStreams()])
						rec.Calls("r")
					}
				}
			})
		}
		group.Wait()
	})
	if len(rec.Calls("r")) != 4 {
		t.Errorf("%d calls", len(rec.Calls("r")))
	}
}

type timing struct{}

func (timing) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	return next(ctx, call)
}

// Guard is exported.
type Guard struct{}

// Intercept implements [core.Interceptor].
func (*Guard) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	return next(ctx, call)
}

// timer is small enough to be inlined, which changes the names of its literals.
func timer() core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error { return next(ctx, call) })
}

func TestNames(t *testing.T) {
	rec := on(t)
	literal := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error { return next(ctx, call) })
	_ = rpctest.Call(rpctest.Fake{}).Run(t.Context(), rec.Wrap(ids(t), errors.NewInterceptor(nil), &Guard{}, timing{}, core.InterceptorFunc(pass),
		literal, timer(), core.InterceptorFunc((&Guard{}).Intercept), core.InterceptorFunc(timing{}.Intercept), named("its own name"))...)
	got := ""
	for _, s := range one(t, rec).Spans {
		got += s.Name + "\n"
	}
	if want := `requestid
errors
trace_test.Guard
trace_test
trace_test.pass
trace_test.TestNames
trace_test.timer
trace_test.(*Guard).Intercept
trace_test.timing.Intercept
its own name
handler
`; got != want {
		t.Errorf("got %s", got)
	}
}

func TestBadConfiguration(t *testing.T) {
	for _, capacity := range []int{-1, 0, trace.MaxCapacity + 1} {
		if rec, err := trace.New(capacity, nil); rec != nil || err == nil || !strings.Contains(err.Error(), fmt.Sprint("is ", capacity, ", want 1 to 10000")) {
			t.Errorf("got %v", err)
		}
	}
	for text, f := range map[string]func(){
		"interceptor 2 of 2 is nil":               func() { on(t).Wrap(named("a"), nil) },
		"interceptor 1 of 1 is nil":               func() { trace.Named("x", core.InterceptorFunc(nil)) },
		"Named without a name":                    func() { trace.Named("", core.InterceptorFunc(pass)) },
		"interceptor 1 of 3 was returned by Wrap": func() { on(t).Wrap(on(t).Wrap(named("a"))...) },
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, text) {
					t.Errorf("got %q, want %q", got, text)
				}
			}()
			f()
		}()
	}
}

// None of these may be found anywhere in what is recorded, nor in what is answered about it.
func TestNothingSecretIsRecorded(t *testing.T) {
	const secret = "hunter2"
	var rec *trace.Recorder
	bubble(t, func(t *testing.T) *rpctest.Options {
		rec = must(t, 100, &trace.Options{Enabled: true, List: true})
		fails := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			if call.Side() == core.SideServer {
				_ = call.ResponseTrailer().Set("x-secret", secret)
			}
			return err
		})
		chain := rec.Wrap(ids(t), errors.NewInterceptor(nil), trace.Named("fails", fails))
		return &rpctest.Options{Server: chain, Client: chain, Cases: map[string]rpctest.Case{
			secret + ": plain": rpctest.Raises(stderrors.New(secret)),
			secret + ": coded": rpctest.Raises(errors.NotFound(secret).WithMetadata("x-secret", secret).WithCause(stderrors.New(secret))),
			secret + ": panic": rpctest.Panics(secret),
		}}
	}, func(t *testing.T, c *rpctest.Client) {
		for _, input := range []string{": plain", ": coded", ": panic", ""} {
			c.With("authorization", "Bearer "+secret).With("x-secret", secret).With("x-secret-bin", secret).With("user-agent", secret).
				With("x-request-id", "r").Call(t.Context(), secret+input)
		}
		synctest.Wait()
		if len(rec.Calls("r")) != 8 {
			t.Errorf("%d calls, want 8", len(rec.Calls("r")))
		}
		for _, said := range []string{fmt.Sprintf("%+v", rec.Recent(10)), get(rec, "/?id=r").Body.String(), get(rec, "/").Body.String()} {
			if !strings.Contains(said, "fails") || strings.Contains(said, secret) || strings.Contains(said, "127.0.0.1") || strings.Contains(said, "bufconn") {
				t.Errorf("got %s", said)
			}
		}
	})
}

// An abandoned stream and one that is closed early end too.
func TestAStreamThatIsGivenUpEnds(t *testing.T) {
	var rec *trace.Recorder
	bubble(t, func(t *testing.T) *rpctest.Options {
		rec = on(t)
		return &rpctest.Options{Client: rec.Wrap(ids(t))}
	}, func(t *testing.T, c *rpctest.Client) {
		if c.Shape == core.ShapeUnary || c.Path.HTTP == 1 && c.Shape == core.ShapeClientStream {
			return // the server would not hear of it: docs/compatibility.md
		}
		stream, err := c.Open(t.Context())
		if err == nil {
			err = stream.Send("sleep:1h")
		}
		if err != nil && !stderrors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		stream.Cancel()
		synctest.Wait()
		want(t, one(t, rec), "requestid canceled next=1 1/0", " rpc canceled next=0 1/0")
	})
}

// What is recorded is as it is without: all that the adapters promise holds, but for what it costs.
func TestRecordingChangesNothing(t *testing.T) {
	rec := must(t, 10, &trace.Options{Enabled: true})
	for _, adapter := range []rpctest.Adapter{rpctest.ConnectAdapter(), rpctest.GRPCAdapter()} {
		adapter.Start = func(t testing.TB, o *rpctest.Options) rpctest.Environment {
			recorded := *o
			recorded.Server, recorded.Client = rec.Wrap(o.Server...), rec.Wrap(o.Client...)
			return rpctest.NewServers(t, &recorded)
		}
		for _, failure := range rpctest.CheckAdapter(t, adapter) {
			if failure.Promise != "it costs next to nothing" {
				t.Error(failure)
			}
		}
	}
	if len(rec.Recent(10)) != 10 {
		t.Error("nothing was recorded")
	}
}

func measure(chain *core.Chain, shape core.Shape, messages int) float64 {
	fake := rpctest.Fake{Shape: shape, Responses: slices.Repeat([]any{&rpctest.Response{}}, messages)}
	return testing.AllocsPerRun(200, func() { _ = chain.Handler()(context.Background(), &rpctest.Call(fake).Call) })
}

func TestCostsNothingUnlessOn(t *testing.T) {
	chain := []core.Interceptor{
		core.InterceptorFunc(pass), core.NewChain(core.InterceptorFunc(pass)), core.When(core.MatchSide(core.SideServer), core.InterceptorFunc(pass)),
		trace.Named("chain", core.NewChain(core.InterceptorFunc(pass))),
	}
	var none *trace.Recorder
	off := must(t, 10, nil)
	rec := on(t)
	for _, shape := range rpctest.Shapes() {
		bare := measure(core.NewChain(chain[:3]...), shape, 10)
		if got := measure(core.NewChain(none.Wrap(chain...)...), shape, 10); got != bare {
			t.Errorf("%s: no recorder costs %v allocations", shape, got-bare)
		}
		if got := measure(core.NewChain(off.Wrap(chain...)...), shape, 10); got != bare {
			t.Errorf("%s: a recorder that is off costs %v allocations", shape, got-bare)
		}
	}
	// And on, nothing grows with the messages beyond those whose time is kept.
	recorded := core.NewChain(rec.Wrap(chain...)...)
	few, many := measure(recorded, core.ShapeServerStream, 200), measure(recorded, core.ShapeServerStream, 2000)
	if many > few {
		t.Errorf("1800 messages cost %v allocations", many-few)
	}
}

func BenchmarkTrace(b *testing.B) {
	chain := slices.Repeat([]core.Interceptor{core.InterceptorFunc(pass)}, 5)
	for name, rec := range map[string]*trace.Recorder{"bare": nil, "off": must(b, 10, nil), "on": on(b)} {
		b.Run(name, func(b *testing.B) {
			chain := core.NewChain(rec.Wrap(chain...)...)
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{}).Call)
			}
		})
	}
}
