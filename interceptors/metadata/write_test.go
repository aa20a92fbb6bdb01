package metadata_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	grpcmetadata "google.golang.org/grpc/metadata"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/metadata"
	"github.com/rpcweft/weft/rpctest"
)

var outcomes = map[string]core.Code{
	"hello":                core.CodeOK,
	"":                     core.CodeOK,
	"fail:not_found":       core.CodeNotFound,
	"fail-after:2:aborted": core.CodeAborted,
	"panic":                core.CodeInternal,
	"plain":                core.CodeUnknown,
}

// A peer of ours sends the first value of a key alone.
func TestAClientSendsAllValuesOfAKey(t *testing.T) {
	client := must(metadata.Write(
		metadata.Set("X-Echo-Set", "1", "2", "3"),
		metadata.Add("x-echo-add", "1", "2"),
		metadata.Remove("x-echo-gone"),
		metadata.SetFunc("x-echo-set-bin", values("\x00", "\xff,")),
		metadata.AddFunc("x-echo-addfunc", values("a", "b")),
		metadata.SetFunc("x-echo-none", values()),
		metadata.AddFunc("x-echo-stays", values()),
	))
	rpctest.Run(t, &rpctest.Options{Client: []core.Interceptor{client}}, func(t *testing.T, c *rpctest.Client) {
		c = c.With("x-echo-set", "mine").With("x-echo-add", "mine").With("x-echo-gone", "mine").With("x-echo-gone", "too").
			With("x-echo-set-bin", "mine").With("x-echo-addfunc", "mine").With("x-echo-none", "mine").With("x-echo-stays", "mine")
		res := c.Call(t.Context(), "metadata")
		wantCode(t, res, core.CodeOK)
		equal(t, "what arrived", only(res, "x-echo-"), `x-echo-add="mine" x-echo-add="1" x-echo-add="2" `+
			`x-echo-addfunc="mine" x-echo-addfunc="a" x-echo-addfunc="b" `+
			`x-echo-set="1" x-echo-set="2" x-echo-set="3" x-echo-set-bin="\x00" x-echo-set-bin="\xff," x-echo-stays="mine"`)
	})
}

// Peers of ours lose a reply header that is set after the handler once anything was sent.
func TestAResponseHeaderArrivesWhateverTheOutcome(t *testing.T) {
	write := must(metadata.Write(
		metadata.Set("x-set", "1", "2"),
		metadata.Add("x-add", "1"),
		metadata.SetFunc("x-method", func(_ context.Context, call *core.Call) ([]string, error) {
			return []string{call.Method().Name()}, nil
		}),
		metadata.Set("x-raw-bin", "\x00\xff"),
	))
	server := []core.Interceptor{errors.NewInterceptor(nil), write}
	rpctest.Run(t, &rpctest.Options{Server: server}, func(t *testing.T, c *rpctest.Client) {
		for input, code := range outcomes {
			res := c.Call(t.Context(), input)
			wantCode(t, res, code)
			got := only(res, "x-")
			if want := `x-add="1" x-method="Execute`; !strings.HasPrefix(got, want) {
				t.Errorf("%q: got %s, want %s...", input, got, want)
			}
			if want := `x-raw-bin="\x00\xff" x-set="1" x-set="2"`; !strings.HasSuffix(got, want) {
				t.Errorf("%q: got %s, want ...%s", input, got, want)
			}
			if code == core.CodeOK && len(res.Header.Values("x-set")) != 2 {
				t.Errorf("%q: the header has %s", input, res.Header)
			}
		}
	})
}

func TestAStreamsHeaderIsThereBeforeItsEnd(t *testing.T) {
	server := must(metadata.Write(metadata.Set("x-set", "1")))
	shapes := []core.Shape{core.ShapeServerStream, core.ShapeBidiStream}
	rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{server}, Shapes: shapes}, func(t *testing.T, c *rpctest.Client) {
		stream, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send("hello"); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Receive(); err != nil {
			t.Fatal(err)
		}
		equal(t, "header after the first message", stream.Header().Get("x-set"), "1")
		stream.Drain()
	})
}

// leaks is what a handler writes that Write must have the last word about.
var leaks = map[string]rpctest.Case{
	"leak": func(_ context.Context, in *rpctest.Input) (string, error) {
		return "leaked", leak(in)
	},
	"leak-fail": func(_ context.Context, in *rpctest.Input) (string, error) {
		return "", errors.Join(leak(in), errors.NotFound("leaked"))
	},
	"leak-panic": func(_ context.Context, in *rpctest.Input) (string, error) {
		panic(leak(in))
	},
}

// leak writes h-* into the header and t-* into the trailer.
func leak(in *rpctest.Input) error {
	for _, key := range []string{"set", "gone", "gone-bin", "add", "added", "setfunc", "none", "other"} {
		if err := errors.Join(in.AddHeader("h-"+key, "handler"), in.AddTrailer("t-"+key, "handler")); err != nil {
			return err
		}
	}
	return nil
}

func TestTheHandlerCannotUndoWhatWriteSetsAndRemoves(t *testing.T) {
	ops := func(prefix string) []metadata.Op {
		return []metadata.Op{
			metadata.Add(prefix+"set", "before"),
			metadata.Set(prefix+"set", "1"),
			metadata.Add(strings.ToUpper(prefix+"set"), "2"),
			metadata.Remove(prefix + "gone"),
			metadata.Remove(prefix + "gone-bin"),
			metadata.Add(prefix+"add", "1"),
			metadata.Remove(prefix + "added"),
			metadata.Add(prefix+"added", "1"),
			metadata.SetFunc(prefix+"setfunc", values("1")),
			metadata.SetFunc(prefix+"none", values()),
		}
	}
	server := []core.Interceptor{
		errors.NewInterceptor(nil),
		must(metadata.Write(ops("h-")...)),
		must(metadata.WriteTrailer(ops("t-")...)),
	}
	rpctest.Run(t, &rpctest.Options{Server: server, Cases: leaks}, func(t *testing.T, c *rpctest.Client) {
		for input, code := range map[string]core.Code{"leak": core.CodeOK, "leak-fail": core.CodeNotFound, "leak-panic": core.CodeInternal} {
			res := c.Call(t.Context(), input)
			wantCode(t, res, code)
			equal(t, input, only(res, "h-", "t-"), `h-add="1" h-add="handler" h-added="1" h-other="handler" h-set="1" h-set="2" h-setfunc="1" `+
				`t-add="handler" t-add="1" t-added="1" t-other="handler" t-set="1" t-set="2" t-setfunc="1"`)
		}
	})
}

func TestAHeaderThatTheHandlerSendsEarlyHasWhatWriteSets(t *testing.T) {
	cases := map[string]rpctest.Case{"early": func(ctx context.Context, _ *rpctest.Input) (string, error) {
		return "done", grpc.SendHeader(ctx, grpcmetadata.Pairs("x-handler", "1"))
	}}
	server := must(metadata.Write(metadata.Set("x-set", "1"), metadata.Remove("x-gone")))
	paths := slices.DeleteFunc(rpctest.Paths(), func(p rpctest.Path) bool { return p.Server != rpctest.GRPC })
	rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{server}, Cases: cases, Paths: paths}, func(t *testing.T, c *rpctest.Client) {
		res := c.Call(t.Context(), "early")
		wantCode(t, res, core.CodeOK)
		equal(t, "header", only(res, "x-"), `x-handler="1" x-set="1"`)
	})
}

func TestATrailerArrivesWhateverTheOutcome(t *testing.T) {
	trailer := must(metadata.WriteTrailer(
		metadata.Set("x-set", "1", "2"),
		metadata.AddFunc("x-done", func(_ context.Context, call *core.Call) ([]string, error) {
			return []string{fmt.Sprint(call.Shape(), call.Response() != nil)}, nil
		}),
	))
	server := []core.Interceptor{errors.NewInterceptor(nil), trailer}
	rpctest.Run(t, &rpctest.Options{Server: server, Client: []core.Interceptor{trailer}}, func(t *testing.T, c *rpctest.Client) {
		for input, code := range outcomes {
			res := c.Call(t.Context(), input)
			wantCode(t, res, code)
			answered := c.Shape == core.ShapeUnary && code == core.CodeOK
			got := &rpctest.Result{Trailer: res.Trailer} // connect has a trailer that comes alone in the header too
			equal(t, input, only(got, "x-"), fmt.Sprintf(`x-done="%s %t" x-set="1" x-set="2"`, c.Shape, answered))
		}
	})
}

func TestAComputedValueThatCannotBeSentFailsTheCall(t *testing.T) {
	var handled atomic.Int32
	cases := map[string]rpctest.Case{"hello": func(context.Context, *rpctest.Input) (string, error) {
		handled.Add(1)
		return "hello", nil
	}}
	for name, compute := range map[string]metadata.ValuesFunc{
		"control character": values("a\nb hunter2"),
		"second value":      values("good", "\x7f hunter2"),
		"not ASCII":         values("hünter2"),
	} {
		for _, op := range []metadata.Op{metadata.SetFunc("x-bad", compute), metadata.AddFunc("x-bad", compute)} {
			write := must(metadata.Write(op))
			t.Run(name+"/client", func(t *testing.T) {
				rpctest.Run(t, &rpctest.Options{Client: []core.Interceptor{write}, Cases: cases}, func(t *testing.T, c *rpctest.Client) {
					res := c.Call(t.Context(), "hello")
					wantCode(t, res, core.CodeInvalidArgument)
					if text := fmt.Sprint(res.Err); !strings.Contains(text, `"x-bad"`) || strings.Contains(text, "hunter2") {
						t.Errorf("the error is %s, want the key in it and not the value", text)
					}
				})
			})
			t.Run(name+"/server", func(t *testing.T) {
				rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{write}, Cases: cases}, func(t *testing.T, c *rpctest.Client) {
					hidden(t, c.Call(t.Context(), "hello"), core.CodeInternal)
				})
			})
			equal(t, name+": calls of the handler", handled.Load(), 0)
			trailer := must(metadata.WriteTrailer(op))
			t.Run(name+"/trailer", func(t *testing.T) {
				rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{trailer}}, func(t *testing.T, c *rpctest.Client) {
					hidden(t, c.Call(t.Context(), "hello"), core.CodeInternal)
					wantCode(t, c.Call(t.Context(), "fail:not_found"), core.CodeNotFound)
				})
			})
		}
	}
}

func TestTheErrorOfAFunctionIsTheCalls(t *testing.T) {
	fails := func(context.Context, *core.Call) ([]string, error) {
		return nil, errors.FailedPrecondition("no tenant").WithCause(errors.New("hunter2"))
	}
	sides := map[string]*rpctest.Options{
		"client":  {Client: []core.Interceptor{must(metadata.Write(metadata.SetFunc("x-tenant", fails)))}},
		"server":  {Server: []core.Interceptor{must(metadata.Write(metadata.AddFunc("x-tenant", fails)))}},
		"trailer": {Server: []core.Interceptor{must(metadata.WriteTrailer(metadata.SetFunc("x-tenant", fails)))}},
	}
	for name, options := range sides {
		t.Run(name, func(t *testing.T) {
			rpctest.Run(t, options, func(t *testing.T, c *rpctest.Client) {
				res := c.Call(t.Context(), "hello")
				wantCode(t, res, core.CodeFailedPrecondition)
				if coded, _ := errors.AsType[*errors.Error](res.Err); coded.Message() != "no tenant" {
					t.Errorf("got %v", res.Err)
				}
			})
		})
	}
}

func TestTheCauseOfAServersFailureIsForItsLogs(t *testing.T) {
	for name, write := range map[string]core.Interceptor{
		"header":  must(metadata.Write(metadata.SetFunc("x-bad", values("\n")))),
		"trailer": must(metadata.WriteTrailer(metadata.SetFunc("x-bad", values("\n")))),
	} {
		err := write.Intercept(t.Context(), newCall(core.SideServer, nil), func(context.Context, *core.Call) error { return nil })
		if core.CodeOf(err) != core.CodeInternal || !strings.Contains(fmt.Sprint(err), `metadata value of "x-bad"`) {
			t.Errorf("%s: got %v, want an internal error with the cause", name, err)
		}
	}
}

// twice is an interceptor that retries once.
func twice(ctx context.Context, call *core.Call, next core.Handler) error {
	if call.Side() == core.SideServer {
		return next(ctx, call)
	}
	var err error
	for range 2 {
		attempt := call.NewAttempt()
		err = next(ctx, attempt)
		call.Adopt(attempt)
		if err == nil || attempt.Committed() {
			break
		}
	}
	return err
}

func TestEachAttemptOfARetrySendsWhatItAddsOnce(t *testing.T) {
	var calls atomic.Int32
	cases := map[string]rpctest.Case{"twice": func(_ context.Context, in *rpctest.Input) (string, error) {
		if calls.Add(1)%2 == 1 {
			return "", errors.Unavailable("try again")
		}
		return strings.Join(in.RequestMetadata()["x-tag"], " "), nil
	}}
	var attempts atomic.Int32
	inside := must(metadata.Write(metadata.AddFunc("x-tag", func(_ context.Context, call *core.Call) ([]string, error) {
		attempts.Add(1)
		return []string{fmt.Sprint("inside", call.Attempt())}, nil
	})))
	client := []core.Interceptor{must(metadata.Write(metadata.Add("x-tag", "outside"))), core.InterceptorFunc(twice), inside}
	rpctest.Run(t, &rpctest.Options{Client: client, Cases: cases}, func(t *testing.T, c *rpctest.Client) {
		calls.Store(0)
		attempts.Store(0)
		res := c.With("x-tag", "app").Call(t.Context(), "twice")
		wantCode(t, res, core.CodeOK)
		equal(t, "values of the second attempt", strings.Join(res.Outputs, "|"), "app outside inside2")
		equal(t, "attempts", attempts.Load(), 2)
	})
}

func TestConstructorsKeepWhatTheyWereGiven(t *testing.T) {
	list := []string{"1", "2"}
	ops := []metadata.Op{metadata.Set("x-set", list...)}
	write := must(metadata.Write(ops...))
	list[0], ops[0] = "changed", metadata.Set("x-other", "changed")
	call := newCall(core.SideClient, http.Header{})
	err := write.Intercept(t.Context(), call, func(context.Context, *core.Call) error { return nil })
	if got := fmt.Sprint(call.RequestHeader().Values("x-set"), call.RequestHeader().Len()); err != nil || got != "[1 2] 1" {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestWriteRefusesBadConfiguration(t *testing.T) {
	good := metadata.Set("x-good", "1")
	for _, test := range []struct {
		op    metadata.Op
		words []string
	}{
		{metadata.Set("", "hunter2"), []string{"Set", "key is empty"}},
		{metadata.Set("x y", "hunter2"), []string{"Set", `"x y"`}},
		{metadata.Set("x-ü", "hunter2"), []string{"Set", `"x-ü"`}},
		{metadata.Set("x-\u212aey", "hunter2"), []string{"Set", "character"}}, // a Kelvin sign, in lower case a k
		{metadata.Set("x-a", "1", "hunter2\n"), []string{"Set", `"x-a"`}},
		{metadata.Set("x-a", "1", "hunter2\n2"), []string{"Set", `"x-a"`, "0x0a at 7"}},
		{metadata.Set("x-a"), []string{"Set", `"x-a"`, "no value"}},
		{metadata.Add("x-a"), []string{"Add", `"x-a"`, "no value"}},
		{metadata.Add("Grpc-Timeout", "1S"), []string{"Add", `"grpc-timeout"`, "protocol"}},
		{metadata.Add("x-a", "hunter2\xff"), []string{"Add", `"x-a"`, "-bin"}},
		{metadata.Remove("Content-Type"), []string{"Remove", `"content-type"`, "protocol"}},
		{metadata.Remove("user-agent"), []string{"Remove", `"user-agent"`}},
		{metadata.SetFunc(":path", values()), []string{"SetFunc", `":path"`}},
		{metadata.AddFunc("connect-x", values()), []string{"AddFunc", `"connect-x"`}},
	} {
		i, err := metadata.Write(good, test.op)
		mustRefuse(t, i, err, append(test.words, "op 2 of 2 of Write,")...)
		i, err = metadata.WriteTrailer(test.op)
		mustRefuse(t, i, err, append(test.words, "op 1 of 1 of WriteTrailer,")...)
	}
	mustPanic(t, `SetFunc of "x-a": values is nil`, func() { metadata.SetFunc("x-a", nil) })
	mustPanic(t, `AddFunc of "x-a": values is nil`, func() { metadata.AddFunc("x-a", nil) })
	mustPanic(t, "op 2 of 2 of Write is the zero Op", func() { _, _ = metadata.Write(good, metadata.Op{}) })
	mustPanic(t, "op 1 of 1 of WriteTrailer is the zero Op", func() { _, _ = metadata.WriteTrailer(metadata.Op{}) })
}

func TestNothingToWriteIsFine(t *testing.T) {
	both := []core.Interceptor{must(metadata.Write()), must(metadata.WriteTrailer()), must(metadata.Forward())}
	rpctest.Run(t, &rpctest.Options{Server: both, Client: both}, func(t *testing.T, c *rpctest.Client) {
		wantCode(t, c.Call(t.Context(), "hello"), core.CodeOK)
	})
}
