// Package timeout limits how long an RPC may take: on servers and clients, in all shapes.
//
// It never lengthens a deadline that is there already, and a client's limit travels to the server as any deadline does.
package timeout

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// ErrTimeout is in the tree of each error that this package makes: [errors.Is] tells the limit from a deadline of
// the caller's. It is the cause ([context.Cause]) of the contexts that end because of it, too.
var ErrTimeout = errors.New("timeout: the limit has passed")

// Options for [New]. The zero value is right.
type Options struct {
	// Methods has limits in place of the general one: by method, "/foo.bar.SearchService/Search", or by
	// service, "foo.bar.SearchService"; that of the method wins. 0 is no limit.
	Methods map[string]time.Duration
	// PerMessage makes the limit of a stream the one between two messages, of whichever direction, and before the
	// first: a stream lives as long as something happens on it. Unary calls are not concerned.
	PerMessage bool
}

// New returns an interceptor that ends an RPC which takes longer than limit; 0 limits only what is in
// [Options.Methods]. A stream is limited as a whole, from its opening to its end, unless PerMessage is set.
//
// What runs inside sees its context end, and the error is DEADLINE_EXCEEDED, with [ErrTimeout] in its tree.
// On a server it is that too if the handler returned too late with a success, for it may have returned
// half of a stream, or with an error that comes of its context's end. An error with a code of the handler's own stays. A client keeps a response that came.
//
// A handler must look at its context, as with any deadline: nothing ends a handler that does not. One that waits in a receive hears
// of the limit.
//
// New returns an error if a limit is negative or a name in Methods malformed, and if nothing would be limited.
func New(limit time.Duration, opts *Options) (core.Interceptor, error) {
	t := &timeout{limit: limit}
	if opts != nil {
		t.methods, t.perMessage = maps.Clone(opts.Methods), opts.PerMessage
	}
	if limit < 0 {
		return nil, fmt.Errorf("timeout: the limit %v is negative", limit)
	}
	limited := limit > 0
	for name, one := range t.methods {
		if _, err := core.ParseMethod(name); name == "" || name[0] != '/' || err != nil {
			if _, err := core.ParseMethod("/" + name + "/M"); err != nil {
				return nil, fmt.Errorf("timeout: Methods has %q: want /foo.bar.SearchService/Search or foo.bar.SearchService", name)
			}
		}
		if one < 0 {
			return nil, fmt.Errorf("timeout: the limit %v of %q is negative", one, name)
		}
		limited = limited || one > 0
	}
	if !limited {
		return nil, errors.New("timeout: there is no limit: neither the general one nor one of a method")
	}
	return t, nil
}

type timeout struct {
	limit      time.Duration
	methods    map[string]time.Duration
	perMessage bool
}

func (t *timeout) of(method core.Method) time.Duration {
	if len(t.methods) == 0 {
		return t.limit
	}
	if limit, ok := t.methods[method.String()]; ok {
		return limit
	}
	if limit, ok := t.methods[method.FullService()]; ok {
		return limit
	}
	return t.limit
}

// Intercept implements [core.Interceptor].
func (t *timeout) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	limit := t.of(call.Method())
	if limit == 0 {
		return next(ctx, call)
	}
	if t.perMessage && call.Shape() != core.ShapeUnary {
		return watch(ctx, call, next, limit)
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= limit {
		return next(ctx, call) // it ends earlier anyway
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, ErrTimeout)
	defer cancel()
	err := next(ctx, call)
	if context.Cause(ctx) == ErrTimeout || foretold(ctx, err) { //nolint:errorlint // the cause itself, set above
		return judge(call, err, limit)
	}
	return err
}

// foretold reports whether the peer, which has the same deadline, was quicker to say that it has passed than our own clock, by
// a millisecond at most: deadlines travel in whole ones, rounded down.
func foretold(ctx context.Context, err error) bool {
	deadline, _ := ctx.Deadline()
	switch core.CodeOf(err) {
	case core.CodeDeadlineExceeded:
		return ctx.Err() == nil && time.Until(deadline) <= time.Millisecond
	case core.CodeCanceled:
		return ctx.Err() == nil && time.Until(deadline) <= 0
	}
	return false
}

// judge returns what is to be told of an RPC that ended after its limit.
func judge(call *core.Call, err error, limit time.Duration) error {
	switch core.CodeOf(err) {
	case core.CodeOK:
		if call.Side() == core.SideClient {
			return nil
		}
	case core.CodeCanceled, core.CodeDeadlineExceeded:
	case core.CodeUnknown:
		if core.FindCoded(err, nil) != nil {
			return err
		}
	default:
		return err
	}
	return errors.DeadlineExceeded("the call took longer than %v", limit).WithCause(errors.Join(ErrTimeout, err))
}

// watch ends a stream on which nothing happens for the time of limit.
func watch(ctx context.Context, call *core.Call, next core.Handler, limit time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := &watcher{limit: limit}
	w.timer = time.AfterFunc(limit, func() { cancel(ErrTimeout) })
	defer w.stop()
	call.OnRequest(w.message)
	call.OnResponse(w.message)
	err := next(ctx, call)
	if context.Cause(ctx) == ErrTimeout { //nolint:errorlint // the cause itself, set above
		return judge(call, err, limit)
	}
	return err
}

type watcher struct {
	limit time.Duration
	timer *time.Timer
	mu    sync.Mutex // requests and responses come at the same time
	over  bool
}

// message is a [core.Hook].
func (w *watcher) message(context.Context, any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.timer.Reset(w.limit)
	}
	return nil
}

func (w *watcher) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.timer.Stop()
}
