// Package recovery turns panics into errors, and nothing else.
//
// There is one implementation of this in Weft, that of [errors.NewInterceptor], which also gives codes to
// errors of your own. Which to use:
//
//   - A server has errors.NewInterceptor, with its OnPanic, once, outside of all that may panic. That is enough.
//   - This package is for further places, where errors must pass as they are: next to the handler, so that
//     interceptors between see an error and not a panic; outermost, as a net for what stands outside of
//     errors.NewInterceptor; on clients, to keep an application alive whose interceptors are not above suspicion.
//
// A panic is caught and reported once, by the innermost of them.
package recovery

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Options for [New].
type Options struct {
	// OnPanic sees each panic that was caught, with its stack: to log it, count it or raise an alarm. The context is
	// the interceptor's. It is called by many goroutines at once. If it panics itself, that changes nothing for
	// the caller. Nil means a record of the level Error in [slog.Default].
	OnPanic func(ctx context.Context, call *core.Call, value any, stack []byte)
}

// New returns an interceptor that makes an error of a panic in anything inside of it: handlers,
// interceptors, hooks; on servers and clients, in all shapes. Nil options are the zero Options.
//
// The error is Internal with a fixed text, which says nothing of the panic, to the peer of a server or
// the application of a client; or the coded error that the panic was raised with. [errors.AsType] of *core.Panic
// finds value and stack in that Internal. Errors that are returned pass as they are.
//
// [net/http.ErrAbortHandler] is raised again, because it is not a failure but the way to end a response of
// net/http at once, and [runtime.Goexit], which [testing.T.FailNow] uses, goes on.
//
// What a panic in another goroutine does, which a handler has started, is out of anyone's reach.
func New(opts *Options) core.Interceptor {
	report := logPanic
	if opts != nil && opts.OnPanic != nil {
		report = opts.OnPanic
	}
	return &recovery{errors.NewInterceptor(&errors.Options{OnPanic: report})}
}

type recovery struct{ panics core.Interceptor }

// Intercept implements [core.Interceptor]. It hides from the other interceptor all errors, so that panics are left.
func (r *recovery) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	var returned error
	if err := r.panics.Intercept(ctx, call, func(ctx context.Context, call *core.Call) error {
		returned = next(ctx, call)
		return nil
	}); err != nil {
		return err
	}
	return returned
}

func logPanic(ctx context.Context, call *core.Call, value any, stack []byte) {
	slog.ErrorContext(ctx, "panic", "rpc.method", call.Method().String()[1:], "side", call.Side(),
		"exception.message", fmt.Sprint(value), "exception.stacktrace", string(stack))
}
