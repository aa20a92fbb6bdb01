package parity

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
	"github.com/rpcweft/weft/rpctest"
)

// The tests in this file prove that known faults of interceptor libraries for Go and of the stacks themselves
// are not here. The numbers are those of the study from which they come. These wait for what they are about:
//
//	 2  how retries count, back off and obey the server: the retry interceptor
//	 5  data races and wrong levels in logs: the logging interceptor
//	 6  what Prometheus counts: the metrics interceptors (that EOF and failed sends are no messages is fault 15)
//	 7  a spoofed client address: the interceptor that finds it
//	 8  limiters, timeouts and validation that lose details or skip shapes: those interceptors
//	24  retries by default after DeadlineExceeded, without a delay: the retry interceptor

// cheap keeps the compressors away, which under the race detector cost more than all the rest.
var cheap = []connect.HandlerOption{connect.WithCompressMinBytes(1 << 20)}

// pass is an interceptor that does nothing.
var pass = core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error { return next(ctx, call) })

// header returns an interceptor that adds pairs to the header of each request.
func header(pairs ...string) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		for i := 0; i < len(pairs); i += 2 {
			if err := call.RequestHeader().Add(pairs[i], pairs[i+1]); err != nil {
				return err
			}
		}
		return next(ctx, call)
	})
}

// received is all that the application got of a call, as one text: what belongs to the protocol included.
func received(res *rpctest.Result) string {
	var all strings.Builder
	var walk func(err error)
	walk = func(err error) {
		fmt.Fprintf(&all, "%T %v %+v\n", err, err, err)
		switch node := err.(type) { //nolint:errorlint // all of the tree
		case interface{ Unwrap() error }:
			if inner := node.Unwrap(); inner != nil {
				walk(inner)
			}
		case interface{ Unwrap() []error }:
			for _, inner := range node.Unwrap() {
				walk(inner)
			}
		}
	}
	fmt.Fprintf(&all, "%q\n", res.Outputs)
	if res.Err != nil {
		walk(res.Err)
	}
	for _, detail := range errors.Details(res.Err) {
		fmt.Fprintf(&all, "%s %q\n", detail.GetTypeUrl(), detail.GetValue())
	}
	for _, md := range []*core.Metadata{res.Header, res.Trailer} {
		for key, values := range md.Raw().Map {
			fmt.Fprintf(&all, "%s %q\n", key, values)
			for _, value := range values {
				if data, err := connect.DecodeBinaryHeader(value); err == nil && strings.HasSuffix(strings.ToLower(key), "-bin") {
					fmt.Fprintf(&all, "%s %q\n", key, data)
				}
			}
		}
	}
	return all.String()
}

// wantNoSecret fails if what only this side may know has reached the application.
func wantNoSecret(t *testing.T, what string, res *rpctest.Result) {
	t.Helper()
	all := received(res)
	for _, secret := range []string{"hunter2", "goroutine", ".go:", "runtime/debug"} {
		if strings.Contains(all, secret) {
			t.Errorf("%s: %q has reached the client:\n%s", what, secret, all)
		}
	}
}

// wantCode fails if the call did not end with the code and the message.
func wantCode(t *testing.T, what string, res *rpctest.Result, code core.Code, message string) {
	t.Helper()
	weft, ok := errors.AsType[*errors.Error](res.Err)
	if core.CodeOf(res.Err) != code || !ok || weft.Message() != message {
		t.Errorf("%s: %s; want %s %q", what, res, code, message)
	}
}

// counted returns how often a thing happened on a side.
func counted(rec *rpctest.Recorder, side core.Side, what string) (n int) {
	for _, e := range rec.Events(side) {
		if e.What == what {
			n++
		}
	}
	return n
}

// texts returns what the recorder's interceptor of a name saw of messages of a kind, in order.
func texts(rec *rpctest.Recorder, side core.Side, name, what string) string {
	var seen []string
	for _, e := range rec.Events(side) {
		if e.Name == name && e.What == what {
			seen = append(seen, e.Text)
		}
	}
	return strings.Join(seen, " ")
}

func settled(t *testing.T, rec *rpctest.Recorder) {
	t.Helper()
	if err := rec.Wait(patience); err != nil {
		t.Fatal(err)
	}
}

// ends writes down how interceptors ended, by call: when a client fails by itself, its server may be late.
type ends struct {
	mu    sync.Mutex
	calls int
	codes map[string]string
}

// of returns a client whose calls are apart from all others.
func (e *ends) of(c *rpctest.Client) *rpctest.Client {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls++
	return c.With("x-call", strconv.Itoa(e.calls))
}

func (e *ends) key(side core.Side, name, call string) string {
	return fmt.Sprint(side, " ", name, " ", call)
}

// interceptor returns one that writes down its end under a name.
func (e *ends) interceptor(name string) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) (err error) {
		key, end := e.key(call.Side(), name, call.RequestHeader().Get("x-call")), "panic"
		defer func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.codes == nil {
				e.codes = map[string]string{}
			}
			e.codes[key] += end
		}()
		err = next(ctx, call)
		end = core.CodeOf(err).String()
		return err
	})
}

// seen waits for the end of the last call in an interceptor, and returns it.
func (e *ends) seen(side core.Side, name string) (end string) {
	eventually(func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		end = e.codes[e.key(side, name, strconv.Itoa(e.calls))]
		return end != ""
	})
	return end
}

// caught returns what f panics with.
func caught(f func()) (value any) {
	defer func() { value = recover() }()
	f()
	return nil
}

// panics does so where the request header x-panic says.
var panics = core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
	at := call.RequestHeader().Get("x-panic")
	side, place, _ := strings.Cut(at, " ")
	if side != call.Side().String() {
		return next(ctx, call)
	}
	burst := func(context.Context, any) error { panic("the password is hunter2") }
	switch place {
	case "before":
		panic("the password is hunter2")
	case "request":
		call.OnRequest(burst)
	case "response":
		call.OnResponse(burst)
	}
	err := next(ctx, call)
	if place == "after" {
		panic("the password is hunter2")
	}
	return err
})

var places = []string{"before", "after", "request", "response"}

// A retry after the application has seen a response would show it messages twice; and what the application
// has ended before an attempt failed is ended for the next attempt too.
func TestFault01ARetryNeverDuplicatesMessages(t *testing.T) {
	retry := func(stubborn bool) core.Interceptor {
		return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			for {
				attempt := call.NewAttempt()
				if err := attempt.RequestHeader().Set("x-attempt", strconv.Itoa(attempt.Attempt())); err != nil {
					return err
				}
				err := next(ctx, attempt)
				if attempt.Attempt() == 3 || core.CodeOf(err) != core.CodeUnavailable || attempt.Committed() && !stubborn {
					call.Adopt(attempt)
					return err
				}
			}
		})
	}
	for _, stubborn := range []bool{false, true} {
		name := map[bool]string{false: "after a response", true: "after a response, by an interceptor that does not care"}[stubborn]
		t.Run(name, func(t *testing.T) {
			rec := &rpctest.Recorder{}
			var runs atomic.Int32
			rpctest.Run(t, &rpctest.Options{
				HandlerOptions: cheap,
				Client:         []core.Interceptor{rec.Interceptor("outer"), retry(stubborn), rec.Interceptor("inner")},
				Shapes:         streaming,
				Cases: map[string]rpctest.Case{"two": func(_ context.Context, in *rpctest.Input) (string, error) {
					runs.Add(1)
					return "", errors.Join(in.Send("0"), in.Send("1"), errors.Unavailable("try again"))
				}},
			}, func(t *testing.T, c *rpctest.Client) {
				rec.Reset()
				runs.Store(0)
				res := c.Call(t.Context(), "two")
				settled(t, rec)
				want := core.CodeUnavailable
				if stubborn {
					want = core.CodeFailedPrecondition // that there is no other attempt
				}
				if fmt.Sprint(res.Outputs) != "[0 1]" || core.CodeOf(res.Err) != want || runs.Load() != 1 {
					t.Errorf("%s, after %d runs of the handler", res, runs.Load())
				}
				for _, name := range []string{"outer", "inner"} {
					if got := texts(rec, core.SideClient, name, "response"); got != `"0" "1"` {
						t.Errorf("%s saw the responses %s", name, got)
					}
				}
			})
		})
	}
	t.Run("half-close", func(t *testing.T) {
		rec := &rpctest.Recorder{}
		var mu sync.Mutex
		closed := make(chan struct{}) // the application has ended its requests
		rpctest.Run(t, &rpctest.Options{
			HandlerOptions: cheap,
			Client:         []core.Interceptor{rec.Interceptor("outer"), retry(false)},
			Server: []core.Interceptor{core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
				if call.RequestHeader().Get("x-attempt") == "3" {
					return next(ctx, call)
				}
				mu.Lock()
				wait := closed
				mu.Unlock()
				<-wait
				return errors.Unavailable("try again")
			}), rec.Interceptor("handler")},
			Shapes: []core.Shape{core.ShapeClientStream, core.ShapeBidiStream},
		}, func(t *testing.T, c *rpctest.Client) {
			rec.Reset()
			ended := make(chan struct{})
			mu.Lock()
			closed = ended
			mu.Unlock()
			if c.Path.HTTP == 1 {
				close(ended) // that network keeps nothing for a server that does not read
			}
			s, err := c.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_, _ = s.Send("a"), s.Send("b")
			switch {
			case c.Path.HTTP == 1:
			case c.Shape == core.ShapeBidiStream:
				_ = s.CloseSend()
				close(ended)
			default: // Receive is what ends the requests
				time.AfterFunc(5*time.Millisecond, func() { close(ended) })
			}
			res := s.Drain()
			settled(t, rec)
			if res.Err != nil || strings.Join(res.Outputs, "") != "ab" {
				t.Error(res)
			}
			for _, name := range []string{"outer", "handler"} {
				side := core.SideServer
				if name == "outer" {
					side = core.SideClient
				}
				if got := texts(rec, side, name, "request"); got != `"a" "b"` {
					t.Errorf("%s saw the requests %s", name, got)
				}
			}
		})
	})
}

// Whatever panics on a server, and with whatever: nothing of it is in anything that a client receives.
func TestFault03RecoveryNeverSendsTheStack(t *testing.T) {
	values := map[string]any{
		"a string":         "the password is hunter2",
		"an error":         fmt.Errorf("hunter2: %w", fs.ErrNotExist),
		"a struct":         struct{ Password string }{"hunter2"},
		"a carried panic":  &core.Panic{Value: "hunter2", Stack: []byte("goroutine 1 [running]: main.go:1")},
		"a runtime error":  nil,
		"an error of ours": errors.NotFound("public").WithCause(errors.New("hunter2")),
	}
	burst := func(name string) {
		if value := values[name]; value != nil {
			panic(value)
		}
		map[string]string(nil)["hunter2"] = "hunter2" //nolint:staticcheck // it is to panic
	}
	for name, options := range map[string]*errors.Options{
		"default":   nil,
		"revealing": {RevealUnknown: true}, // what was raised is not an error's text
		"reporting": {OnPanic: func(_ context.Context, _ *core.Call, value any, _ []byte) { panic(value) }},
	} {
		t.Run(name, func(t *testing.T) {
			rpctest.Run(t, &rpctest.Options{
				HandlerOptions: cheap,
				Server: []core.Interceptor{errors.NewInterceptor(options), core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
					place, value := call.RequestHeader().Get("x-place"), call.RequestHeader().Get("x-value")
					hook := func(context.Context, any) error { burst(value); return nil }
					switch place {
					case "before":
						burst(value)
					case "request":
						call.OnRequest(hook)
					case "response":
						call.OnResponse(hook)
					}
					err := next(ctx, call)
					if place == "after" {
						burst(value)
					}
					return err
				})},
				Cases: map[string]rpctest.Case{"burst:": func(_ context.Context, in *rpctest.Input) (string, error) {
					burst(in.Arg)
					return "", nil
				}},
			}, func(t *testing.T, c *rpctest.Client) {
				for value := range values {
					code, message := core.CodeInternal, "internal error"
					if value == "an error of ours" && name != "reporting" {
						code, message = core.CodeNotFound, "public"
					}
					res := c.Call(t.Context(), "burst:"+value)
					wantCode(t, "handler, "+value, res, code, message)
					wantNoSecret(t, "handler, "+value, res)
					for _, place := range places {
						if name != "default" && place == "after" {
							continue // no news
						}
						res := c.With("x-place", place).With("x-value", value).Call(t.Context(), "hi")
						wantCode(t, place+", "+value, res, code, message)
						wantNoSecret(t, place+", "+value, res)
					}
				}
			})
		})
	}
}

// However a client stream ends, and whatever the application still does with it: each interceptor leaves once.
func TestFault04AStreamEndsExactlyOnce(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	rec := &rpctest.Recorder{}
	rpctest.Run(t, &rpctest.Options{
		HandlerOptions: cheap,
		Client:         []core.Interceptor{rec.Interceptor("outer"), rec.Interceptor("inner")},
		Server:         []core.Interceptor{rec.Interceptor("server")},
		Shapes:         streams,
		Cases: map[string]rpctest.Case{"hang": func(ctx context.Context, in *rpctest.Input) (string, error) {
			if in.Streams() {
				if err := in.Send("first"); err != nil {
					return "", err
				}
			}
			select {
			case <-ctx.Done():
			case <-stop: // HTTP/1.1 does not tell a server that reads no more
			}
			return "", ctx.Err()
		}},
		ClientOptions: []connect.ClientOption{connect.WithSendMaxBytes(1000)},
		DialOptions:   []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallSendMsgSize(1000))},
	}, func(t *testing.T, c *rpctest.Client) {
		open := func(input string) *rpctest.Stream {
			t.Helper()
			rec.Reset()
			s, err := c.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = s.Send(input)
			return s
		}
		ended := func(what string, code core.Code) {
			t.Helper()
			for deadline := time.Now().Add(patience); counted(rec, core.SideClient, "end") < 2 && time.Now().Before(deadline); {
				time.Sleep(100 * time.Microsecond)
			}
			for _, name := range []string{"outer", "inner"} {
				if got := texts(rec, core.SideClient, name, "end"); got != code.String() {
					t.Errorf("%s: %s ended with %q, want %s", what, name, got, code)
				}
			}
		}
		touch := func(s *rpctest.Stream) {
			for range 3 {
				_, _ = s.Receive()
			}
			if c.Shape == core.ShapeBidiStream {
				_ = s.Send("more")
			}
			_ = s.Close()
			_, _ = s.Receive()
		}

		s := open("hang")
		s.Cancel()
		ended("canceled, not drained", core.CodeCanceled)
		touch(s)
		ended("canceled, not drained, touched again", core.CodeCanceled)

		s = open("hi")
		if res := s.Drain(); res.Err != nil {
			t.Error(res)
		}
		ended("drained", core.CodeOK)
		touch(s)
		ended("received after EOF", core.CodeOK)

		s = open("fail:aborted")
		_ = s.CloseSend()
		for range 2 {
			if _, err := s.Receive(); core.CodeOf(err) != core.CodeAborted {
				t.Errorf("failed: %v", err)
			}
		}
		ended("failed", core.CodeAborted)
		touch(s)
		ended("failed, touched again", core.CodeAborted)

		s = open(strings.Repeat("x", 2000))
		ended("failed Send", core.CodeResourceExhausted) // nobody touches it again
		touch(s)
		ended("failed Send, touched again", core.CodeResourceExhausted)

		if c.Path.Client == rpctest.Connect {
			s = open("hang")
			_ = s.Close()
			ended("closed early", core.CodeCanceled)
			touch(s)
			ended("closed early, touched again", core.CodeCanceled)
		}
	})
}

// An interceptor runs for every shape, on both sides, and so does one that refuses.
func TestFault09NoShapeIsSkipped(t *testing.T) {
	rec := &rpctest.Recorder{}
	var handled atomic.Int32
	refuse := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if call.RequestHeader().Get("x-refuse") == call.Side().String() {
			return errors.PermissionDenied("%s refuses", call.Side())
		}
		return next(ctx, call)
	})
	rpctest.Run(t, &rpctest.Options{
		HandlerOptions: cheap,
		Client:         []core.Interceptor{rec.Interceptor("a"), refuse, core.When(core.MatchShape(rpctest.Shapes()...), rec.Interceptor("b"))},
		Server:         []core.Interceptor{core.NewChain(rec.Interceptor("a"), refuse), rec.Interceptor("b")},
		Cases: map[string]rpctest.Case{"handle": func(context.Context, *rpctest.Input) (string, error) {
			handled.Add(1)
			return "handled", nil
		}},
	}, func(t *testing.T, c *rpctest.Client) {
		rec.Reset()
		handled.Store(0)
		if res := c.Call(t.Context(), "handle"); res.Err != nil || fmt.Sprint(res.Outputs) != "[handled]" || handled.Load() != 1 {
			t.Errorf("%s; the handler ran %d times", res, handled.Load())
		}
		settled(t, rec)
		method := map[core.Shape]string{
			core.ShapeUnary: "Execute", core.ShapeClientStream: "ExecuteClientStream",
			core.ShapeServerStream: "ExecuteServerStream", core.ShapeBidiStream: "ExecuteClientServerStream",
		}[c.Shape]
		for _, side := range both {
			for _, name := range []string{"a", "b"} {
				want := c.Shape.String() + " /" + dummyv1connect.DummyServiceName + "/" + method
				if got := texts(rec, side, name, "enter"); got != want {
					t.Errorf("%s %s saw %q; want %q", side, name, got, want)
				}
			}
		}
		for _, side := range both {
			handled.Store(0)
			res := c.With("x-refuse", side.String()).Call(t.Context(), "handle")
			wantCode(t, "refused", res, core.CodePermissionDenied, side.String()+" refuses")
			if len(res.Outputs) != 0 || handled.Load() != 0 {
				t.Errorf("the %s refused: %s; the handler ran %d times", side, res, handled.Load())
			}
		}
	})
}

// Recovery catches what is inside of it wherever it stands, on clients too; without it a panic on a
// client arrives in the application's goroutine.
func TestFault10RecoveryWorksWhereverItStands(t *testing.T) {
	for position := range 4 {
		t.Run(fmt.Sprint("position ", position), func(t *testing.T) {
			e := &ends{}
			chain := []core.Interceptor{e.interceptor("a"), e.interceptor("b"), panics}
			chain = slices.Insert(chain, position, errors.NewInterceptor(&errors.Options{
				OnError: func(context.Context, *core.Call, error) error { return nil }, // keeps the error
			}))
			o := &rpctest.Options{HandlerOptions: cheap, Server: chain, Client: chain}
			where := places
			if position == 3 {
				where = nil // only the handler is inside
			}
			rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
				check := func(what string, side core.Side, res *rpctest.Result) {
					t.Helper()
					wantCode(t, what, res, core.CodeInternal, "internal error")
					for i, name := range []string{"a", "b"} {
						want := "panic"
						if i < position {
							want = "internal"
						}
						if got := e.seen(side, name); got != want {
							t.Errorf("%s: %s ended with %q, want %s", what, name, got, want)
						}
					}
				}
				res := e.of(c).Call(t.Context(), "panic")
				check("handler", core.SideServer, res)
				wantNoSecret(t, "handler", res)
				for _, side := range both {
					for _, place := range where {
						at := side.String() + " " + place
						check(at, side, e.of(c).With("x-panic", at).Call(t.Context(), "hi"))
					}
				}
			})
		})
	}
	t.Run("without it, on clients", func(t *testing.T) {
		rec := &rpctest.Recorder{}
		rpctest.Run(t, &rpctest.Options{HandlerOptions: cheap, Client: []core.Interceptor{rec.Interceptor("a"), panics}}, func(t *testing.T, c *rpctest.Client) {
			for _, place := range places {
				rec.Reset()
				returned := &rpctest.Result{}
				value := caught(func() { returned = c.With("x-panic", "client "+place).Call(t.Context(), "hi") })
				settled(t, rec)
				if got := texts(rec, core.SideClient, "a", "end"); got != "panic" {
					t.Errorf("%s: the interceptor ended with %q", place, got)
				}
				if p, ok := value.(*core.Panic); ok {
					if value = p.Value; !strings.Contains(string(p.Stack), "faults_test.go") {
						t.Errorf("%s: the stack is not that of the panic:\n%s", place, p.Stack)
					}
				} else if c.Shape != core.ShapeUnary {
					t.Errorf("%s: panicked with %T; the stack is lost", place, value)
				}
				if value != "the password is hunter2" {
					t.Errorf("%s: panicked with %v, returned %s", place, value, returned)
				}
			}
		})
	})
}

// The deadline of one attempt is not that of the next, in whatever order they come or if they run at once.
func TestFault11NoAttemptHasTheTimeoutOfAnother(t *testing.T) {
	const none = time.Duration(0)
	// The server says which deadline it sees, and fails unless the attempt is the last.
	deadline := dummy.DefaultCases()["deadline"]
	cases := map[string]rpctest.Case{"deadline of": func(ctx context.Context, in *rpctest.Input) (string, error) {
		seen, err := deadline(ctx, in)
		md := in.RequestMetadata()
		for _, key := range []string{"connect-timeout-ms", "grpc-timeout"} {
			if values := md[key]; seen == "none" && len(values) > 0 || len(values) > 1 {
				return "", errors.DataLoss("%s is %q", key, values)
			}
		}
		if err == nil && md["x-last"] == nil {
			return "", errors.Unavailable("%s", seen)
		}
		return seen, err
	}}
	// fits reports whether seen is what the handler sees of a limit.
	fits := func(seen string, limit time.Duration) bool {
		if limit == none {
			return seen == "none"
		}
		left, err := strconv.Atoi(seen)
		return err == nil && left <= int(limit.Milliseconds()) && left > int(limit.Milliseconds())-4000
	}
	limited := func(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
		if limit == none {
			return context.WithCancel(ctx)
		}
		return context.WithTimeout(ctx, limit)
	}
	for name, limits := range map[string][3]time.Duration{ // of the application, and of two attempts
		"5s, then none":           {none, 5 * time.Second, none},
		"none, then 5s":           {none, none, 5 * time.Second},
		"an hour, then 5s":        {none, time.Hour, 5 * time.Second},
		"5s, then the caller's":   {time.Hour, 5 * time.Second, none},
		"the caller's, then 5s":   {time.Hour, none, 5 * time.Second},
		"5s, then twenty minutes": {time.Hour, 5 * time.Second, 20 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			retry := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
				first := call.NewAttempt()
				short, cancel := limited(ctx, limits[1])
				err := next(short, first)
				cancel()
				seen, ok := errors.AsType[*errors.Error](err)
				if want := cmpOr(limits[1], limits[0]); !ok || seen.Code() != core.CodeUnavailable || !fits(seen.Message(), want) {
					return errors.DataLoss("the first attempt ended with %v", err)
				}
				second := call.NewAttempt()
				if err := second.RequestHeader().Set("x-last", "yes"); err != nil {
					return err
				}
				short, cancel = limited(ctx, limits[2])
				defer cancel()
				err = next(short, second)
				call.Adopt(second)
				return err
			})
			rpctest.Run(t, &rpctest.Options{HandlerOptions: cheap, Client: []core.Interceptor{pass, retry, pass}, Cases: cases}, func(t *testing.T, c *rpctest.Client) {
				ctx, cancel := limited(t.Context(), limits[0])
				defer cancel()
				res := c.Call(ctx, "deadline of")
				if want := cmpOr(limits[2], limits[0]); res.Err != nil || len(res.Outputs) != 1 || !fits(res.Outputs[0], want) {
					t.Errorf("the second attempt, with a limit of %v: %s", want, res)
				}
			})
		})
	}
	t.Run("at once", func(t *testing.T) {
		hedge := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			limits := []time.Duration{5 * time.Second, none, time.Hour, none, 20 * time.Second, none}
			attempts, errs := make([]*core.Call, len(limits)), make([]error, len(limits))
			var running sync.WaitGroup
			for i, limit := range limits {
				attempts[i] = call.NewAttempt()
				running.Go(func() {
					ctx, cancel := limited(ctx, limit)
					defer cancel()
					errs[i] = errors.Join(attempts[i].RequestHeader().Set("x-last", strconv.Itoa(i)), next(ctx, attempts[i]))
				})
			}
			running.Wait()
			call.Adopt(attempts[1])
			for i, limit := range limits {
				res, _ := attempts[i].Response().(*dummyv1.DummyResponse)
				if errs[i] != nil || !fits(res.GetOutput(), limit) {
					return errors.DataLoss("attempt %d, with a limit of %v, saw %q: %v", i+1, limit, res.GetOutput(), errs[i])
				}
			}
			return nil
		})
		rpctest.Run(t, &rpctest.Options{
			HandlerOptions: cheap,
			Client:         []core.Interceptor{hedge, pass}, Cases: cases, Shapes: []core.Shape{core.ShapeUnary},
		}, func(t *testing.T, c *rpctest.Client) {
			for range 5 {
				if res := c.Call(t.Context(), "deadline of"); res.Err != nil || fmt.Sprint(res.Outputs) != "[none]" {
					t.Error(res)
				}
			}
		})
	})
}

func cmpOr(a, b time.Duration) time.Duration {
	if a != 0 {
		return a
	}
	return b
}

// oddStatusError is an error of grpc's own kind that claims success, or a code that there is not.
type oddStatusError codes.Code

func (oddStatusError) Error() string                { return "hunter2" }
func (o oddStatusError) GRPCStatus() *status.Status { return status.New(codes.Code(o), "bad") }

// An error is a failure for everybody who sees it, whatever code it claims.
func TestFault12AnErrorWithABadCodeIsNeverASuccess(t *testing.T) {
	raised := map[string]error{
		"ours with code 0":      badCodeError(0),
		"ours with code 99":     badCodeError(99),
		"wrapped":               fmt.Errorf("hunter2: %w", badCodeError(0)),
		"connect's, code 0":     connect.NewError(0, errors.New("bad")),
		"connect's, code 99":    connect.NewError(99, errors.New("bad")),
		"grpc's, code 0":        oddStatusError(0),
		"grpc's, code 99":       oddStatusError(99),
		"a nil error of ours":   (*errors.Error)(nil),
		"connect's, code 2^32-": connect.NewError(1<<32-1, errors.New("bad")),
	}
	raise := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		side, rest, _ := strings.Cut(call.RequestHeader().Get("x-raise"), " ")
		place, name, _ := strings.Cut(rest, " ")
		if side != call.Side().String() {
			return next(ctx, call)
		}
		hook := func(context.Context, any) error { return raised[name] }
		switch place {
		case "before":
			return raised[name]
		case "request":
			call.OnRequest(hook)
		case "response":
			call.OnResponse(hook)
		}
		err := next(ctx, call)
		if place == "after" {
			return raised[name]
		}
		return err
	})
	for name, more := range map[string][]core.Interceptor{
		"bare":                   nil,
		"with the errors of all": {errors.NewInterceptor(nil), connectx.Errors(), grpcx.Errors()},
	} {
		t.Run(name, func(t *testing.T) {
			turn := 0
			e := &ends{}
			chain := slices.Concat([]core.Interceptor{e.interceptor("outer")}, more, []core.Interceptor{raise})
			rpctest.Run(t, &rpctest.Options{
				HandlerOptions: cheap,
				Server:         chain, Client: chain,
				Cases: map[string]rpctest.Case{"raise:": func(_ context.Context, in *rpctest.Input) (string, error) { return "", raised[in.Arg] }},
			}, func(t *testing.T, c *rpctest.Client) {
				check := func(what string, res *rpctest.Result) {
					t.Helper()
					code := core.CodeOf(res.Err)
					// The other stack's errors are unknown, except to the interceptors for them, outside of where they are raised.
					known := strings.Contains(what, "ours") || strings.Contains(what, "wrapped") || more != nil
					if res.Err == nil || code != core.CodeInternal && (known || code != core.CodeUnknown) {
						t.Errorf("%s: %s", what, res)
					}
					if got := e.seen(core.SideClient, "outer"); got != code.String() {
						t.Errorf("%s: interceptors of the client saw %s, the application %s", what, got, code)
					}
					if !strings.HasPrefix(what, "client") {
						wantNoSecret(t, what, res)
						if got := e.seen(core.SideServer, "outer"); got != code.String() {
							t.Errorf("%s: interceptors of the server saw %s, the application %s", what, got, code)
						}
					}
				}
				for i, name := range slices.Sorted(maps.Keys(raised)) {
					check("handler "+name, e.of(c).Call(t.Context(), "raise:"+name))
					for j, side := range both {
						// Each error in each place would take long: on the next path it is in another one.
						what := fmt.Sprint(side, " ", places[(i+j+turn)%len(places)], " ", name)
						check(what, e.of(c).With("x-raise", what).Call(t.Context(), "hi"))
					}
				}
				turn++
			})
		})
	}
}

// A call that is too late when its turn comes does not run its handler, in no shape.
func TestFault13AnExpiredCallDoesNotRunItsHandler(t *testing.T) {
	rec := &rpctest.Recorder{}
	var handled atomic.Int32
	late := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		switch call.RequestHeader().Get("x-late") {
		case "deadline":
			ctx, cancel := context.WithDeadline(ctx, time.Unix(1, 0))
			defer cancel()
			return next(ctx, call)
		case "canceled":
			ctx, cancel := context.WithCancel(ctx)
			cancel()
			return next(ctx, call)
		case "wait":
			<-ctx.Done()
		}
		return next(ctx, call)
	})
	rpctest.Run(t, &rpctest.Options{
		HandlerOptions: cheap,
		Server:         []core.Interceptor{rec.Interceptor("outer"), late, rec.Interceptor("inner")},
		Cases: map[string]rpctest.Case{"handle": func(context.Context, *rpctest.Input) (string, error) {
			handled.Add(1)
			return "handled", nil
		}},
	}, func(t *testing.T, c *rpctest.Client) {
		check := func(what string, res *rpctest.Result, code core.Code) {
			t.Helper()
			settled(t, rec)
			if handled.Swap(0) != 0 || core.CodeOf(res.Err) != code {
				t.Errorf("%s: %s; want %s, and that the handler does not run", what, res, code)
			}
			if n := counted(rec, core.SideServer, "request"); n != 0 && c.Shape != core.ShapeUnary {
				t.Errorf("%s: the hooks saw %d messages", what, n)
			}
			for _, e := range rec.Reset() {
				if e.What == "end" && e.Text == "ok" {
					t.Errorf("%s: %s", what, e)
				}
			}
		}
		rec.Reset()
		handled.Store(0)
		check("deadline of an interceptor", c.With("x-late", "deadline").Call(t.Context(), "handle"), core.CodeDeadlineExceeded)
		check("canceled by an interceptor", c.With("x-late", "canceled").Call(t.Context(), "handle"), core.CodeCanceled)

		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		check("deadline of the caller", c.With("x-late", "wait").Call(ctx, "handle"), core.CodeDeadlineExceeded)

		// No time is left when the call arrives. grpc-go's client does not send such a call.
		if c.Path.Client == rpctest.Connect {
			key, value := "grpc-timeout", "0m"
			if c.Path.Protocol == core.ProtocolConnect {
				key, value = "connect-timeout-ms", "0"
			}
			check("no time left", c.With(key, value).Call(t.Context(), "handle"), core.CodeDeadlineExceeded)
		}
	})
}

// Context errors that nobody has converted have their code for everybody, on the wire too.
func TestFault14RawContextErrorsHaveTheirCode(t *testing.T) {
	raised := map[string]error{
		"canceled":          context.Canceled,
		"deadline_exceeded": context.DeadlineExceeded,
	}
	raised["canceled wrapped"] = fmt.Errorf("hunter2: %w", context.Canceled)
	raised["deadline_exceeded wrapped"] = errors.Join(errors.New("hunter2"), &fs.PathError{Op: "read", Path: "hunter2", Err: context.DeadlineExceeded})
	raised["deadline_exceeded of os"] = fmt.Errorf("hunter2: %w", os.ErrDeadlineExceeded)
	codeOf := func(name string) core.Code {
		first, _, _ := strings.Cut(name, " ")
		code, err := core.ParseCode(first)
		if err != nil {
			t.Fatal(err)
		}
		return code
	}
	raise := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if err := raised[call.RequestHeader().Get("x-raise")]; err != nil {
			return err
		}
		return next(ctx, call)
	})
	cases := map[string]rpctest.Case{"raise:": func(_ context.Context, in *rpctest.Input) (string, error) { return "", raised[in.Arg] }}

	rec := &rpctest.Recorder{}
	rpctest.Run(t, &rpctest.Options{
		HandlerOptions: cheap,
		Client:         []core.Interceptor{rec.Interceptor("a")},
		Server:         []core.Interceptor{rec.Interceptor("a"), raise},
		Cases:          cases,
	}, func(t *testing.T, c *rpctest.Client) {
		for name := range raised {
			for what, do := range map[string]func() *rpctest.Result{
				"handler":     func() *rpctest.Result { return c.Call(t.Context(), "raise:"+name) },
				"interceptor": func() *rpctest.Result { return c.With("x-raise", name).Call(t.Context(), "hi") },
			} {
				rec.Reset()
				res := do()
				settled(t, rec)
				wantCode(t, what+" "+name, res, codeOf(name), core.PublicMessage(codeOf(name)))
				wantNoSecret(t, what+" "+name, res)
				for _, side := range both {
					if got := texts(rec, side, "a", "end"); got != codeOf(name).String() {
						t.Errorf("%s %s: interceptors of the %s saw %s", what, name, side, got)
					}
				}
			}
		}
	})

	// What a client that is no library of RPCs sees.
	_, handler := dummyv1connect.NewDummyServiceHandler(dummy.New(cases).Connect(), connect.WithInterceptors(connectx.New(raise)))
	for name := range raised {
		for what, do := range map[string]func(*http.Request){
			"raise:" + name: func(*http.Request) {},
			"hi":            func(r *http.Request) { r.Header.Set("X-Raise", name) },
		} {
			body := fmt.Sprintf(`{"input": %q}`, what)
			req := httptest.NewRequest(http.MethodPost, dummyv1connect.DummyServiceExecuteProcedure, strings.NewReader(body))
			req.Header.Set("Content-Type", "application/json")
			do(req)
			res := httptest.NewRecorder()
			handler.ServeHTTP(res, req)
			want := http.StatusGatewayTimeout
			if codeOf(name) == core.CodeCanceled {
				want = 499
			}
			if res.Code != want || strings.Contains(res.Body.String(), "hunter2") {
				t.Errorf("%s, %s: HTTP status %d %s; want %d", what, name, res.Code, res.Body, want)
			}
		}
	}
}

// flusher is an interceptor of connect's own that flushes headers before the first message and after each.
type flusher struct{ flushed atomic.Int32 }

type flushingClient struct {
	connect.StreamingClientConn
	f *flusher
}

type flushingHandler struct {
	connect.StreamingHandlerConn
	f *flusher
}

func (f *flusher) flush(send func(any) error) error {
	f.flushed.Add(1)
	return send(nil)
}

func (f *flusher) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc { return next }

func (f *flusher) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		if spec.StreamType == connect.StreamTypeServer {
			return next(ctx, spec) // connect sends one thing only
		}
		return &flushingClient{next(ctx, spec), f}
	}
}

func (f *flusher) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		// Over HTTP/1.1 nothing can be read any more when the response has begun.
		if conn.RequestHeader().Get("X-Http") != "1" {
			if err := f.flush(conn.Send); err != nil {
				return err
			}
		}
		return next(ctx, &flushingHandler{conn, f})
	}
}

func (c *flushingClient) Send(msg any) error {
	if err := c.f.flush(c.StreamingClientConn.Send); err != nil {
		return err
	}
	return errors.Join(c.StreamingClientConn.Send(msg), c.f.flush(c.StreamingClientConn.Send))
}

func (c *flushingHandler) Send(msg any) error {
	return errors.Join(c.StreamingHandlerConn.Send(msg), c.f.flush(c.StreamingHandlerConn.Send))
}

// Messages are what was sent or received: not the flush of a header, not the end, not what comes after it.
func TestFault15OnlyMessagesAreMessages(t *testing.T) {
	rec, web := &rpctest.Recorder{}, &flusher{}
	var sent atomic.Int32
	rpctest.Run(t, &rpctest.Options{
		Server:         []core.Interceptor{rec.Interceptor("s")},
		HandlerOptions: []connect.HandlerOption{connect.WithInterceptors(web)},
		ServerOptions: []grpc.ServerOption{grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
			return errors.Join(stream.SendHeader(nil), handler(srv, stream))
		})},
		// Outside of the flusher stands an empty chain, inside of it the one that is looked at.
		ClientOptions: []connect.ClientOption{connect.WithInterceptors(web, connectx.New(rec.Interceptor("c")))},
		DialOptions:   grpcx.DialOptions(rec.Interceptor("c")),
		Cases: map[string]rpctest.Case{"too late": func(ctx context.Context, in *rpctest.Input) (string, error) {
			if err := in.Send("in time"); err != nil {
				return "", err
			}
			<-ctx.Done()
			sent.Add(1)
			for range 3 {
				if err := in.Send("too late"); err == nil {
					return "", errors.DataLoss("sent after the end")
				}
			}
			return "too late", nil
		}},
	}, func(t *testing.T, c *rpctest.Client) {
		want := func(what, side, messages string) {
			t.Helper()
			of := map[string]core.Side{"c": core.SideClient, "s": core.SideServer}[side]
			if got := texts(rec, of, side, what); got != messages {
				t.Errorf("%s %s were %s; want %s", side, what, got, messages)
			}
		}
		rec.Reset()
		web.flushed.Store(0)
		c = c.With("x-http", strconv.Itoa(c.Path.HTTP))
		res := c.Call(t.Context(), "ab", "c")
		settled(t, rec)
		if res.Err != nil {
			t.Fatal(res)
		}
		native := c.Path.Server == rpctest.GRPC && (c.Path.Client == rpctest.GRPC || c.Shape == core.ShapeServerStream)
		if web.flushed.Load() == 0 && c.Shape != core.ShapeUnary && !native {
			t.Error("no header was flushed")
		}
		requests, responses := `"ab"`, `"ab"`
		switch c.Shape {
		case core.ShapeClientStream:
			requests, responses = `"ab" "c"`, `"abc"`
		case core.ShapeServerStream:
			responses = `"a" "b"`
		case core.ShapeBidiStream:
			requests, responses = `"ab" "c"`, `"ab" "c"`
		case core.ShapeUnary:
		}
		for _, side := range []string{"c", "s"} {
			want("request", side, requests)
			want("response", side, responses)
		}

		// No message: only an end.
		if c.Shape.ClientStreams() {
			rec.Reset()
			if res := c.Call(t.Context()); res.Err != nil {
				t.Error(res)
			}
			settled(t, rec)
			for _, side := range []string{"c", "s"} {
				want("request", side, "")
			}
		}
		// A send that comes after the end, on either side.
		if c.Shape == core.ShapeBidiStream {
			rec.Reset()
			s, err := c.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = s.Send("fail:aborted")
			_, _ = s.Receive()
			for range 3 {
				if err := s.Send("more"); err == nil {
					t.Error("sent after the end")
				}
				_, _ = s.Receive()
			}
			_ = s.Close()
			settled(t, rec)
			for _, side := range []string{"c", "s"} {
				want("request", side, `"fail:aborted"`)
				want("response", side, "")
			}
		}
		if c.Shape.ServerStreams() && c.Path.HTTP == 2 {
			rec.Reset()
			sent.Store(0)
			s, err := c.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			_ = s.Send("too late")
			_, _ = s.Receive()
			s.Cancel()
			settled(t, rec)
			if sent.Load() != 1 {
				t.Error("the handler was not there when the call ended")
			}
			for _, side := range []string{"c", "s"} {
				want("response", side, `"in time"`)
			}
		}
	})
}

// An interceptor runs once for an RPC, not for each message; hooks see messages that are filled.
func TestFault16AnInterceptorRunsOncePerRPC(t *testing.T) {
	rec := &rpctest.Recorder{}
	ic := []core.Interceptor{rec.Interceptor("a"), rec.Interceptor("b")}
	rpctest.Run(t, &rpctest.Options{HandlerOptions: cheap, Server: ic, Client: ic}, func(t *testing.T, c *rpctest.Client) {
		rec.Reset()
		inputs := strings.Split("abcdefgh", "")
		if c.Shape == core.ShapeServerStream {
			inputs = []string{"abcdefgh"}
		}
		res := c.Call(t.Context(), inputs...)
		settled(t, rec)
		each := `"a" "b" "c" "d" "e" "f" "g" "h"`
		requests, responses := `"a"`, `"a"`
		switch c.Shape {
		case core.ShapeClientStream:
			requests, responses = each, `"abcdefgh"`
		case core.ShapeServerStream:
			requests, responses = `"abcdefgh"`, each
		case core.ShapeBidiStream:
			requests, responses = each, each
		case core.ShapeUnary:
		}
		if got := strings.Trim(fmt.Sprintf("%q", res.Outputs), "[]"); got != responses || res.Err != nil {
			t.Error(res)
		}
		for _, side := range both {
			for _, name := range []string{"a", "b"} {
				for what, want := range map[string]string{"request": requests, "response": responses, "end": "ok"} {
					if got := texts(rec, side, name, what); got != want {
						t.Errorf("%s %s: %s %s; want %s", side, name, what, got, want)
					}
				}
			}
			if n := counted(rec, side, "enter"); n != 2 {
				t.Errorf("the two interceptors of the %s ran %d times", side, n)
			}
		}
	})
}

// All values of a key arrive, in order, in both directions; header and trailer also with a failure; and what
// comes too late is an error instead of being lost.
func TestFault17NoMetadataIsLost(t *testing.T) {
	var seen atomic.Value
	write := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		seen.Store(fmt.Sprintf("%q %q", call.RequestHeader().Values("x-echo-a"), call.RequestHeader().Values("x-echo-b-bin")))
		for _, value := range []string{"1", "2"} {
			if err := errors.Join(call.ResponseHeader().Add("x-header", value), call.ResponseTrailer().Add("x-trailer", value)); err != nil {
				return err
			}
		}
		err := next(ctx, call)
		arrives := "yes"
		if problem := call.ResponseHeader().Set("x-after", "yes"); problem != nil {
			if core.CodeOf(problem) != core.CodeFailedPrecondition {
				return problem
			}
			arrives = "no"
		}
		if problem := call.ResponseTrailer().Set("x-after-arrives", arrives); problem != nil {
			return problem
		}
		return err
	})
	rpctest.Run(t, &rpctest.Options{
		HandlerOptions: cheap,
		Client:         []core.Interceptor{header("x-echo-a", "4", "x-echo-a", "5, 6"), header("x-echo-b-bin", "\xff,")},
		Server:         []core.Interceptor{write},
	}, func(t *testing.T, c *rpctest.Client) {
		c = c.With("x-echo-a", "1").With("x-echo-a", "2").With("x-echo-a", "3").With("x-echo-b-bin", "\x00").With("x-echo-b-bin", "=")
		for _, input := range []string{"metadata", "metadata-fail:data_loss", "metadata-fail:unauthenticated"} {
			res := c.Call(t.Context(), input)
			failed := input != "metadata"
			if failed != (res.Err != nil) {
				t.Errorf("%s: %s", input, res)
			}
			if want := `["1" "2" "3" "4" "5, 6"] ["\x00" "=" "\xff,"]`; seen.Load() != want {
				t.Errorf("%s: the server saw %s; want %s", input, seen.Load(), want)
			}
			got := map[string][]string{}
			for _, md := range []*core.Metadata{res.Header, res.Trailer} {
				for key, values := range md.All() {
					got[key] = append(got[key], values...)
				}
			}
			delete(got, "vary")
			want := map[string][]string{
				"x-header": {"1", "2"}, "x-trailer": {"1", "2"},
				"x-echo-a": {"1", "2", "3", "4", "5, 6"}, "x-trailer-a": {"1", "2", "3", "4", "5, 6"},
				"x-echo-b-bin": {"\x00", "=", "\xff,"}, "x-trailer-b-bin": {"\x00", "=", "\xff,"},
				"x-after-arrives": {"no"},
			}
			if !c.Shape.ServerStreams() || failed {
				want["x-after-arrives"], want["x-after"] = []string{"yes"}, []string{"yes"}
			}
			if !maps.EqualFunc(got, want, slices.Equal) {
				t.Errorf("%s: the application got\n\t%q\nwant\n\t%q", input, got, want)
			}
			// Header and trailer are apart, except for a failed unary call of connect's client.
			if merged := c.Path.Client == rpctest.Connect && c.Shape == core.ShapeUnary && failed; !merged && len(res.Trailer.Values("x-trailer-a")) != 5 {
				t.Errorf("%s: the trailer is %q", input, maps.Collect(res.Trailer.All()))
			}
		}
	})
}

// What an interceptor defers is done whatever panics; a matcher that can match nothing is refused when it is made.
func TestFault18ReleaseIsDeferredAndMatchersRefuse(t *testing.T) {
	var slots, taken atomic.Int32
	limit := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		taken.Add(1)
		slots.Add(1)
		defer slots.Add(-1)
		return next(ctx, call)
	})
	chain := []core.Interceptor{errors.NewInterceptor(nil), limit, panics}
	rpctest.Run(t, &rpctest.Options{HandlerOptions: cheap, Server: chain, Client: chain}, func(t *testing.T, c *rpctest.Client) {
		taken.Store(0)
		if res := c.Call(t.Context(), "panic"); core.CodeOf(res.Err) != core.CodeInternal {
			t.Error(res)
		}
		for _, side := range both {
			for _, place := range places {
				if res := c.With("x-panic", fmt.Sprint(side, " ", place)).Call(t.Context(), "hi"); core.CodeOf(res.Err) != core.CodeInternal {
					t.Errorf("%s %s: %s", side, place, res)
				}
			}
		}
		for deadline := time.Now().Add(patience); slots.Load() != 0 && time.Now().Before(deadline); {
			time.Sleep(100 * time.Microsecond) // a server may end after its client
		}
		if slots.Load() != 0 || taken.Load() < 10 {
			t.Errorf("%d of %d slots were not released", slots.Load(), taken.Load())
		}
	})

	for _, name := range []string{"", "/", "//", "Search", "/Search", "foo.Bar/", "/foo.Bar/", "a/b/c", "foo..Bar/M", ".Bar/M", "foo.Bar /M", "foo.Bar/M\n", "https://foo.Bar/M"} {
		if value := caught(func() { core.MatchMethod("/foo.Bar/Good", name) }); !strings.Contains(fmt.Sprint(value), strconv.Quote(name)) {
			t.Errorf("MatchMethod(%q) panicked with %v", name, value)
		}
	}
	for _, name := range []string{"", "/", "/foo.Bar", "foo.Bar/", "foo.Bar/M", "/foo.Bar/M", "foo..Bar", ".Bar", "foo.Bar ", "*\n"} {
		if value := caught(func() { core.MatchService("foo.Good", name) }); !strings.Contains(fmt.Sprint(value), strconv.Quote(name)) {
			t.Errorf("MatchService(%q) panicked with %v", name, value)
		}
	}
	for name, match := range map[string]func(){
		"MatchMethod":   func() { core.MatchMethod() },
		"MatchService":  func() { core.MatchService() },
		"MatchShape":    func() { core.MatchShape() },
		"MatchProtocol": func() { core.MatchProtocol() },
		"MatchAll":      func() { core.MatchAll() },
		"MatchAny":      func() { core.MatchAny(core.MatchSide(core.SideClient), nil) },
		"MatchNot":      func() { core.MatchNot(nil) },
		"When":          func() { core.When(nil, pass) },
	} {
		if value := caught(match); value == nil {
			t.Errorf("%s of nothing is accepted", name)
		}
	}
}

// rich is an error's content of every code that has to survive.
func rich(code core.Code) (message string, details []proto.Message) {
	return "message of " + code.String() + ", 100% ü", []proto.Message{
		&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(code) * time.Second)},
		&errdetails.ErrorInfo{Reason: code.String(), Domain: "weft.test", Metadata: map[string]string{"k": "\x00 ü"}},
		&errdetails.ErrorInfo{Reason: "a second one"},
	}
}

// The same error in each of its three forms.
var forms = map[string]func(core.Code) error{
	"weft": func(code core.Code) error {
		message, details := rich(code)
		return errors.Newf(code, "%s", message).WithDetails(details...)
	},
	"connect": func(code core.Code) error {
		message, details := rich(code)
		err := connect.NewError(connect.Code(code), errors.New(message))
		for _, msg := range details {
			detail, problem := connect.NewErrorDetail(msg)
			if problem != nil {
				return problem
			}
			err.AddDetail(detail)
		}
		return err
	},
	"grpc": func(code core.Code) error {
		message, details := rich(code)
		st := status.New(codes.Code(code), message).Proto()
		for _, msg := range details {
			detail, problem := anypb.New(msg)
			if problem != nil {
				return problem
			}
			st.Details = append(st.Details, detail)
		}
		return status.FromProto(st).Err()
	},
}

// All sixteen codes survive with message and details: from a handler or an interceptor, in any form of error, to
// interceptors on both sides and to the application in its stack's own form.
func TestFault19EveryCodeSurvivesBothWays(t *testing.T) {
	type sight struct {
		who  string
		side core.Side
		err  error
	}
	var mu sync.Mutex
	var sights []sight
	see := func(who string) core.Interceptor {
		return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			mu.Lock()
			defer mu.Unlock()
			sights = append(sights, sight{who, call.Side(), err})
			return err
		})
	}
	raise := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		fields := strings.Fields(call.RequestHeader().Get("x-raise"))
		if len(fields) != 3 || fields[0] != call.Side().String() {
			return next(ctx, call)
		}
		code, err := core.ParseCode(fields[2])
		return errors.Join(err, forms[fields[1]](code))
	})
	chain := []core.Interceptor{see("outer"), connectx.Errors(), grpcx.Errors(), raise}
	rpctest.Run(t, &rpctest.Options{
		HandlerOptions: cheap,
		Server:         chain, Client: chain,
		Cases: map[string]rpctest.Case{"raise:": func(_ context.Context, in *rpctest.Input) (string, error) {
			form, name, _ := strings.Cut(in.Arg, " ")
			code, err := core.ParseCode(name)
			if err != nil {
				return "", err
			}
			return "", forms[form](code)
		}},
	}, func(t *testing.T, c *rpctest.Client) {
		check := func(what string, code core.Code, err error) {
			t.Helper()
			message, details := rich(code)
			weft, ok := errors.AsType[*errors.Error](err)
			if core.CodeOf(err) != code || !ok || weft.Message() != message {
				t.Errorf("%s: %v; want %s %q", what, err, code, message)
				return
			}
			got := errors.Details(err)
			if len(got) != len(details) {
				t.Errorf("%s: %d details; want %d", what, len(got), len(details))
				return
			}
			for i, detail := range got {
				if msg, problem := detail.UnmarshalNew(); problem != nil || !proto.Equal(msg, details[i]) {
					t.Errorf("%s: detail %d is %v (%v); want %v", what, i, msg, problem, details[i])
				}
			}
		}
		for code := core.CodeCanceled; code <= core.CodeUnauthenticated; code++ {
			for i, form := range slices.Sorted(maps.Keys(forms)) {
				for _, where := range []string{"handler", "server", "client"} {
					if where != "handler" && i != int(code)%len(forms) {
						continue // each interceptor raises one form of each code, and all codes all forms
					}
					input := "hi"
					if where == "handler" {
						input = fmt.Sprint("raise:", form, " ", code)
					}
					res := c.With("x-raise", fmt.Sprint(where, " ", form, " ", code)).Call(t.Context(), input)
					what := fmt.Sprint(where, " ", form, " ", code)
					check(what, code, res.Err)
					if c.Path.Client == rpctest.GRPC {
						if st, ok := status.FromError(res.Err); !ok || st.Code() != codes.Code(code) || len(st.Details()) != 3 {
							t.Errorf("%s: grpc reads %v, %d details", what, st, len(st.Details()))
						}
					} else if native, ok := errors.AsType[*connect.Error](res.Err); !ok || native.Code() != connect.Code(code) || len(native.Details()) != 3 {
						t.Errorf("%s: connect reads %v", what, native)
					}
					mu.Lock()
					for _, s := range sights {
						check(fmt.Sprint(what, ", seen by ", s.side, " ", s.who), code, s.err)
					}
					if len(sights) == 0 {
						t.Errorf("%s: no interceptor saw it", what)
					}
					sights = nil
					mu.Unlock()
				}
			}
		}
	})
}

// An answer that an interceptor of the client had at hand is the application's, all of it.
func TestFault20AnAnswerOfTheClientIsComplete(t *testing.T) {
	var mu sync.Mutex
	cache := map[string]proto.Message{}
	lookup := func(key string) proto.Message {
		mu.Lock()
		defer mu.Unlock()
		return cache[key]
	}
	caching := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		key := call.RequestHeader().Get("x-key")
		if hit := lookup(key); hit != nil {
			return call.SetResponse(hit)
		}
		call.OnResponse(func(_ context.Context, msg any) error {
			mu.Lock()
			defer mu.Unlock()
			cache[key] = proto.Clone(msg.(proto.Message))
			return nil
		})
		return next(ctx, call)
	})
	fallback := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		if core.CodeOf(err) == core.CodeUnavailable {
			return call.SetResponse(&dummyv1.DummyResponse{Output: "fallback"})
		}
		return err
	})
	var handled atomic.Int32
	var keys int
	long := strings.Repeat("all of it ", 1000)
	rpctest.Run(t, &rpctest.Options{
		HandlerOptions: cheap,
		Client:         []core.Interceptor{pass, fallback, caching, pass},
		Cases: map[string]rpctest.Case{"long": func(context.Context, *rpctest.Input) (string, error) {
			handled.Add(1)
			return long, nil
		}},
		Shapes: single,
	}, func(t *testing.T, c *rpctest.Client) {
		handled.Store(0)
		keys++
		c = c.With("x-key", strconv.Itoa(keys))
		for i := range 3 {
			if res := c.Call(t.Context(), "long"); res.Err != nil || len(res.Outputs) != 1 || res.Outputs[0] != long {
				t.Errorf("call %d: %s", i, res)
			}
		}
		if n := handled.Load(); n != 1 {
			t.Errorf("the handler ran %d times", n)
		}
		keys++
		if res := c.With("x-key", strconv.Itoa(keys)).Call(t.Context(), "hi"); res.Err != nil {
			t.Error(res)
		}
		other := c.InShape(c.Shape).With("x-nothing", "")
		if res := other.Call(t.Context(), "fail:unavailable"); fmt.Sprint(res.Outputs) != "["+long+"]" {
			t.Errorf("from the cache: %s", res)
		}
	})
	rpctest.Run(t, &rpctest.Options{HandlerOptions: cheap, Client: []core.Interceptor{fallback}, Shapes: single}, func(t *testing.T, c *rpctest.Client) {
		if res := c.Call(t.Context(), "fail:unavailable"); res.Err != nil || fmt.Sprint(res.Outputs) != "[fallback]" {
			t.Errorf("fallback: %s", res)
		}
	})
}

// Attempts that run at once fill a reply each, also when their replies arrive together and when one arrives after the
// application has its own.
func TestFault21HedgedAttemptsHaveAReplyEach(t *testing.T) {
	const n = 6
	// The server answers when all attempts are there.
	var mu sync.Mutex
	arrived := map[string]chan struct{}{}
	count := map[string]int{}
	together := func(ctx context.Context, in *rpctest.Input) (string, error) {
		mu.Lock()
		if arrived[in.Arg] == nil {
			arrived[in.Arg] = make(chan struct{})
		}
		all := arrived[in.Arg]
		if count[in.Arg]++; count[in.Arg] == n {
			close(all)
		}
		mu.Unlock()
		select {
		case <-all:
			return "reply " + strings.Join(in.RequestMetadata()["x-attempt"], ","), nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	for name, first := range map[string]bool{"all are awaited": false, "the first one counts": true} {
		t.Run(name, func(t *testing.T) {
			var strays sync.WaitGroup
			hedge := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
				type result struct {
					attempt *core.Call
					err     error
				}
				results := make(chan result, n)
				for range n {
					attempt := call.NewAttempt()
					strays.Go(func() {
						err := errors.Join(attempt.RequestHeader().Set("x-attempt", strconv.Itoa(attempt.Attempt())), next(ctx, attempt))
						results <- result{attempt, err}
					})
				}
				for i := range n {
					r := <-results
					res, _ := r.attempt.Response().(*dummyv1.DummyResponse)
					if want := fmt.Sprint("reply ", r.attempt.Attempt()); r.err != nil || res.GetOutput() != want {
						return errors.DataLoss("attempt %d: %q, %v", r.attempt.Attempt(), res.GetOutput(), r.err)
					}
					if first || i == n/2 {
						call.Adopt(r.attempt)
					}
					if first {
						break
					}
				}
				return nil
			})
			calls := 0
			rpctest.Run(t, &rpctest.Options{
				HandlerOptions: cheap,
				Client:         []core.Interceptor{hedge, pass},
				Cases:          map[string]rpctest.Case{"together:": together},
				Shapes:         []core.Shape{core.ShapeUnary},
			}, func(t *testing.T, c *rpctest.Client) {
				for range 10 {
					calls++
					res := c.Call(t.Context(), fmt.Sprint("together:", name, calls))
					if res.Err != nil || len(res.Outputs) != 1 || !strings.HasPrefix(res.Outputs[0], "reply ") {
						t.Error(res)
					}
					strays.Wait()
				}
			})
		})
	}
}

// An interceptor's refusal has its own code on either side, and the details that say when to come back.
func TestFault22ARefusalCarriesItsCodeAndRetryInfo(t *testing.T) {
	refusals := map[string]error{}
	for _, code := range []core.Code{core.CodeResourceExhausted, core.CodeUnavailable, core.CodeUnauthenticated, core.CodeDeadlineExceeded} {
		retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(code) * time.Second)}
		refusals[code.String()] = errors.Newf(code, "come back later").WithDetails(retry)
		refusals["wrapped "+code.String()] = fmt.Errorf("limiter hunter2: %w", refusals[code.String()])
	}
	refuse := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		side, name, _ := strings.Cut(call.RequestHeader().Get("x-refuse"), " ")
		if side == call.Side().String() {
			return refusals[name]
		}
		return next(ctx, call)
	})
	rec := &rpctest.Recorder{}
	chain := []core.Interceptor{errors.NewInterceptor(nil), rec.Interceptor("outer"), refuse}
	rpctest.Run(t, &rpctest.Options{HandlerOptions: cheap, Server: chain, Client: chain}, func(t *testing.T, c *rpctest.Client) {
		for name, refusal := range refusals {
			for _, side := range both {
				what := fmt.Sprint(side, " ", name)
				rec.Reset()
				res := c.With("x-refuse", what).Call(t.Context(), "hi")
				settled(t, rec)
				code := core.CodeOf(refusal)
				wantCode(t, what, res, code, "come back later")
				retry, ok := errors.DetailOf[*errdetails.RetryInfo](res.Err)
				if !ok || retry.GetRetryDelay().AsDuration() != time.Duration(code)*time.Second {
					t.Errorf("%s: the detail is %v", what, retry)
				}
				if side == core.SideServer {
					wantNoSecret(t, what, res)
				}
				if got := texts(rec, core.SideClient, "outer", "end"); got != code.String() {
					t.Errorf("%s: interceptors of the client saw %s", what, got)
				}
			}
		}
	})
}

// foreign is a context of somebody's own kind: the standard library needs a goroutine for each context that is derived
// from it, until that one is canceled.
type foreign struct {
	context.Context //nolint:containedctx // that is what it is

	done chan struct{}
}

func (f foreign) Done() <-chan struct{} { return f.done }
func (f foreign) Err() error {
	select {
	case <-f.done:
		return context.Canceled
	default:
		return f.Context.Err()
	}
}

// Contexts that interceptors derive from what outlives the call do not keep goroutines after it.
func TestFault23NoGoroutineOutlivesItsCall(t *testing.T) {
	const calls = 200
	longLived, end := context.WithCancel(t.Context())
	defer end()
	forever := make(chan struct{})
	defer close(forever)
	chain := []core.Interceptor{
		// As an executor with a context of its own does it: whichever ends first.
		core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			defer context.AfterFunc(longLived, cancel)()
			call.OnRequest(func(ctx context.Context, _ any) error { return ctx.Err() })
			call.OnResponse(func(ctx context.Context, _ any) error { return ctx.Err() })
			return next(ctx, call)
		}),
		// A context that nobody cancels.
		core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			call.OnRequest(func(ctx context.Context, _ any) error { return ctx.Err() })
			call.OnResponse(func(ctx context.Context, _ any) error { return ctx.Err() })
			return next(foreign{ctx, forever}, call)
		}),
		core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
			if call.Side() == core.SideServer {
				return next(ctx, call)
			}
			attempt := call.NewAttempt()
			defer call.Adopt(attempt)
			return next(ctx, attempt)
		}),
	}
	rpctest.Run(t, &rpctest.Options{HandlerOptions: cheap, Server: chain, Client: chain, Paths: kinds}, func(t *testing.T, c *rpctest.Client) {
		call := func(ctx context.Context) {
			t.Helper()
			if res := c.Call(ctx, "hi"); res.Err != nil {
				t.Error(res)
			}
		}
		contexts := []context.Context{longLived, foreign{longLived, forever}} // the application's own
		for _, ctx := range contexts {
			call(ctx) // opens connections
		}
		before := runtime.NumGoroutine()
		for i := range calls {
			call(contexts[i%len(contexts)])
		}
		after := runtime.NumGoroutine()
		for deadline := time.Now().Add(patience); after > before+10 && time.Now().Before(deadline); after = runtime.NumGoroutine() {
			time.Sleep(time.Millisecond)
		}
		if after > before+10 {
			stacks := make([]byte, 1<<20)
			t.Errorf("%d goroutines before %d calls, %d after:\n%s", before, calls, after, stacks[:runtime.Stack(stacks, true)])
		}
	})
}

// mute is an error that cannot even be shown.
type mute struct{ secret string }

func (m *mute) Error() string { panic(m.secret) }

// dump is an error that shows all that it has.
type dump struct{ Password string }

func (d dump) Error() string    { return fmt.Sprintf("%+v", struct{ Password string }(d)) }
func (d dump) GoString() string { return "dump{" + d.Password + "}" }

// Nothing of an error that was not written for the client reaches it, unless asked for; and then only the text of
// errors without a code.
func TestFault25UnknownErrorsAreNotShown(t *testing.T) {
	unknown := map[string]error{
		"plain":         errors.New("the password is hunter2"),
		"wrapped":       fmt.Errorf("query %q: %w", "hunter2", os.ErrNotExist),
		"joined":        errors.Join(errors.New("hunter2"), fs.ErrPermission),
		"with fields":   dump{"hunter2"},
		"mute":          &mute{"hunter2"},
		"of a path":     &fs.PathError{Op: "open", Path: "/etc/hunter2", Err: fs.ErrNotExist},
		"another stack": nil,
	}
	for name, test := range map[string]struct {
		chain   []core.Interceptor
		code    core.Code
		message string
	}{
		"nothing":                          {nil, core.CodeUnknown, "unknown error"},
		"the interceptor":                  {[]core.Interceptor{errors.NewInterceptor(nil)}, core.CodeUnknown, "unknown error"},
		"the interceptor, with Internal":   {[]core.Interceptor{errors.NewInterceptor(&errors.Options{UnknownCode: core.CodeInternal})}, core.CodeInternal, "internal error"},
		"the interceptor inside of others": {[]core.Interceptor{pass, errors.NewInterceptor(nil)}, core.CodeUnknown, "unknown error"},
	} {
		t.Run(name, func(t *testing.T) {
			raise := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
				if name := call.RequestHeader().Get("x-raise"); name != "" {
					return unknown[name]
				}
				return next(ctx, call)
			})
			rpctest.Run(t, &rpctest.Options{
				HandlerOptions: cheap,
				Server:         append(slices.Clone(test.chain), raise),
				Cases:          map[string]rpctest.Case{"raise:": func(_ context.Context, in *rpctest.Input) (string, error) { return "", unknown[in.Arg] }},
			}, func(t *testing.T, c *rpctest.Client) {
				// The other stack's errors are unknown ones, without the line that makes them known.
				unknown["another stack"] = connect.NewError(connect.CodeNotFound, errors.New("hunter2"))
				if c.Path.Server == rpctest.Connect {
					unknown["another stack"] = status.Error(codes.NotFound, "hunter2")
				}
				for name := range unknown {
					for what, res := range map[string]*rpctest.Result{
						"handler, ":     c.Call(t.Context(), "raise:"+name),
						"interceptor, ": c.With("x-raise", name).Call(t.Context(), "hi"),
					} {
						wantCode(t, what+name, res, test.code, test.message)
						wantNoSecret(t, what+name, res)
					}
				}
			})
		})
	}
	// Revealing shows the text of what has no code, and nothing else.
	rpctest.Run(t, &rpctest.Options{
		HandlerOptions: cheap,
		Server:         []core.Interceptor{errors.NewInterceptor(&errors.Options{RevealUnknown: true})},
		Cases: map[string]rpctest.Case{
			"text":  rpctest.Raises(errors.New("shown")),
			"coded": rpctest.Raises(fmt.Errorf("hunter2: %w", errors.NotFound("public").WithCause(errors.New("hunter2")))),
			"mute":  rpctest.Raises(&mute{"hunter2"}),
		},
	}, func(t *testing.T, c *rpctest.Client) {
		wantCode(t, "text", c.Call(t.Context(), "text"), core.CodeUnknown, "shown")
		for input, want := range map[string]core.Code{"coded": core.CodeNotFound, "mute": core.CodeInternal, "panic": core.CodeInternal} {
			res := c.Call(t.Context(), input)
			if core.CodeOf(res.Err) != want {
				t.Errorf("%s: %s", input, res)
			}
			wantNoSecret(t, input, res)
		}
	})
}
