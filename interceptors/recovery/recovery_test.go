package recovery_test

import (
	"bytes"
	"context"
	stderrors "errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/recovery"
	"github.com/rpcweft/weft/rpctest"
)

const secret = "the password of the database is hunter2"

// reports collects what OnPanic sees.
type reports struct {
	mu   sync.Mutex
	list []report
}

type report struct {
	value  any
	stack  string
	method string
	side   core.Side
}

func (r *reports) options() *recovery.Options {
	return &recovery.Options{OnPanic: func(_ context.Context, call *core.Call, value any, stack []byte) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.list = append(r.list, report{value, string(stack), call.Method().Name(), call.Side()})
	}}
}

func (r *reports) take() []report {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := r.list
	r.list = nil
	return list
}

// panics returns an interceptor that panics before or after next.
func panics(when string, side core.Side) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		on := call.RequestHeader().Get("x-panic") == when
		hook := func(_ context.Context, msg any) error { panicNow(); return nil }
		switch {
		case on && when == side.String()+" request":
			call.OnRequest(hook)
		case on && when == side.String()+" response":
			call.OnResponse(hook)
		case on && when == side.String()+" before":
			panicNow()
		}
		err := next(ctx, call)
		if on && when == side.String()+" after" {
			panicNow()
		}
		return err
	})
}

func panicNow() { panic(secret) }

func places(side core.Side) (names []string, all []core.Interceptor) {
	for _, place := range []string{"before", "request", "response", "after"} {
		names = append(names, side.String()+" "+place)
		all = append(all, panics(side.String()+" "+place, side))
	}
	return names, all
}

// hidden wants Internal, and nothing of the panic.
func hidden(t *testing.T, name string, res *rpctest.Result) {
	t.Helper()
	text := fmt.Sprint(res.Err, res.Metadata(), errors.Details(res.Err))
	e, ok := errors.AsType[*errors.Error](res.Err)
	if !ok || e.Code() != core.CodeInternal || e.Message() != core.PublicMessage(core.CodeInternal) {
		t.Errorf("%s: got %s, want Internal with the fixed text", name, res)
	}
	if strings.Contains(text, "hunter2") || strings.Contains(text, "goroutine") || len(text) > 300 {
		t.Errorf("%s: the caller was told %s", name, text)
	}
}

// A peer of ours sends the stack to the client, with code Unknown, has no hook and no client side.
func TestAPanicAnywhereInsideBecomesInternalAndSaysNothing(t *testing.T) {
	var seen reports
	inServer, serverPanics := places(core.SideServer)
	inClient, clientPanics := places(core.SideClient)
	o := &rpctest.Options{
		Server: append([]core.Interceptor{recovery.New(seen.options())}, serverPanics...),
		Client: append([]core.Interceptor{recovery.New(seen.options())}, clientPanics...),
	}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		check := func(name string, side core.Side, res *rpctest.Result) {
			t.Helper()
			if side == core.SideServer {
				hidden(t, name, res)
			} else if core.CodeOf(res.Err) != core.CodeInternal {
				t.Errorf("%s: %s", name, res)
			}
			list := seen.take()
			if len(list) != 1 || list[0].value != any(secret) || list[0].side != side || !strings.Contains(list[0].stack, "recovery_test.") {
				t.Errorf("%s: reported %v", name, list)
			}
		}
		check("handler", core.SideServer, c.Call(t.Context(), "panic"))
		for _, place := range inServer {
			check(place, core.SideServer, c.With("x-panic", place).Call(t.Context(), "hi"))
		}
		for _, place := range inClient {
			check(place, core.SideClient, c.With("x-panic", place).Call(t.Context(), "hi"))
		}
		if res := c.Call(t.Context(), "hi"); res.Err != nil {
			t.Errorf("it does not work any more: %s", res)
		}
	})
}

// Outermost, innermost and around the exception-to-status interceptor: the client sees the same, and one reports.
func TestAnyOrderIsSafe(t *testing.T) {
	var seen reports
	status := errors.NewInterceptor(&errors.Options{
		Rules:   []errors.Rule{errors.RuleIs(errQuota, errors.CodeResourceExhausted, "come back tomorrow")},
		OnPanic: seen.options().OnPanic,
	})
	net := recovery.New(seen.options())
	var rec rpctest.Recorder
	watch := rec.Interceptor("watch")
	for name, chain := range map[string][]core.Interceptor{
		"innermost":  {watch, status, net},
		"outermost":  {net, watch, status},
		"at both":    {net, status, watch, net},
		"alone last": {status, watch, net},
	} {
		t.Run(name, func(t *testing.T) {
			o := &rpctest.Options{Server: chain, Cases: map[string]rpctest.Case{"quota": rpctest.Raises(errQuota)}}
			rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
				hidden(t, "panic", c.Call(t.Context(), "panic"))
				if list := seen.take(); len(list) != 1 {
					t.Errorf("reported %d times", len(list))
				}
				// A rule still sees the error as it was.
				if res := c.Call(t.Context(), "quota"); core.CodeOf(res.Err) != core.CodeResourceExhausted {
					t.Error(res)
				}
				if err := rec.Wait(5 * time.Second); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

var errQuota = stderrors.New("quota")

func TestErrorsPassAsTheyAre(t *testing.T) {
	for _, want := range []error{errQuota, errors.NotFound("x"), context.Canceled} {
		call := rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error { return want }})
		if err := call.Run(t.Context(), recovery.New(&recovery.Options{})); err != want { //nolint:errorlint // the same value
			t.Errorf("%v became %v", want, err)
		}
	}
}

func run(t testing.TB, opts *recovery.Options, invoke func()) error {
	call := rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error { invoke(); return nil }})
	return call.Run(t.Context(), recovery.New(opts))
}

func TestAbortHandlerIsRaisedAgain(t *testing.T) {
	var seen reports
	defer func() {
		if value := recover(); value != any(http.ErrAbortHandler) {
			t.Errorf("recovered %v", value)
		}
		if list := seen.take(); len(list) != 0 {
			t.Errorf("reported %v", list)
		}
	}()
	err := run(t, seen.options(), func() { panic(http.ErrAbortHandler) })
	t.Errorf("returned %v", err)
}

// net/http ends the response at once; grpc-go, which would end the process, is told of a failure by grpcx.
func TestAbortHandlerEndsTheCallAndNoMore(t *testing.T) {
	var seen reports
	o := &rpctest.Options{
		Server: []core.Interceptor{recovery.New(seen.options())}, Cases: map[string]rpctest.Case{"abort": rpctest.Panics(http.ErrAbortHandler)},
	}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		if res := c.Call(t.Context(), "abort"); res.Err == nil {
			t.Error(res)
		}
		if list := seen.take(); len(list) != 0 {
			t.Errorf("reported %v", list)
		}
		if res := c.Call(t.Context(), "hi"); res.Err != nil {
			t.Error(res)
		}
	})
}

func TestGoexitGoesOn(t *testing.T) {
	var seen reports
	returned := false
	var group sync.WaitGroup
	group.Go(func() {
		_ = run(t, seen.options(), runtime.Goexit)
		returned = true
	})
	group.Wait()
	if list := seen.take(); returned || len(list) != 0 {
		t.Errorf("returned %v, reported %v", returned, list)
	}
}

func TestOddPanicsAndHooksChangeNothing(t *testing.T) {
	var seen reports
	for name, raise := range map[string]func(){
		"an error":    func() { panic(errQuota) },
		"nil":         func() { panic(nil) },
		"a nil deref": func() { var m *core.Panic; m.Stack = nil },
		"itself":      func() { panic(&core.Panic{Value: secret, Stack: []byte("recovery_test.")}) },
		"a bad value": func() { panic(badStringer{}) },
	} {
		if err := run(t, seen.options(), raise); core.CodeOf(err) != core.CodeInternal {
			t.Errorf("%s: %v", name, err)
		} else if p, ok := errors.AsType[*core.Panic](err); !ok || len(p.Stack) == 0 {
			t.Errorf("%s: the error has not value and stack: %v", name, err)
		}
		if list := seen.take(); len(list) != 1 {
			t.Errorf("%s: reported %d times", name, len(list))
		}
	}
	coded := errors.NotFound("no such thing")
	if err := run(t, seen.options(), func() { panic(coded) }); !errors.Is(err, coded) || core.CodeOf(err) != core.CodeNotFound {
		t.Errorf("raised with a coded error: %v", err)
	}
	bad := &recovery.Options{OnPanic: func(context.Context, *core.Call, any, []byte) { panic("again") }}
	if err := run(t, bad, func() { panic(secret) }); core.CodeOf(err) != core.CodeInternal {
		t.Errorf("the hook panics: %v", err)
	}
}

type badStringer struct{}

func (badStringer) String() string { panic("in String") }

func TestWithoutAHookThePanicIsLogged(t *testing.T) {
	var out bytes.Buffer
	before := slog.Default()
	defer slog.SetDefault(before)
	slog.SetDefault(slog.New(slog.NewTextHandler(&out, nil)))
	_ = run(t, nil, panicNow)
	for _, want := range []string{"level=ERROR", "rpc.method=weft.dummy.v1.DummyService/Execute", "hunter2", "recovery_test.panicNow"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the log lacks %s: %s", want, &out)
		}
	}
}

func TestACallWithoutAPanicCostsLittle(t *testing.T) {
	measure := func(chain *core.Chain) float64 {
		return testing.AllocsPerRun(200, func() {
			_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{}).Call)
		})
	}
	if got := measure(core.NewChain(recovery.New(nil))) - measure(core.NewChain()); got > 2 {
		t.Errorf("%v allocations, want 2 at most", got)
	}
}

func BenchmarkRecovery(b *testing.B) {
	for name, chain := range map[string]*core.Chain{"bare": core.NewChain(), "with": core.NewChain(recovery.New(nil))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{}).Call)
			}
		})
	}
}

func ExampleNew() {
	net := recovery.New(&recovery.Options{
		OnPanic: func(_ context.Context, call *core.Call, value any, _ []byte) {
			fmt.Println(call.Method().Name(), "panicked:", value) // and the stack, and a counter
		},
	})
	call := rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error { panic("out of range") }})
	err := call.Run(context.Background(), net)
	fmt.Println("the caller reads:", errors.Wire(err, nil).Message)
	// Output:
	// Execute panicked: out of range
	// the caller reads: internal error
}
