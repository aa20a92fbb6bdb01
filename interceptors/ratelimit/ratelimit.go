// Package ratelimit bounds how many RPCs, or messages of streams, there may be in a time: on servers for each
// caller, on clients to spare a server.
package ratelimit

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// ErrLimit is in the tree of the error of a call that was turned away: see [errors.Is].
var ErrLimit = errors.New("ratelimit: the rate is exceeded")

// Limiter decides. [NewLocal] makes one that lives in this process; one that is shared by many can live elsewhere. It is
// called by many goroutines at once.
type Limiter interface {
	// Take takes one token of the key. If there is none now it returns after which time there will be one, and takes nothing:
	// 0 is a yes. An error, which need not have a code, fails the call or not: see [Options.FailOpen].
	Take(ctx context.Context, key string) (wait time.Duration, err error)
}

// KeyFunc says which calls share a rate: those with the same key.
type KeyFunc func(ctx context.Context, call *core.Call) string

// ByMethod is a [KeyFunc]: each method has its own rate.
func ByMethod(_ context.Context, call *core.Call) string { return call.Method().String() }

// ByPeer is a [KeyFunc]: each host that calls has its own rate. Behind a proxy all calls are the proxy's.
func ByPeer(_ context.Context, call *core.Call) string { return host(call.Peer().Addr) }

// Options for [New]. The zero value is right.
type Options struct {
	// Key is what the rate is for: ByPeer, ByMethod or a function of your own. Nil is one rate for all calls.
	Key KeyFunc
	// PerMessage counts the messages that a stream's client sends, too, beside the call itself.
	PerMessage bool
	// Wait makes a call or a message wait for its token, if that is not longer in all than MaxWait and the context's deadline allow,
	// instead of turning it away. It is for clients; on servers it is ignored.
	Wait bool
	// MaxWait is 0 for any time.
	MaxWait time.Duration
	// FailOpen lets calls pass when the limiter fails. Otherwise they fail with UNAVAILABLE.
	FailOpen bool
	// OnReject sees each call that is turned away, to count it. It is called by many goroutines at once.
	OnReject func(ctx context.Context, call *core.Call, key string)
}

// New returns an interceptor, for either side, that asks the limiter for a token for each call. Without one the
// call is turned away with RESOURCE_EXHAUSTED, a google.rpc.RetryInfo that says when there will be one, a google.rpc.QuotaFailure, and [ErrLimit] in
// the tree of the error. Nothing that the peer gets says the key.
//
// New panics if limiter is nil, and returns an error if MaxWait is negative.
func New(limiter Limiter, opts *Options) (core.Interceptor, error) {
	if limiter == nil {
		panic("ratelimit: New of a nil limiter")
	}
	r := &rateLimit{limiter: limiter}
	if opts != nil {
		r.Options = *opts
	}
	if r.MaxWait < 0 {
		return nil, fmt.Errorf("ratelimit: MaxWait is negative: %v", r.MaxWait)
	}
	return r, nil
}

type rateLimit struct {
	Options

	limiter Limiter
}

// Intercept implements [core.Interceptor].
func (r *rateLimit) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	key := ""
	if r.Key != nil {
		key = r.Key(ctx, call)
	}
	if err := r.take(ctx, call, key); err != nil {
		return err
	}
	if r.PerMessage && call.Shape().ClientStreams() {
		call.OnRequest(func(ctx context.Context, _ any) error { return r.take(ctx, call, key) })
	}
	return next(ctx, call)
}

// take returns nil with a token.
func (r *rateLimit) take(ctx context.Context, call *core.Call, key string) error {
	for waited := time.Duration(0); ; { // others who wait may be quicker to take a token
		wait, err := r.limiter.Take(ctx, key)
		switch {
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil && r.FailOpen, err == nil && wait <= 0:
			return nil
		case err != nil:
			return errors.Unavailable("the rate limit is not available").WithCause(err)
		case !r.mayWait(ctx, call, waited, wait):
			if r.OnReject != nil {
				r.OnReject(ctx, call, key)
			}
			return errors.ResourceExhausted("the rate limit is exceeded").WithCause(ErrLimit).WithDetails(
				&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)},
				&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: call.Method().String()[1:], Description: "rate limit"}}})
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
			waited += wait
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

// mayWait reports whether a call that has waited may wait so much longer.
func (r *rateLimit) mayWait(ctx context.Context, call *core.Call, waited, wait time.Duration) bool {
	if !r.Wait || call.Side() != core.SideClient || r.MaxWait > 0 && wait > r.MaxWait-waited {
		return false
	}
	deadline, ok := ctx.Deadline()
	return !ok || time.Until(deadline) > wait
}
