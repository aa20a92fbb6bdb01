package rpctest

import (
	"context"
	stderrors "errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

func TestConnectxKeepsThePromises(t *testing.T) { TestAdapter(t, ConnectAdapter()) }

func TestGrpcxKeepsThePromises(t *testing.T) { TestAdapter(t, GRPCAdapter()) }

// broken is an adapter with a fault. The cases that must fail of it are all that may, unless there are more.
type broken struct {
	fault string
	start func(t testing.TB, o *Options) Environment
	want  []string
	more  bool
}

// with starts servers whose options a fault has changed.
func with(change func(o *Options)) func(testing.TB, *Options) Environment {
	return func(t testing.TB, o *Options) Environment {
		changed := *o
		changed.Server, changed.Client = slices.Clone(o.Server), slices.Clone(o.Client)
		change(&changed)
		return NewServers(t, &changed)
	}
}

// onServer puts an interceptor outside of a server's chain, where an adapter's edge is.
func onServer(f core.InterceptorFunc) func(testing.TB, *Options) Environment {
	return with(func(o *Options) { o.Server = slices.Insert(o.Server, 0, core.Interceptor(f)) })
}

// inServer puts an interceptor between a server's chain and the handler.
func inServer(f core.InterceptorFunc) func(testing.TB, *Options) Environment {
	return with(func(o *Options) { o.Server = append(o.Server, f) })
}

// bothEnds puts one outside that knows what one inside has seen.
func bothEnds(client bool, outside func(call *core.Call, err error, seen *sight) error) func(testing.TB, *Options) Environment {
	type key struct{}
	outer := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		seen := &sight{}
		return outside(call, next(context.WithValue(ctx, key{}, seen), call), seen)
	})
	inner := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		seen := ctx.Value(key{}).(*sight)
		call.OnResponse(func(_ context.Context, msg any) error {
			seen.response = &Response{Output: msg.(*Response).GetOutput()}
			return nil
		})
		seen.err = next(ctx, call)
		seen.ran = true
		return seen.err
	})
	return with(func(o *Options) {
		chain := &o.Server
		if client {
			chain = &o.Client
		}
		*chain = slices.Concat([]core.Interceptor{outer}, *chain, []core.Interceptor{inner})
	})
}

type sight struct {
	ran      bool
	response *Response
	err      error
}

// driving drives streams of the environment through change.
func driving(unary func(*Result) *Result, change func(DriverStream) DriverStream) func(testing.TB, *Options) Environment {
	return func(t testing.TB, o *Options) Environment { return &driven{NewServers(t, o), unary, change} }
}

type driven struct {
	*Servers
	unary  func(*Result) *Result
	change func(DriverStream) DriverStream
}

func (d *driven) Client(path Path, shape core.Shape) *Client {
	return NewClient(path, shape, brokenDriver{d.Servers.Client(path, shape).driver, d})
}

type brokenDriver struct {
	Driver
	by *driven
}

func (b brokenDriver) Unary(ctx context.Context, header []string, input string) *Result {
	res := b.Driver.Unary(ctx, header, input)
	if b.by.unary != nil {
		res = b.by.unary(res)
	}
	return res
}

func (b brokenDriver) Open(ctx context.Context, shape core.Shape, header []string) (DriverStream, error) {
	s, err := b.Driver.Open(ctx, shape, header)
	if err == nil && b.by.change != nil {
		s = b.by.change(s)
	}
	return s, err
}

// received changes what a stream receives.
type received struct {
	DriverStream
	receive func() (string, error)
}

func (r received) Receive() (string, error) { return r.receive() }

// errorsAs changes the errors that an application gets.
func errorsAs(change func(error) error) func(testing.TB, *Options) Environment {
	return driving(func(res *Result) *Result {
		res.Err = change(res.Err)
		return res
	}, func(s DriverStream) DriverStream {
		return received{s, func() (string, error) {
			output, err := s.Receive()
			if err != nil && !errors.Is(err, io.EOF) {
				err = change(err)
			}
			return output, err
		}}
	})
}

func answer(call *core.Call, res *Response) error {
	if call.Shape().ServerStreams() {
		return nil
	}
	return call.SetResponse(res)
}

func unaryOnly(o []core.Interceptor) []core.Interceptor {
	return []core.Interceptor{core.When(core.MatchShape(core.ShapeUnary), core.NewChain(o...))}
}

func brokenAdapters() []broken {
	return []broken{
		// Over means over.
		{fault: "next returns when a stream of a client is open", more: true, want: []string{
			"over means over/while a stream is open", "over means over/the client cancels", "over means over/the deadline passes", "over means over/an early close",
			"over means over/an abandoned stream", "over means over/a cancellation in Receive", "over means over/a failure", "over means over/defer cancel()",
			"same in/codes after next", "same in/response metadata", "same in/messages",
		}, start: with(func(o *Options) {
			chain := core.NewChain(o.Client...)
			o.Client = unaryOnly(o.Client)
			o.DialOptions = append(o.DialOptions, grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				var stream grpc.ClientStream
				err := Call(Fake{Side: core.SideClient, Shape: core.ShapeOf(desc.ClientStreams, desc.ServerStreams), Method: method, Invoke: func(ctx context.Context, _ *core.Call) (err error) {
					stream, err = open(ctx, desc, cc, method, opts...)
					return err
				}}).Run(ctx, chain)
				return stream, err
			}))
		})},
		{fault: "the handler does not hear of the end", want: []string{
			"over means over/the client cancels", "over means over/the deadline passes", "over means over/an early close",
			"over means over/an abandoned stream", "over means over/a cancellation in Receive", "over means over/a handler in Receive", "over means over/the connection is lost", "same out/a context",
		}, start: inServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			return next(context.WithoutCancel(ctx), call)
		})},
		{fault: "receive after the end begins anew", want: []string{"over means over/receive after the end"}, start: driving(nil, func(s DriverStream) DriverStream {
			ended := false
			return received{s, func() (string, error) {
				output, err := s.Receive()
				if err != nil && ended {
					return "", stderrors.New("receive on an ended stream")
				}
				ended = err != nil
				return output, err
			}}
		})},
		{fault: "a panic is told", want: []string{"over means over/a panic of the handler", "nothing leaks/a panic"}, start: inServer(func(ctx context.Context, call *core.Call, next core.Handler) (err error) {
			defer func() {
				if value := recover(); value != nil {
					err = errors.Internal("panic: %v", value)
				}
			}()
			return next(ctx, call)
		})},
		{fault: "a client's panic is swallowed", want: []string{"over means over/a panic in a client's chain"}, start: with(func(o *Options) {
			o.Client = slices.Insert(o.Client, 0, around(func(ctx context.Context, call *core.Call, next core.Handler) (err error) {
				defer func() {
					if recover() != nil {
						err = errors.Internal("internal error")
					}
				}()
				return next(ctx, call)
			}))
		})},
		{fault: "attempts share their metadata", want: []string{"over means over/two attempts"}, start: with(func(o *Options) {
			o.Client = append(o.Client, around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				if call.Attempt() > 1 {
					_ = call.RequestHeader().Set("x-first", "yes")
				}
				return next(ctx, call)
			}))
		})},
		{fault: "a success is never over", more: true, want: []string{"over means over/a success"}, start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			if err == nil && call.RequestHeader().Len() < 3 {
				<-ctx.Done()
			}
			return err
		})},

		// Same in.
		{fault: "several values are joined", want: []string{"same in/request metadata"}, start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			if values := call.RequestHeader().Values("x-a"); len(values) > 1 {
				_ = call.RequestHeader().Set("x-a", strings.Join(values, ", "))
			}
			return next(ctx, call)
		})},
		{fault: "streams of a server have a chain that knows nothing", more: true, want: []string{
			"same in/what a call is", "same in/request metadata", "same in/messages", "same out/an interceptor's metadata", "same out/messages that hooks change", "same out/a hook of the server fails",
		}, start: with(func(o *Options) {
			chain := core.NewChain(o.Server...)
			o.Server = unaryOnly(o.Server)
			o.ServerOptions = append(o.ServerOptions, grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
				return Call(Fake{Shape: core.ShapeOf(info.IsClientStream, info.IsServerStream), Method: info.FullMethod, Invoke: func(context.Context, *core.Call) error {
					return handler(srv, stream)
				}}).Run(stream.Context(), chain)
			}))
		})},
		{fault: "the stack's own errors are not understood", want: []string{"over means over/a handler in Receive", "same in/codes of other errors after next", "one error type/the handler's native error", "one error type/codes that no error has", "nothing leaks/the text around a native error"},
			start: inServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
				err := next(ctx, call)
				if weft, ok := errors.AsType[*errors.Error](err); ok && weft.Original() != nil {
					return stderrors.New(err.Error())
				}
				return err
			})},
		{fault: "a code is not known", want: []string{"same in/codes after next", "same in/codes of other errors after next", "one error type/the handler's native error"},
			start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
				err := next(ctx, call)
				if core.CodeOf(err) == core.CodeDataLoss {
					return errors.Unknown("%s", core.FindCoded(err, nil).Message())
				}
				return err
			})},

		// Same out.
		{fault: "a failure has no metadata", want: []string{
			"same in/response metadata", "same out/an interceptor's metadata of a failure", "same out/the handler's metadata of a failure",
		}, start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			for _, md := range []*core.Metadata{call.ResponseHeader(), call.ResponseTrailer()} {
				for key := range md.All() {
					if err != nil {
						_ = md.Delete(key)
					}
				}
			}
			return err
		})},
		{fault: "trailers are forgotten", more: true, want: []string{"same out/the handler's metadata", "same out/an interceptor's metadata", "over means over/defer cancel()"},
			start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
				err := next(ctx, call)
				for key := range call.ResponseTrailer().All() {
					_ = call.ResponseTrailer().Delete(key)
				}
				return err
			})},
		{fault: "an error's metadata is forgotten", want: []string{"same out/an error's metadata", "one error type/the application's error"}, start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			if weft, ok := errors.AsType[*errors.Error](err); ok && !weft.Upstream() && weft.Metadata().Len() > 0 {
				again := errors.Newf(core.CodeOf(err), "%s", weft.Message())
				for _, d := range weft.Details() {
					again = again.WithDetails(anyOf(d))
				}
				return again
			}
			return err
		})},
		{fault: "the text of an error goes to the wire", more: true, want: []string{
			"same out/a failure", "same out/an interceptor of the server refuses", "nothing leaks/the text around an error", "nothing leaks/the text around an interceptor's error",
			"nothing leaks/the text around a native error", "nothing leaks/a cause", "nothing leaks/a plain error", "nothing leaks/a plain error of an interceptor", "same out/an odd message",
		}, start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			if err := next(ctx, call); err != nil {
				return errors.Newf(core.CodeOf(err), "%s", err.Error())
			}
			return nil
		})},
		{fault: "an error that a client's chain returned is the server's", want: []string{
			"same out/an interceptor of the client replaces an error", "same out/an interceptor of the client forgives",
		}, start: bothEnds(true, func(call *core.Call, err error, seen *sight) error {
			if seen.err != nil && call.Attempt() == 1 && core.CodeOf(seen.err) == core.CodeNotFound {
				return seen.err
			}
			return err
		})},
		{fault: "a client's chain must call next", want: []string{
			"same out/an interceptor of the client answers", "same out/an interceptor of the client refuses", "nothing is skipped/a client that refuses", "one error type/codes that no error has",
		}, start: bothEnds(true, func(_ *core.Call, err error, seen *sight) error {
			if !seen.ran {
				return errors.Unknown("next was not called")
			}
			return err
		}), more: true},
		{fault: "a server's chain must call next", want: []string{"same out/an interceptor of the server answers"}, start: bothEnds(false, func(_ *core.Call, err error, seen *sight) error {
			if !seen.ran && err == nil {
				return errors.Unknown("next was not called")
			}
			return err
		})},
		{fault: "a server answers before its chain has returned", more: true, want: []string{"same out/an interceptor of the server spoils a success", "same out/responses before a failure"},
			start: bothEnds(false, func(call *core.Call, err error, seen *sight) error {
				if seen.response != nil && err != nil {
					return answer(call, seen.response)
				}
				return err
			})},
		{fault: "failures stay failures", want: []string{"same out/an interceptor of the server forgives"}, start: bothEnds(false, func(_ *core.Call, err error, seen *sight) error {
			if seen.err != nil && err == nil {
				return errors.Unknown("forgiven")
			}
			return err
		})},
		{fault: "hooks get a copy", want: []string{"same out/messages that hooks change"}, start: inServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			call.OnRequest(func(_ context.Context, msg any) error {
				req := msg.(*Request)
				req.Input, _, _ = strings.Cut(req.GetInput(), "+")
				return nil
			})
			return next(ctx, call)
		})},
		{fault: "what a client's hook says is ignored", want: []string{"same out/a hook of the client fails"}, more: true, start: with(func(o *Options) {
			o.Client = slices.Insert(o.Client, 0, around(func(ctx context.Context, call *core.Call, next core.Handler) error {
				if err := next(ctx, call); core.CodeOf(err) != core.CodeOutOfRange {
					return err
				}
				return answer(call, &Response{Output: "hi"})
			}))
		})},
		{fault: "responses are read ahead", want: []string{"over means over/while a stream is open", "over means over/a cancellation in Receive", "same out/responses before a failure", "same out/an interceptor of the server spoils a success"}, start: driving(nil, func(s DriverStream) DriverStream {
			var next string
			var err error
			began := false
			return received{s, func() (string, error) {
				if !began {
					began = true
					next, err = s.Receive()
				}
				if err != nil {
					return "", err
				}
				output := next
				if next, err = s.Receive(); err != nil && !errors.Is(err, io.EOF) {
					return "", err
				}
				return output, nil
			}}
		})},

		// One error type.
		{fault: "the application gets Weft's own error", want: []string{"one error type/the application's error"}, start: errorsAs(func(err error) error {
			if weft, ok := errors.AsType[*errors.Error](err); ok {
				return weft
			}
			return err
		})},
		{fault: "the application gets an error that unwraps to nothing", more: true, want: []string{"one error type/the application's error", "one error type/an error that passes through"},
			start: errorsAs(func(err error) error {
				if err != nil {
					err = stderrors.New(err.Error())
				}
				return err
			})},
		{fault: "an error with code OK is a success", want: []string{"one error type/codes that no error has"}, start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			if coded := core.FindCoded(err, nil); coded != nil && coded.Code() == core.CodeOK {
				return answer(call, &Response{})
			}
			return err
		})},
		{fault: "details of a native error are lost", want: []string{"one error type/the handler's native error"}, start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			if weft, ok := errors.AsType[*errors.Error](err); ok && weft.Original() != nil && len(weft.Details()) > 0 {
				return errors.Newf(core.CodeOf(err), "%s", weft.Message())
			}
			return err
		})},
		{fault: "details of an upstream's error are lost", want: []string{"one error type/an error that passes through"}, start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			if weft, ok := errors.AsType[*errors.Error](err); ok && weft.Upstream() {
				return errors.Newf(core.CodeOf(err), "%s", weft.Message())
			}
			return err
		})},

		// Nothing leaks.
		{fault: "what has no code is revealed", want: []string{"nothing leaks/a plain error", "nothing leaks/a plain error of an interceptor"},
			start: with(func(o *Options) {
				o.Server = slices.Insert(o.Server, 0, errors.NewInterceptor(&errors.Options{RevealUnknown: true}))
			})},
		{fault: "metadata of an upstream passes", want: []string{"nothing leaks/the metadata of an upstream"}, start: onServer(func(ctx context.Context, call *core.Call, next core.Handler) error {
			err := next(ctx, call)
			if weft, ok := errors.AsType[*errors.Error](err); ok && weft.Upstream() {
				weft.Metadata().EachRaw(false, func(key, value string) { _ = call.ResponseTrailer().Add(key, value) })
			}
			return err
		})},

		// Nothing is skipped.
		{fault: "streams of a server are skipped", more: true, want: []string{"nothing is skipped/each interceptor, once", "nothing is skipped/a server that refuses"},
			start: with(func(o *Options) { o.Server = unaryOnly(o.Server) })},
		{fault: "streams of a client are skipped", more: true, want: []string{"nothing is skipped/each interceptor, once", "nothing is skipped/a client that refuses"},
			start: with(func(o *Options) { o.Client = unaryOnly(o.Client) })},
		{fault: "a chain runs twice", more: true, want: []string{"nothing is skipped/each interceptor, once", "over means over/a success"},
			start: with(func(o *Options) { o.Client = slices.Concat(o.Client, o.Client) })},
		{fault: "the last interceptor is outermost", more: true, want: []string{"nothing is skipped/each interceptor, once", "nothing is skipped/the order of a chain"},
			start: with(func(o *Options) { slices.Reverse(o.Server) })},
		{fault: "nil interceptors are left out", want: []string{"nothing is skipped/nil interceptors"}, start: with(func(o *Options) {
			isNil := func(i core.Interceptor) bool {
				f, ok := i.(core.InterceptorFunc)
				return i == nil || ok && f == nil
			}
			o.Server, o.Client = slices.DeleteFunc(o.Server, isNil), slices.DeleteFunc(o.Client, isNil)
		})},

		// It costs next to nothing.
		{fault: "a chain is composed for each call", want: []string{"it costs next to nothing/the length of a chain"}, start: with(func(o *Options) {
			o.Server = []core.Interceptor{core.InterceptorFunc(core.NewChain(o.Server...).Intercept)}
		})},
	}
}

// The kit bites: each fault fails the cases of the promises that it breaks, which say why; and there is no case that nothing fails.
func TestTheKitFindsBrokenAdapters(t *testing.T) {
	found := map[string]bool{}
	for _, b := range brokenAdapters() {
		t.Run(b.fault, func(t *testing.T) {
			a := GRPCAdapter()
			a.Paths = []Path{{GRPC, GRPC, core.ProtocolGRPC, "proto", 2}}
			a.Start = b.start
			var failures []Failure
			// In a bubble, what hangs costs no time.
			synctest.Test(t, func(t *testing.T) {
				for _, c := range conformance() {
					// The race detector has seen the others' many times, without faults.
					if patience := maxHung; !raceEnabled() || slices.Contains(b.want, c.promise+"/"+c.name) {
						failures = append(failures, a.check(t, c, &patience)...)
					}
				}
			})
			failed := map[string]bool{}
			for _, f := range failures {
				name := f.Promise + "/" + f.Case
				failed[name], found[name] = true, true
				if text := f.String(); f.Explanation == "" || !strings.Contains(text, f.Explanation) || !strings.Contains(text, f.Want) || !strings.Contains(text, a.Paths[0].String()+" "+f.Shape.String()) {
					t.Errorf("a failure that does not explain itself: %s", text)
				}
			}
			if b.want[0] == "it costs next to nothing/the length of a chain" && raceEnabled() {
				return
			}
			for _, name := range b.want {
				if !failed[name] {
					t.Errorf("%s does not fail", name)
				}
				delete(failed, name)
			}
			if !b.more {
				for _, f := range failures {
					if failed[f.Promise+"/"+f.Case] {
						t.Errorf("fails, too: %s", f)
					}
				}
			}
		})
	}
	for _, c := range conformance() {
		if name := c.promise + "/" + c.name; !found[name] && c.promise != promiseCost {
			t.Errorf("no fault fails %s", name)
		}
	}
}
