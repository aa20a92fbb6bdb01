package fallback_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/fallback"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/interceptors/timeout"
	"github.com/rpcweft/weft/rpctest"
)

func must(i core.Interceptor, err error) core.Interceptor {
	if err != nil {
		panic(err)
	}
	return i
}

// cached answers with what it knows of the failure.
func cached(_ context.Context, _ *core.Call, err error) (proto.Message, error) {
	return &rpctest.Response{Output: "cached, " + core.CodeOf(err).String()}, nil
}

var single = []core.Shape{core.ShapeUnary, core.ShapeClientStream}

// A peer of ours drops the answer: the application got no error and an empty reply.
func TestTheAnswerReachesTheApplication(t *testing.T) {
	var rec rpctest.Recorder
	rpctest.Run(t, &rpctest.Options{
		Client: []core.Interceptor{rec.Interceptor("outer"), must(fallback.New(cached, nil)), rec.Interceptor("inner")},
		Shapes: single,
	}, func(t *testing.T, c *rpctest.Client) {
		c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi") // connect clients know the type from now on
		rec.Reset()
		c.Call(t.Context(), "fail:unavailable").Want(t, core.CodeOK, "cached, unavailable")
		seen := fmt.Sprint(rec.Reset())
		for _, want := range []string{"outer: response \"cached, unavailable\"", "outer: end ok", "inner: end unavailable"} {
			if !strings.Contains(seen, want) {
				t.Errorf("no %q in %s", want, seen)
			}
		}
		c.Call(t.Context(), "fail:resource_exhausted").Want(t, core.CodeOK, "cached, resource_exhausted")
		c.Call(t.Context(), "fail:not_found").Want(t, core.CodeNotFound, "")
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		c.Call(ctx, "sleep:1m").Want(t, core.CodeOK, "cached, deadline_exceeded")
	})
}

func TestWhoCancelsGetsNoAnswer(t *testing.T) {
	policy := must(fallback.New(cached, &fallback.Options{Codes: []core.Code{core.CodeCanceled}}))
	rpctest.Run(t, &rpctest.Options{Client: []core.Interceptor{policy}, Shapes: single}, func(t *testing.T, c *rpctest.Client) {
		c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
		ctx, cancel := context.WithCancel(t.Context())
		defer time.AfterFunc(time.Millisecond, cancel).Stop()
		c.Call(ctx, "sleep:1m").Want(t, core.CodeCanceled, "")
		c.Call(t.Context(), "fail:canceled").Want(t, core.CodeOK, "cached, canceled") // by the server
	})
}

func TestStreamsOfResponsesAndServersPass(t *testing.T) {
	never := func(context.Context, *core.Call, error) (proto.Message, error) { panic("never") }
	policy := must(fallback.New(never, nil))
	rpctest.Run(t, &rpctest.Options{Client: []core.Interceptor{policy}, Shapes: []core.Shape{core.ShapeServerStream, core.ShapeBidiStream}},
		func(t *testing.T, c *rpctest.Client) {
			c.Call(t.Context(), "fail-after:2:unavailable").Want(t, core.CodeUnavailable, "01")
		})
	rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{policy}}, func(t *testing.T, c *rpctest.Client) {
		c.Call(t.Context(), "fail:unavailable").Want(t, core.CodeUnavailable, "")
	})
}

func TestTheFunctionMayDecline(t *testing.T) {
	other := errors.Aborted("other")
	for name, one := range map[string]struct {
		msg  *rpctest.Response
		err  error
		want core.Code
	}{
		"nil pointer": {nil, nil, core.CodeUnavailable}, "an error": {nil, other, core.CodeAborted}, "an answer": {&rpctest.Response{}, nil, core.CodeOK},
	} {
		t.Run(name, func(t *testing.T) {
			call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(context.Context, *core.Call) error { return errors.Unavailable("down") }})
			err := call.Run(t.Context(), must(fallback.New(func(context.Context, *core.Call, error) (proto.Message, error) { return one.msg, one.err }, nil)))
			if core.CodeOf(err) != one.want || one.err != nil && !stderrors.Is(err, one.err) {
				t.Errorf("got %v", err)
			}
		})
	}
	call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(context.Context, *core.Call) error { return errors.Unavailable("down") }})
	policy := must(fallback.New(cached, &fallback.Options{Methods: core.MatchMethod("/a.A/M")}))
	if err := call.Run(t.Context(), policy); core.CodeOf(err) != core.CodeUnavailable {
		t.Errorf("a method that was not selected got %v", err)
	}
}

// The order of docs/resilience.md: the answer comes when all attempts and the whole time are used up.
func TestItAnswersWhenRetriesAndTimeAreUsedUp(t *testing.T) {
	for _, path := range rpctest.Paths() {
		for _, shape := range single {
			t.Run(path.String()+"/"+shape.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					attempts := 0
					server := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
						attempts++
						return next(ctx, call)
					})
					s := rpctest.NewServers(t, &rpctest.Options{Server: []core.Interceptor{server}, Client: slices.Concat([]core.Interceptor{
						must(fallback.New(cached, nil)),
						must(timeout.New(time.Minute, nil)),
						must(retry.New(3, &retry.Options{Methods: func(*core.Call) bool { return true }})),
					})})
					defer s.Close()
					c := s.Client(path, shape)
					c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
					attempts = 0
					c.Call(t.Context(), "fail:unavailable").Want(t, core.CodeOK, "cached, unavailable")
					if attempts != 3 {
						t.Errorf("%d attempts, want 3", attempts)
					}
					start := time.Now()
					c.Call(t.Context(), "sleep:1h").Want(t, core.CodeOK, "cached, deadline_exceeded")
					if took := time.Since(start); took != time.Minute {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
}

func TestBadConfigurationFailsAtConstruction(t *testing.T) {
	if _, err := fallback.New(cached, &fallback.Options{Codes: []core.Code{core.CodeOK}}); err == nil {
		t.Error("OK is no failure")
	}
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "nil answer") {
			t.Errorf("panicked with %q", got)
		}
	}()
	_, _ = fallback.New(nil, nil)
}

func measure(policy ...core.Interceptor) float64 {
	chain := core.NewChain(policy...)
	return testing.AllocsPerRun(200, func() {
		_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{Side: core.SideClient}).Call)
	})
}

func TestCosts(t *testing.T) {
	if got, bare := measure(must(fallback.New(cached, nil))), measure(); got > bare {
		t.Errorf("a call that succeeds costs %v allocations", got-bare)
	}
}

func BenchmarkFallback(b *testing.B) {
	for name, chain := range map[string]*core.Chain{"bare": core.NewChain(), "with": core.NewChain(must(fallback.New(cached, nil)))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{Side: core.SideClient}).Call)
			}
		})
	}
}

func ExampleNew() {
	answer, err := fallback.New(func(_ context.Context, call *core.Call, err error) (proto.Message, error) {
		fmt.Println(call.Method().Name(), "has failed:", core.CodeOf(err))
		return &rpctest.Response{Output: "yesterday's news"}, nil
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	call := rpctest.Call(rpctest.Fake{Side: core.SideClient, Invoke: func(context.Context, *core.Call) error {
		return errors.Unavailable("down")
	}})
	err = call.Run(context.Background(), answer)
	fmt.Println(call.Response().(*rpctest.Response).GetOutput(), err)
	// Output:
	// Execute has failed: unavailable
	// yesterday's news <nil>
}
