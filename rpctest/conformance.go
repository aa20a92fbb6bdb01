package rpctest

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// The promises of the design. The eighth, that one links what one uses, is not the kit's to test.
const (
	promiseOver   = "over means over"
	promiseIn     = "same in"
	promiseOut    = "same out"
	promiseErrors = "one error type"
	promiseLeaks  = "nothing leaks"
	promiseSkips  = "nothing is skipped"
	promiseCost   = "it costs next to nothing"
)

// secret is what no client may see.
const secret = "hunter2"

var (
	allShapes   = Shapes()
	onlyStreams = allShapes[1:]
	onlyUnary   = allShapes[:1]

	requestStreams = []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}
)

// conformance returns the kit's cases.
func conformance() []conformanceCase {
	return slices.Concat(overCases(), inCases(), outCases(), errorCases(), leakCases(), skipCases(), costCases())
}

func overCases() []conformanceCase {
	return []conformanceCase{
		{promiseOver, "a success", "next must return once on both sides, with the call's result, before the client's last call returns to the application.", allShapes, func(k *trial) {
			res := k.start(Options{}).Call(k.ctx, "hi")
			k.overNow()
			k.equal("result", "ok", show(res.Err))
			k.ended(core.SideClient, "ok")
			k.ended(core.SideServer, "ok")
		}},
		{promiseOver, "a failure", "next must return the error with which the call ends, once on both sides.", allShapes, func(k *trial) {
			res := k.start(Options{}).Call(k.ctx, "fail:aborted")
			k.overNow()
			k.equal("code of the result", core.CodeAborted, core.CodeOf(res.Err))
			k.ended(core.SideClient, "aborted")
			k.ended(core.SideServer, "aborted")
		}},
		{promiseOver, "while a stream is open", "next must not return before the stream is over: what interceptors measure, hold or cancel lasts as long as the stream.", onlyStreams, func(k *trial) {
			cases, running, release := k.hold()
			s := k.open(cases)
			if k.shape.ServerStreams() {
				_, err := s.Receive()
				k.equal("first message", "ok", show(err))
			} else {
				await(running)
			}
			for _, side := range []core.Side{core.SideClient, core.SideServer} {
				for _, e := range k.rec.Events(side) {
					if e.What == "end" {
						k.fail(e.Side.String()+", while the handler runs", "next has not returned", e.String())
					}
				}
			}
			close(release)
			k.equal("result", "ok", show(s.Drain().Err))
			k.ended(core.SideClient, "ok")
			k.ended(core.SideServer, "ok")
		}},
		{promiseOver, "the client cancels", "next must return when the context of the application is canceled, on the server too.", allShapes, func(k *trial) {
			cases, running, _ := k.hold()
			c := k.start(Options{Cases: cases})
			ctx, cancel := context.WithCancel(k.ctx)
			defer cancel()
			go func() {
				await(running)
				cancel()
			}()
			k.equal("code of the result", core.CodeCanceled, core.CodeOf(c.Call(ctx, "hold").Err))
			k.ended(core.SideClient, "canceled")
			k.ended(core.SideServer, errorOrNone)
		}},
		{promiseOver, "the deadline passes", "next must return when the deadline of the application passes, on the server too.", allShapes, func(k *trial) {
			cases, _, _ := k.hold()
			hold := cases["hold"]
			cases["hold"] = func(ctx context.Context, in *Input) (string, error) {
				<-k.gone.Done() // the server's clock must not be the first to tell the client
				return hold(ctx, in)
			}
			c := k.start(Options{Cases: cases})
			ctx, cancel := context.WithTimeout(k.ctx, 20*time.Millisecond)
			defer cancel()
			k.equal("code of the result", core.CodeDeadlineExceeded, core.CodeOf(c.Call(ctx, "hold").Err))
			k.ended(core.SideClient, "deadline_exceeded")
			k.ended(core.SideServer, errorOrNone)
		}},
		{promiseOver, "an early close", "next must return when the application closes a stream that has not ended: it is canceled.", onlyStreams, func(k *trial) {
			cases, running, _ := k.hold()
			s := k.open(cases)
			await(running)
			_ = s.Close()
			k.ended(core.SideClient, "canceled")
			k.ended(core.SideServer, errorOrNone)
		}},
		{promiseOver, "an abandoned stream", "next must return when the context of a stream is canceled of which the application never calls anything again.", onlyStreams, func(k *trial) {
			cases, running, _ := k.hold()
			s := k.open(cases)
			await(running)
			s.Cancel()
			k.ended(core.SideClient, "canceled")
			k.ended(core.SideServer, errorOrNone)
		}},
		{promiseOver, "a cancellation in Receive", "a Receive that waits must return when the context is canceled, also while the requests have not ended, and then next has returned.", allShapes[2:], func(k *trial) {
			cases, _, _ := k.hold()
			s := k.open(cases)
			_, err := s.Receive()
			k.equal("first message", "ok", show(err))
			time.AfterFunc(time.Millisecond, s.Cancel)
			_, err = s.Receive()
			k.equal("code of Receive", core.CodeCanceled, core.CodeOf(err))
			k.overNow()
			k.ended(core.SideClient, "canceled")
			k.ended(core.SideServer, errorOrNone)
		}},
		{promiseOver, "a handler in Receive", "a handler that waits for a request must hear of the end of a context that an interceptor has made shorter: its Receive comes back, and the call ends.", requestStreams, func(k *trial) {
			if k.path.HTTP == 1 {
				return // the response does not end before the request
			}
			over := make(chan struct{})
			s, err := k.start(Options{Server: []core.Interceptor{around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				ctx, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
				defer cancel()
				defer close(over)
				return next(ctx, call)
			})}}).Open(k.ctx)
			if err != nil {
				panic(err)
			}
			_ = s.Send("hi") // and no end of the requests
			select {
			case <-over:
			case <-time.After(limit):
			}
			for err == nil {
				_, err = s.Receive()
			}
			k.equal("code of Receive", core.CodeDeadlineExceeded, core.CodeOf(err))
			_ = s.Close()
			k.ended(core.SideClient, "deadline_exceeded")
			k.ended(core.SideServer, "deadline_exceeded")
		}},
		{promiseOver, "receive after the end", "a Receive after the end must return the end again, and the chain must not hear of it.", onlyStreams, func(k *trial) {
			c := k.start(Options{})
			for input, want := range map[string]string{"hi": "EOF", "fail:aborted": "aborted"} {
				s, err := c.Open(k.ctx)
				if err != nil {
					k.fail("open", "a stream", err.Error())
					return
				}
				_ = s.Send(input)
				_ = s.CloseSend()
				var ends []string
				for len(ends) < 3 {
					if _, err := s.Receive(); err == io.EOF { //nolint:errorlint // the driver promises itself
						ends = append(ends, "EOF")
					} else if err != nil {
						ends = append(ends, core.CodeOf(err).String())
					}
				}
				k.equal("three Receive after "+input, []string{want, want, want}, ends)
				_ = s.Close()
				want = strings.Replace(want, "EOF", "ok", 1)
				k.ended(core.SideClient, want)
				k.ended(core.SideServer, want)
				k.rec.Reset()
			}
		}},
		{promiseOver, "the connection is lost", "next must return when the connection breaks, on both sides, and with an error on the client.", allShapes, func(k *trial) {
			cases, running, _ := k.hold()
			c := k.start(Options{Cases: cases})
			go func() {
				await(running)
				k.env.Close()
			}()
			k.equal("the result is an error", true, c.Call(k.ctx, "hold").Err != nil)
			k.ended(core.SideClient, anyError)
			k.ended(core.SideServer, errorOrNone)
		}},
		{promiseOver, "a panic of the handler", "a panic must unwind the chain of the server, and end the call of the client.", allShapes, func(k *trial) {
			res := k.start(Options{Server: []core.Interceptor{errors.NewInterceptor(nil)}, Cases: map[string]Case{"panic": k.panics()}}).Call(k.ctx, "panic")
			k.equal("code of the result", core.CodeInternal, core.CodeOf(res.Err))
			k.ended(core.SideClient, "internal")
			k.ended(core.SideServer, "panic")
		}},
		{promiseOver, "a panic in a client's chain", "a panic must reach the application's goroutine, where it can be recovered, also if the chain runs in another.", allShapes, func(k *trial) {
			c := k.start(Options{Client: []core.Interceptor{around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				_ = next(ctx, call)
				panic("boom")
			})}})
			value := func() (value any) {
				defer func() { value = recover() }()
				c.Call(k.ctx, "hi")
				return nil
			}()
			if p, ok := value.(*core.Panic); ok {
				value = p.Value
			}
			k.equal("what the application recovers", "boom", fmt.Sprint(value))
			k.ended(core.SideClient, "ok")
			k.ended(core.SideServer, "ok")
		}},
		{promiseOver, "two attempts", "next must return once for each attempt that an interceptor makes, and the application must see the adopted one only.", allShapes, func(k *trial) {
			retry := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				for {
					attempt := call.NewAttempt()
					if attempt.Attempt() == 1 {
						_ = attempt.RequestHeader().Set("x-first", "yes")
					}
					err := next(ctx, attempt)
					if core.CodeOf(err) != core.CodeUnavailable || attempt.Attempt() == 2 {
						call.Adopt(attempt)
						return err
					}
				}
			})
			res := k.start(Options{Client: []core.Interceptor{retry}, Cases: map[string]Case{"flaky": func(_ context.Context, in *Input) (string, error) {
				if in.RequestMetadata()["x-first"] != nil {
					return "", errors.Unavailable("try again").WithMetadata("x-failed", "yes")
				}
				return "done", in.AddTrailer("x-done", "yes")
			}}}).With("x-kept", "yes").Call(k.ctx, "flaky")
			k.equal("result", `ok ["done"] [x-done="yes"]`, fmt.Sprint(show(res.Err), " ", quoted(res.Outputs), " ", ours(res)))
			k.ended(core.SideClient, "unavailable", "ok")
			k.ended(core.SideServer, "unavailable", "ok")
		}},
		{promiseOver, "defer cancel()", "an interceptor that cancels its context after next must not take anything from the application: the call is over by then.", allShapes, func(k *trial) {
			c := k.start(Options{Client: []core.Interceptor{around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				ctx, cancel := context.WithTimeout(ctx, time.Hour)
				defer cancel()
				return next(ctx, call)
			})}})
			res := c.With("x-echo-a", "1").Call(k.ctx, "metadata")
			k.equal("result", "ok "+quoted(echo(k.shape, "metadata")), show(res.Err)+" "+quoted(res.Outputs))
			k.equal("metadata of the response", `[x-echo-a="1" x-trailer-a="1"]`, ours(res))
		}},
	}
}

func inCases() []conformanceCase {
	const binary = "\x00\xff,="
	return []conformanceCase{
		{promiseIn, "what a call is", "method, side, shape, protocol and peer must be the same for an interceptor wherever it runs; a unary call's messages are at hand, a stream's are not.", allShapes, func(k *trial) {
			look := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				before := call.Request() != nil
				err := next(ctx, call)
				k.note(call, fmt.Sprintf("%s %s %s attempt %d peer %t request %t response %t", call.Method(), call.Shape(), call.Protocol(),
					call.Attempt(), call.Peer().Addr != "", before, call.Response() != nil))
				return err
			})
			k.start(Options{Server: []core.Interceptor{look}, Client: []core.Interceptor{look}}).Call(k.ctx, "hi")
			unary := k.shape == core.ShapeUnary
			k.noted(fmt.Sprintf("%s %s %s attempt 1 peer true request %t response %t", Procedure(k.shape), k.shape, k.path.Protocol, unary, unary))
		}},
		{promiseIn, "request metadata", "interceptors must see what the application sent, the client's as the server's: several values apart, bytes under -bin, keys in any case; and the handler must see what they wrote.", allShapes, func(k *trial) {
			look := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				md := call.RequestHeader()
				k.note(call, fmt.Sprintf("%+q %+q", md.Values("X-A"), md.Values("x-b-bin")))
				if err := md.Add("x-c", call.Side().String()); err != nil {
					return err
				}
				return next(ctx, call)
			})
			var seen string
			c := k.start(Options{Server: []core.Interceptor{look}, Client: []core.Interceptor{look}, Cases: map[string]Case{"look": func(_ context.Context, in *Input) (string, error) {
				md := in.RequestMetadata()
				seen = fmt.Sprintf("%+q %+q %q", md["x-a"], md["x-b-bin"], md["x-c"])
				return "", nil
			}}})
			c.With("X-A", "1").With("x-a", "2, 3").With("x-b-bin", binary).With("x-b-bin", "").Call(k.ctx, "look")
			want := fmt.Sprintf("%+q %+q", []string{"1", "2, 3"}, []string{binary, ""})
			if k.noted(want) {
				k.equal("handler", want+` ["client" "server"]`, seen)
			}
		}},
		{promiseIn, "messages", "hooks must see each message once, in order, on both sides, and none after the end.", allShapes, func(k *trial) {
			inputs := []string{"abc"}
			if k.shape.ClientStreams() {
				inputs = []string{"a", "b", "c"}
			}
			k.start(Options{}).Call(k.ctx, inputs...)
			outputs := []string{"abc"}
			if k.shape.ServerStreams() {
				outputs = []string{"a", "b", "c"}
			}
			for _, side := range k.sides() {
				for _, name := range []string{"outer", "inner"} {
					k.equal(fmt.Sprintf("%s, requests of interceptor %s", side, name), quoted(inputs), k.texts(side, name, "request"))
					k.equal(fmt.Sprintf("%s, responses of interceptor %s", side, name), quoted(outputs), k.texts(side, name, "response"))
				}
			}
		}},
		{promiseIn, "codes after next", "core.CodeOf must answer with each of the sixteen codes after next, on both sides.", allShapes, func(k *trial) {
			c := k.start(Options{})
			for code := core.CodeCanceled; code.IsError(); code++ {
				c.Call(k.ctx, "fail:"+code.String())
				for _, side := range k.sides() {
					k.equal(side.String()+", after next", fmt.Sprintf("[%s]", code), k.texts(side, "outer", "end"))
				}
				k.rec.Reset()
			}
		}},
		{promiseIn, "codes of other errors after next", "core.CodeOf must answer with the code that the wire carries after next, also for errors of the stack's own, wrapped and joined ones, and those of contexts.", allShapes, func(k *trial) {
			raised := []error{
				fmt.Errorf("wrapped: %w", context.Canceled), context.DeadlineExceeded, errors.New("plain"),
				errors.Join(errors.New("plain"), errors.Aborted("a"), errors.NotFound("b")),
			}
			want := []core.Code{core.CodeCanceled, core.CodeDeadlineExceeded, core.CodeUnknown, core.CodeAborted}
			if k.adapter.NewError != nil {
				raised = append(raised, fmt.Errorf("wrapped: %w", k.adapter.NewError(k.path, core.CodeDataLoss, "native")))
				want = append(want, core.CodeDataLoss)
			}
			for i, err := range raised {
				k.start(Options{Cases: map[string]Case{"raise": Raises(err)}}).Call(k.ctx, "raise")
				for _, side := range k.sides() {
					k.equal(fmt.Sprintf("%s, after next, which the handler ended with %q", side, err), fmt.Sprintf("[%s]", want[i]), k.texts(side, "inner", "end"))
				}
				k.rec.Reset()
			}
		}},
		{promiseIn, "response metadata", "after next an interceptor of the client must see header and trailer of the response, also when the call failed.", allShapes, func(k *trial) {
			look := around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				err := next(ctx, call)
				md := call.ResponseMetadata()
				k.note(call, fmt.Sprintf("%+q %+q", md.Values("x-echo-a"), md.Values("x-trailer-b-bin")))
				return err
			})
			c := k.start(Options{Client: []core.Interceptor{look}})
			for _, input := range []string{"metadata", "metadata-fail:aborted"} {
				c.With("x-echo-a", "1").With("x-echo-a", "2").With("x-echo-b-bin", binary).Call(k.ctx, input)
				k.sides()
				k.equal("client, after next, "+input, fmt.Sprintf("[%+q %+q]", []string{"1", "2"}, []string{binary}), fmt.Sprint(k.texts(core.SideClient, "note", "note")))
				k.rec.Reset()
			}
		}},
	}
}

func outCases() []conformanceCase {
	failure := errors.NotFound("gone").WithDetails(&Request{Input: "first"}, &Response{Output: "second"})
	// Writes metadata before and after next.
	write := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if err := errors.Join(call.ResponseHeader().Add("x-header", "1"), call.ResponseHeader().Add("x-header-bin", "\x00\xff"), call.ResponseTrailer().Add("x-trailer", "2")); err != nil {
			return err
		}
		err := next(ctx, call)
		if problem := call.ResponseTrailer().Add("x-trailer", "3"); problem != nil {
			return problem
		}
		return err
	})
	change := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(func(_ context.Context, msg any) error {
			msg.(*Request).Input += "+" + call.Side().String()[:1] //nolint:forcetypeassert // the service's
			return nil
		})
		call.OnResponse(func(_ context.Context, msg any) error {
			msg.(*Response).Output += "-" + call.Side().String()[:1] //nolint:forcetypeassert // the service's
			return nil
		})
		return next(ctx, call)
	})
	type contextKey struct{}
	// How one case on each side looks.
	type outcome struct {
		name, why      string
		server, client core.InterceptorFunc
		input          string
		want           func(shape core.Shape) string
	}
	fixed := func(text string) func(core.Shape) string { return func(core.Shape) string { return text } }
	instead := func(_ context.Context, call *core.Call, _ core.Handler) error {
		if call.Shape().ServerStreams() {
			return nil
		}
		return call.SetResponse(&Response{Output: "instead"})
	}
	spoil := func(ctx context.Context, call *core.Call, next core.Handler) error {
		return errors.FailedPrecondition("spoilt %s", core.CodeOf(next(ctx, call)))
	}
	refuse := func(context.Context, *core.Call, core.Handler) error { return errors.Unauthenticated("who are you?") }
	forgive := func(ctx context.Context, call *core.Call, next core.Handler) error {
		_ = next(ctx, call)
		return instead(ctx, call, next)
	}
	hook := func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(func(context.Context, any) error { return errors.OutOfRange("the hook says no") })
		return next(ctx, call)
	}
	answered := func(shape core.Shape) string {
		if shape.ServerStreams() {
			return "ok [] []"
		}
		return `ok ["instead"] []`
	}
	outcomes := []outcome{
		{"a failure", "code, message and details of the handler's error must reach the client.", nil, nil, "raise", fixed(show(failure) + " [] []")},
		{"the handler's metadata", "header and trailer of the handler must reach the client.", nil, nil, "metadata", func(shape core.Shape) string {
			return fmt.Sprintf(`ok %+q [x-echo-a="1" x-trailer-a="1"]`, echo(shape, "metadata"))
		}},
		{"the handler's metadata of a failure", "header and trailer of the handler must reach the client when the call fails, too.", nil, nil, "metadata-raise", fixed(show(failure) + ` [] [x-echo-a="1" x-trailer-a="1"]`)},
		{"an interceptor's metadata", "header and trailer of a server's interceptor, before next and after, must reach the client.", write, nil, "hi", func(shape core.Shape) string {
			return fmt.Sprintf(`ok %+q [x-header="1" x-header-bin="\x00\xff" x-trailer="2" x-trailer="3"]`, echo(shape, "hi"))
		}},
		{"an interceptor's metadata of a failure", "header and trailer of a server's interceptor must reach the client when the call fails, too.", write, nil, "raise", fixed(show(failure) + ` [] [x-header="1" x-header-bin="\x00\xff" x-trailer="2" x-trailer="3"]`)},
		{"an error's metadata", "metadata of an error must reach the client in the trailer.", nil, nil, "raise-metadata", fixed(`aborted "m" [] [] [x-error="1" x-error="2" x-error-bin="\x00\xff"]`)},
		{"an interceptor of the server refuses", "an interceptor's own error must reach the client.", refuse, nil, "hi", fixed(`unauthenticated "who are you?" [] [] []`)},
		{"an interceptor of the client refuses", "an interceptor's own error must reach the application.", nil, refuse, "hi", fixed(`unauthenticated "who are you?" [] [] []`)},
		{"an interceptor of the server spoils a success", "an error after a success must reach the client.", spoil, nil, "", func(shape core.Shape) string {
			if shape.ServerStreams() && shape.ClientStreams() {
				return `failed_precondition "spoilt ok" [] [""] []`
			}
			return `failed_precondition "spoilt ok" [] [] []`
		}},
		{"an interceptor of the client replaces an error", "the application must get what the chain returned.", nil, spoil, "raise", fixed(`failed_precondition "spoilt not_found" [] [] []`)},
		{"an interceptor of the server forgives", "an interceptor may make a success of a failure: the client must get its answer.", forgive, nil, "raise", answered},
		{"an interceptor of the client forgives", "an interceptor may make a success of a failure: the application must get its answer.", nil, forgive, "raise", answered},
		{"an interceptor of the server answers", "an interceptor may answer without next: the client must get its answer.", instead, nil, "hi", answered},
		{"an interceptor of the client answers", "an interceptor may answer without next: the application must get its answer.", nil, instead, "hi", answered},
		{"messages that hooks change", "what hooks make of a message must be what goes on, on both sides.", change, change, "a", func(shape core.Shape) string {
			if shape == core.ShapeServerStream {
				return `ok ["a-s-c" "+-s-c" "c-s-c" "+-s-c" "s-s-c"] []`
			}
			return `ok ["a+c+s-s-c"] []`
		}},
		{"a hook of the server fails", "a message that a hook refuses must end the call with the hook's error.", hook, nil, "hi", fixed(`out_of_range "the hook says no" [] [] []`)},
		{"a hook of the client fails", "a message that a hook refuses must end the call with the hook's error.", nil, hook, "hi", fixed(`out_of_range "the hook says no" [] [] []`)},
		{"an odd message", "any UTF-8 must reach the client in a message, and what is not UTF-8 as the replacement character.", nil, nil, "raise-odd", fixed(`aborted "a%20\nb \u65e5 \ufffd" [] [] []`)},
		{"a context", "the handler must get the context that a server's interceptor gave to next, and a deadline that a client's interceptor set.",
			func(ctx context.Context, call *core.Call, next core.Handler) error {
				return next(context.WithValue(ctx, contextKey{}, "a value"), call)
			},
			func(ctx context.Context, call *core.Call, next core.Handler) error {
				ctx, cancel := context.WithTimeout(ctx, time.Hour)
				defer cancel()
				return next(ctx, call)
			}, "context", fixed(`ok ["a value true"] []`)},
	}
	cases := map[string]Case{
		"raise": Raises(failure),
		"metadata-raise": func(_ context.Context, in *Input) (string, error) {
			if err := errors.Join(in.AddHeader("x-echo-a", "1"), in.AddTrailer("x-trailer-a", "1")); err != nil {
				return "", err
			}
			return "", failure
		},
		"raise-metadata": Raises(errors.Aborted("m").WithMetadata("x-error", "1", "x-error", "2", "x-error-bin", "\x00\xff")),
		"raise-odd":      Raises(errors.Aborted("a%%20\nb 日 \xff")),
		"context": func(ctx context.Context, _ *Input) (string, error) {
			value, _ := ctx.Value(contextKey{}).(string)
			deadline, _ := ctx.Deadline()
			return fmt.Sprint(value, " ", time.Until(deadline) > 50*time.Minute), nil
		},
	}
	var list []conformanceCase
	for _, o := range outcomes {
		list = append(list, conformanceCase{promiseOut, o.name, o.why, allShapes, func(k *trial) {
			// They act when they are told to: a connect client must have seen a response before it can make one.
			told := func(f core.InterceptorFunc) []core.Interceptor {
				if f == nil {
					return nil
				}
				return []core.Interceptor{core.When(func(call *core.Call) bool { return call.RequestHeader().Get("x-act") != "" }, f)}
			}
			c := k.start(Options{Server: told(o.server), Client: told(o.client), Cases: cases})
			c.Call(k.ctx, "hi")
			c = c.With("x-act", "now")
			if o.input == "metadata" {
				c = c.With("x-echo-a", "1")
			}
			res := c.Call(k.ctx, o.input)
			k.equal("result", o.want(k.shape), fmt.Sprint(show(res.Err), " ", quoted(res.Outputs), " ", ours(res)))
		}})
	}
	return append(list, conformanceCase{promiseOut, "responses before a failure", "what was sent before a failure must reach the application, and then the failure.", allShapes[2:], func(k *trial) {
		res := k.start(Options{}).Call(k.ctx, "fail-after:3:aborted")
		k.equal("result", `aborted ["0" "1" "2"]`, core.CodeOf(res.Err).String()+" "+quoted(res.Outputs))
	}})
}

// badCodeError is an error that claims a code that no error may have.
type badCodeError core.Code

func (badCodeError) Error() string     { return "bad" }
func (b badCodeError) Code() core.Code { return core.Code(b) }
func (badCodeError) Message() string   { return "bad" }

func errorCases() []conformanceCase {
	full := errors.Aborted("public").WithDetails(&Request{Input: "first"}, &Response{Output: "second"})
	return []conformanceCase{
		{promiseErrors, "the application's error", "the application must get its stack's own error, which unwraps to *errors.Error with code, message, details and metadata.", allShapes, func(k *trial) {
			res := k.start(Options{Cases: map[string]Case{"raise": Raises(full.WithMetadata("x-error", "1"))}}).Call(k.ctx, "raise")
			k.equal("result", show(full), show(res.Err))
			if weft, ok := errors.AsType[*errors.Error](res.Err); ok {
				k.equal("metadata of the error", "1", weft.Metadata().Get("x-error"))
			}
			if k.adapter.IsNative != nil {
				k.equal(fmt.Sprintf("%T is the stack's own error", res.Err), true, k.adapter.IsNative(k.path, res.Err))
			}
		}},
		{promiseErrors, "the handler's native error", "code, message and details of an error of the stack's own must reach the client, in each of the sixteen codes.", allShapes, func(k *trial) {
			if k.adapter.NewError == nil {
				return
			}
			raise := map[string]Case{}
			for code := core.CodeCanceled; code.IsError(); code++ {
				raise[code.String()] = Raises(k.adapter.NewError(k.path, code, full.Message(), full.Details()...))
			}
			c := k.start(Options{Cases: raise})
			for code := core.CodeCanceled; code.IsError(); code++ {
				want := strings.Replace(show(full), "aborted", code.String(), 1)
				k.equal("result of "+code.String(), want, show(c.Call(k.ctx, code.String()).Err))
			}
		}},
		{promiseErrors, "codes that no error has", "an error with code OK or one out of range must never be a success: it is Internal, whoever returns it.", allShapes, func(k *trial) {
			try := func(who string, err error, o Options) {
				res := k.start(o).Call(k.ctx, "raise")
				k.equal(fmt.Sprintf("result of a %T of the %s", err, who), "an error, internal", fmt.Sprintf("%s, %s", map[bool]string{true: "no error", false: "an error"}[res.Err == nil], core.CodeOf(res.Err)))
			}
			raised := []error{badCodeError(0), badCodeError(99), (*errors.Error)(nil)}
			for _, err := range raised {
				try("interceptor of the client", err, Options{Client: []core.Interceptor{returns(err)}})
			}
			if k.adapter.NewError != nil {
				raised = append(raised, k.adapter.NewError(k.path, 99, "bad"))
			}
			for _, err := range raised {
				try("handler", err, Options{Cases: map[string]Case{"raise": Raises(err)}})
				try("interceptor of the server", err, Options{Server: []core.Interceptor{returns(err)}})
			}
		}},
		{promiseErrors, "an error that passes through", "an error that a handler received as a client must keep code, message and details on its way.", allShapes, func(k *trial) {
			c := k.start(Options{Cases: map[string]Case{"raise": Raises(full), "relay": func(ctx context.Context, _ *Input) (string, error) {
				return "", k.upstream().Call(ctx, "raise").Err
			}}})
			k.equal("result", show(full), show(c.Call(k.ctx, "relay").Err))
		}},
	}
}

func leakCases() []conformanceCase {
	plain := errors.New(secret)
	leak := func(name, why string, code core.Code, raise func(k *trial) Case, server ...core.Interceptor) conformanceCase {
		return conformanceCase{promiseLeaks, name, why, allShapes, func(k *trial) {
			run := raise(k)
			if run == nil {
				return
			}
			res := k.start(Options{Server: server, Cases: map[string]Case{"leak": run}}).Call(k.ctx, "leak")
			k.equal("code of the result", code, core.CodeOf(res.Err))
			if all := everything(res); strings.Contains(all, secret) {
				k.fail("what the client got", "nothing of "+secret, all)
			}
		}}
	}
	raises := func(err error) func(*trial) Case { return func(*trial) Case { return Raises(err) } }
	return []conformanceCase{
		leak("a panic", "the value of a panic, and its stack, are for the server only.", core.CodeInternal, (*trial).panics, errors.NewInterceptor(nil)),
		leak("a plain error", "the text of an error without a code is for the server only: nobody wrote it for clients.", core.CodeUnknown, raises(plain)),
		leak("a plain error of an interceptor", "the text of an error without a code is for the server only, whoever returns it.", core.CodeUnknown, raises(nil), returns(plain)),
		leak("the text around an error", "what wraps an error with a code is for logs: the peer gets that error's own message.", core.CodeNotFound, raises(fmt.Errorf("%w: %w", plain, errors.NotFound("public")))),
		leak("the text around an interceptor's error", "what an interceptor wraps around an error is for logs.", core.CodeNotFound, raises(errors.NotFound("public")),
			around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				return fmt.Errorf("%w: %w", next(ctx, call), plain)
			})),
		leak("the text around a native error", "what wraps an error of the stack's own is for logs.", core.CodeNotFound, func(k *trial) Case {
			if k.adapter.NewError == nil {
				return nil
			}
			return Raises(fmt.Errorf("%w: %w", plain, k.adapter.NewError(k.path, core.CodeNotFound, "public")))
		}),
		leak("a cause", "the cause of an error is for logs.", core.CodeNotFound, raises(errors.NotFound("public").WithCause(plain))),
		leak("the metadata of an upstream", "metadata of an error that the server received from a further server is between those two.", core.CodeAborted, func(k *trial) Case {
			return func(ctx context.Context, _ *Input) (string, error) {
				return "", k.upstream().With("x-echo-a", secret).Call(ctx, "metadata-fail:aborted").Err
			}
		}),
	}
}

func skipCases() []conformanceCase {
	refuse := returns(errors.Unauthenticated("no"))
	return []conformanceCase{
		{promiseSkips, "each interceptor, once", "every interceptor must be entered once for each call, in every shape, on both sides: one that is skipped is a hole, one that runs twice counts twice.", allShapes, func(k *trial) {
			c := k.start(Options{})
			for _, input := range []string{"hi", "fail:aborted"} {
				c.Call(k.ctx, input)
				for _, side := range k.sides() {
					var entered []string
					for _, e := range k.rec.Events(side) {
						if e.What == "enter" {
							entered = append(entered, e.Name)
						}
					}
					k.equal(side.String()+", interceptors entered by "+input, []string{"outer", "inner"}, entered)
				}
				k.rec.Reset()
			}
		}},
		{promiseSkips, "the order of a chain", "the first interceptor is outermost: it sees requests first, and responses and the end last.", allShapes, func(k *trial) {
			k.start(Options{}).Call(k.ctx, "a")
			for _, side := range k.sides() {
				seen := map[string][]string{}
				for _, e := range k.rec.Events(side) {
					seen[e.What] = append(seen[e.What], e.Name)
				}
				down, up := []string{"outer", "inner"}, []string{"inner", "outer"}
				k.equal(side.String()+", order", [][]string{down, down, up, up}, [][]string{seen["enter"], seen["request"], seen["response"], seen["end"]})
			}
		}},
		{promiseSkips, "a server that refuses", "a handler must not run if an interceptor did not call next, in no shape.", allShapes, func(k *trial) {
			ran := make(chan struct{}, 1)
			res := k.start(Options{Server: []core.Interceptor{refuse}, Cases: map[string]Case{"run": func(context.Context, *Input) (string, error) {
				ran <- struct{}{}
				return "", nil
			}}}).Call(k.ctx, "run")
			k.equal("code of the result", core.CodeUnauthenticated, core.CodeOf(res.Err))
			k.equal("how often the handler ran", 0, len(ran))
		}},
		{promiseSkips, "a client that refuses", "nothing must be sent if an interceptor did not call next, in no shape.", allShapes, func(k *trial) {
			res := k.start(Options{Client: []core.Interceptor{refuse}}).Call(k.ctx, "hi")
			k.equal("code of the result", core.CodeUnauthenticated, core.CodeOf(res.Err))
			k.equal("what the server saw", 0, len(k.rec.Events(core.SideServer)))
		}},
		{promiseSkips, "nil interceptors", "a nil interceptor must panic at construction: left out silently, it would be the check that nobody makes.", onlyUnary, func(k *trial) {
			for where, o := range map[string]Options{
				"server": {Server: []core.Interceptor{nil}}, "server, typed": {Server: []core.Interceptor{core.InterceptorFunc(nil)}},
				"client": {Client: []core.Interceptor{nil}}, "client, typed": {Client: []core.Interceptor{core.InterceptorFunc(nil)}},
			} {
				panicked := func() (value any) {
					defer func() { value = recover() }()
					k.startBare(o)
					return nil
				}() != nil
				k.equal(where+", construction panics", true, panicked)
			}
		}},
	}
}

func costCases() []conformanceCase {
	return []conformanceCase{{promiseCost, "the length of a chain", "a chain is composed once: ten interceptors that do nothing must not allocate more than one, for each unary call.", onlyUnary, func(k *trial) {
		if raceEnabled() {
			return // it allocates on its own account
		}
		cost := func(n int) float64 {
			noops := slices.Repeat([]core.Interceptor{around(func(ctx context.Context, call *core.Call, next core.Handler) error { return next(ctx, call) })}, n)
			c := k.startBare(Options{Server: noops, Client: noops})
			least := 1e9
			for range 5 {
				least = min(least, testing.AllocsPerRun(50, func() { c.Call(k.ctx, "hi") }))
			}
			return least
		}
		// What the stack allocates varies a little.
		if one, ten := cost(1), cost(10); ten > one+4 {
			k.fail("both sides", fmt.Sprintf("%v allocations, as with one", one), fmt.Sprint(ten))
		}
	}}}
}

func raceEnabled() bool {
	info, _ := debug.ReadBuildInfo()
	return info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// What the cases have in common.

func around(f core.InterceptorFunc) core.Interceptor { return f }

func returns(err error) core.Interceptor {
	return around(func(context.Context, *core.Call, core.Handler) error { return err })
}

// hold returns a case that says when it runs and then waits: for its context, for release, or for the end of the
// trial. On streams of responses it sends a message before, since some stacks open with it.
func (k *trial) hold() (cases map[string]Case, running, release chan struct{}) {
	running, release = make(chan struct{}, 9), make(chan struct{})
	gone := k.ctx
	if k.path.HTTP == 1 && k.shape == core.ShapeClientStream {
		gone = k.gone // who serves HTTP/1.1 does not hear of a client that leaves while the request is not read to its end
	}
	return map[string]Case{"hold": func(ctx context.Context, in *Input) (string, error) {
		if in.Streams() {
			if err := in.Send("first"); err != nil {
				return "", err
			}
		}
		running <- struct{}{}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-gone.Done():
			return "", gone.Err()
		case <-release:
			return "last", nil
		}
	}}, running, release
}

// panics returns a case that panics, unless nothing stands between it and the end of the process.
func (k *trial) panics() Case {
	return func(context.Context, *Input) (string, error) {
		if len(k.rec.Events(core.SideServer)) > 0 {
			panic(secret)
		}
		return "", errors.New("the chain was skipped")
	}
}

// await waits until the handler runs, or has had the time to: over HTTP/1.1 a message may wait in a buffer.
func await(running <-chan struct{}) {
	select {
	case <-running:
	case <-time.After(20 * time.Millisecond):
	}
}

// open starts and opens a stream with the request that holds.
func (k *trial) open(cases map[string]Case) *Stream {
	s, err := k.start(Options{Cases: cases}).Open(k.ctx)
	if err != nil {
		panic(err)
	}
	_ = s.Send("hold") // Receive has the reason
	return s
}

// upstream returns the client for a handler that is a client too.
func (k *trial) upstream() *Client {
	if k.path.Can(core.ShapeBidiStream) {
		return k.client
	}
	return k.client.InShape(core.ShapeUnary)
}

// overNow demands that the client's chain has ended.
func (k *trial) overNow() {
	for _, name := range []string{"outer", "inner"} {
		if k.texts(core.SideClient, name, "end") == "[]" {
			k.fail("client, when the application's call has returned", "next of "+name+" has returned", "it has not")
		}
	}
}

const (
	anyError    = "with an error"
	errorOrNone = "with an error, if entered"
)

// ended demands that both interceptors of a side were entered, saw messages and then the end, once for each of the codes.
func (k *trial) ended(side core.Side, codes ...string) {
	if !k.settle() {
		return
	}
	for _, name := range []string{"outer", "inner"} {
		var want, got []string
		for _, code := range codes {
			want = append(want, "enter", "end "+code)
		}
		open := false
		for _, e := range k.rec.Events(side) {
			switch {
			case e.Name != name:
			case e.What == "enter":
				open = true
				got = append(got, "enter")
			case e.What == "end":
				open = false
				if (codes[0] == anyError || codes[0] == errorOrNone) && e.Text != "ok" {
					e.Text = codes[0]
				}
				got = append(got, "end "+e.Text)
			case !open:
				got = append(got, e.What+" outside of next")
			}
		}
		if got != nil || codes[0] != errorOrNone {
			k.equal(fmt.Sprintf("%s, interceptor %s", side, name), want, got)
		}
	}
}

// sides returns both sides once the call is over on them.
func (k *trial) sides() []core.Side {
	if !k.settle() {
		return nil
	}
	return []core.Side{core.SideClient, core.SideServer}
}

// texts returns what an interceptor saw of one kind.
func (k *trial) texts(side core.Side, name, what string) string {
	texts := []string{}
	for _, e := range k.rec.Events(side) {
		if e.Name == name && e.What == what {
			texts = append(texts, e.Text)
		}
	}
	return fmt.Sprint(texts)
}

// note keeps what an interceptor of a case has seen, and noted demands that it was the same on both sides.
func (k *trial) note(call *core.Call, text string) {
	k.rec.Add(Event{Name: "note", Side: call.Side(), What: "note", Text: text})
}

func (k *trial) noted(want string) bool {
	sides := k.sides()
	for _, side := range sides {
		k.equal(side.String(), "["+want+"]", k.texts(side, "note", "note"))
	}
	return sides != nil
}

// echo is what the Dummy service answers to one input.
func echo(shape core.Shape, input string) []string {
	if shape == core.ShapeServerStream {
		return strings.Split(input, "")
	}
	return []string{input}
}

func quoted(list []string) string { return fmt.Sprintf("%+q", list) }

// ours is the response metadata of the cases.
func ours(res *Result) []string {
	return slices.DeleteFunc(res.Metadata(), func(pair string) bool { return !strings.HasPrefix(pair, "x-") })
}

// show shows an error in neutral terms.
func show(err error) string {
	if err == nil {
		return "ok"
	}
	weft, ok := errors.AsType[*errors.Error](err)
	if !ok {
		return fmt.Sprintf("%s, a %T that does not unwrap to *errors.Error", core.CodeOf(err), err)
	}
	var details []string
	for _, d := range weft.Details() {
		details = append(details, fmt.Sprintf("%s %x", d.TypeURL, d.Value))
	}
	return fmt.Sprintf("%s %+q %s", core.CodeOf(err), weft.Message(), quoted(details))
}

// everything is all that a client knows of a result, in all ways to print it.
func everything(res *Result) string {
	all := []any{res, res.Header.Raw(), res.Trailer.Raw(), show(res.Err)}
	for err := res.Err; err != nil; err = errors.Unwrap(err) {
		all = append(all, err)
		if md, ok := err.(core.MetadataError); ok {
			all = append(all, md.Metadata().Raw())
		}
	}
	return fmt.Sprintf("%v\n%+v\n%#v", all, all, all)
}
