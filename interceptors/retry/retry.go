// Package retry makes clients try again, in all shapes: unary calls, and streams as long as the application has seen nothing of them.
//
// Each try is an attempt of its own (see [core.Call.NewAttempt]): it starts from the call's request
// metadata, nothing of an earlier attempt is sent again, and what is installed outside of the interceptor sees one call and each message once.
// What is installed inside sees every attempt. On a stream, what the application sends is recorded and sent again to the next
// attempt; once the application has seen a header or a message of an attempt, the attempt is committed and its error is the call's.
package retry

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/internal/grpcretry"
)

// ErrAttemptTimeout is in the tree of the error of an attempt that took longer than [Options.AttemptTimeout]: see [errors.Is].
var ErrAttemptTimeout = errors.New("retry: the attempt has taken too long")

// Options for [New]. The zero value is right.
type Options struct {
	// Codes are those that another attempt may heal, by default UNAVAILABLE alone.
	Codes []core.Code
	// Methods selects the calls that may be tried again (core.MatchMethod, core.MatchService, a function of your own).
	// By default it is those whose definition says idempotency_level = IDEMPOTENT or NO_SIDE_EFFECTS.
	Methods core.Matcher
	// Backoff is the wait before the second attempt, at most; it doubles with each attempt up to
	// MaxBackoff. The actual wait is random, between nothing and that ("full jitter"). 100 ms and 10 s if they are 0.
	Backoff, MaxBackoff time.Duration
	// MaxPushback is the longest wait that a server may ask for: if it asks for more, the call fails. 1 min if it is 0.
	MaxPushback time.Duration
	// AttemptTimeout limits each attempt: a unary one as a whole, that of a stream until the application sees
	// a response header or message. An attempt that took longer is tried again, whatever Codes has. 0 is no limit.
	AttemptTimeout time.Duration
	// Budget keeps retries from multiplying an outage. Interceptors may share one. By default each
	// interceptor has its own, NewBudget(100, 0.1).
	Budget *Budget
	// OnAttempt sees each attempt when it has ended, to log and count. The call is the attempt, with its metadata and
	// its peer. It is called by many goroutines at once.
	OnAttempt func(ctx context.Context, attempt *core.Call, end End)
}

// End is how an attempt has ended.
type End struct {
	// Number is that of the attempt, from 1.
	Number int
	// Err is the attempt's error, nil for success.
	Err error
	// Took is how long the attempt took.
	Took time.Duration
	// Again says that another attempt follows, after Wait.
	Again bool
	Wait  time.Duration
	// Reason says why there is none, of an attempt that failed.
	Reason Reason
}

// Reason is why a failed call is not tried again.
type Reason string

// The reasons.
const (
	ReasonCode      Reason = "the code is not one to try again"
	ReasonAttempts  Reason = "it was the last attempt"
	ReasonCommitted Reason = "the application has seen something of the attempt"
	ReasonPushback  Reason = "the server asked to stop"
	ReasonBudget    Reason = "the budget for retries is used up"
	ReasonDeadline  Reason = "the deadline comes before the next attempt"
	ReasonContext   Reason = "the call's context has ended"
)

// New returns an interceptor for clients that makes up to the given number of attempts, the first one
// included: 1 is no retry, but AttemptTimeout and OnAttempt hold. On servers it does nothing.
//
// After a failed attempt it waits: as long as the server said by grpc-retry-pushback-ms in the trailer; at least as long as a
// google.rpc.RetryInfo in the error's details says; else for a random time (see [Options]). A negative or
// malformed pushback ends the call. So does a deadline that would pass before the next attempt: the
// application gets the error at once, and not later a DEADLINE_EXCEEDED that says nothing.
//
// The last error is the call's.
//
// New returns an error if the number of attempts is less than 1, if a duration is negative, if MaxBackoff is less than Backoff,
// and if a code is not one of the sixteen errors.
func New(attempts int, opts *Options) (core.Interceptor, error) {
	r := &retry{attempts: attempts}
	if opts != nil {
		r.Options = *opts
	}
	if attempts < 1 {
		return nil, fmt.Errorf("retry: %d attempts, want 1 at least, which is no retry", attempts)
	}
	r.Codes = slices.Clone(r.Codes)
	for _, code := range r.Codes {
		if !code.IsError() {
			return nil, fmt.Errorf("retry: Codes has %s, which is not the code of an error", code)
		}
	}
	if len(r.Codes) == 0 {
		r.Codes = []core.Code{core.CodeUnavailable}
	}
	for name, d := range map[string]*time.Duration{
		"Backoff": &r.Backoff, "MaxBackoff": &r.MaxBackoff, "MaxPushback": &r.MaxPushback, "AttemptTimeout": &r.AttemptTimeout,
	} {
		if *d < 0 {
			return nil, fmt.Errorf("retry: %s is negative: %v", name, *d)
		}
	}
	if r.Backoff == 0 {
		r.Backoff = 100 * time.Millisecond
	}
	if r.MaxBackoff == 0 {
		r.MaxBackoff = max(10*time.Second, r.Backoff)
	}
	if r.MaxBackoff < r.Backoff {
		return nil, fmt.Errorf("retry: MaxBackoff %v is less than Backoff %v", r.MaxBackoff, r.Backoff)
	}
	if r.MaxPushback == 0 {
		r.MaxPushback = time.Minute
	}
	if r.Methods == nil {
		r.Methods = grpcretry.Idempotent
	}
	if r.Budget == nil {
		r.Budget, _ = NewBudget(100, 0.1)
	}
	r.idle = attempts == 1 && r.AttemptTimeout == 0 && r.OnAttempt == nil
	return r, nil
}

type retry struct {
	Options

	attempts int
	idle     bool // there is nothing to do for any call
}

// Intercept implements [core.Interceptor].
func (r *retry) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	if call.Side() != core.SideClient || r.idle || !r.Methods(call) {
		return next(ctx, call)
	}
	for number := 1; ; number++ {
		attempt := call.NewAttempt()
		if number > 1 {
			if err := attempt.RequestHeader().Set(grpcretry.PreviousKey, strconv.Itoa(number-1)); err != nil {
				return err
			}
		}
		end := r.try(ctx, attempt, next)
		if !end.Again {
			call.Adopt(attempt)
			return end.Err
		}
		if end.Wait == 0 {
			continue
		}
		wait := time.NewTimer(end.Wait)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			call.Adopt(attempt)
			return gaveUp(ctx, end.Err)
		}
	}
}

// gaveUp is the error of a call whose context has ended between two attempts.
func gaveUp(ctx context.Context, last error) error {
	code := core.CodeOf(ctx.Err())
	return errors.Newf(code, "%s", core.PublicMessage(code)).WithCause(errors.Join(ctx.Err(), last))
}

// try makes one attempt and decides what is next.
func (r *retry) try(ctx context.Context, attempt *core.Call, next core.Handler) (end End) {
	var start time.Time
	if r.OnAttempt != nil {
		start = time.Now()
	}
	end.Number = attempt.Attempt()
	err, late := r.limited(ctx, attempt, next)
	end.Err = err
	end.Wait, end.Reason = r.judge(ctx, attempt, end.Err, late)
	end.Again = end.Err != nil && end.Reason == ""
	if r.OnAttempt != nil {
		end.Took = time.Since(start)
		r.OnAttempt(ctx, attempt, end)
	}
	return end
}

// limited runs the attempt, and reports whether it ended because of its own limit.
func (r *retry) limited(ctx context.Context, attempt *core.Call, next core.Handler) (err error, late bool) { //nolint:revive // err is a result here
	if r.AttemptTimeout == 0 {
		return next(ctx, attempt), false
	}
	var limited context.Context
	var cancel context.CancelFunc
	if attempt.Shape() == core.ShapeUnary {
		limited, cancel = context.WithTimeoutCause(ctx, r.AttemptTimeout, ErrAttemptTimeout)
	} else {
		// The limit must not end a stream that works, hence no deadline.
		ending, end := context.WithCancelCause(ctx)
		timer := time.AfterFunc(r.AttemptTimeout, func() {
			if !attempt.Committed() {
				end(ErrAttemptTimeout)
			}
		})
		limited, cancel = ending, func() { timer.Stop(); end(nil) }
	}
	defer cancel()
	err = next(limited, attempt)
	if ctx.Err() == nil && spent(ctx, limited, core.CodeOf(err)) {
		return errors.DeadlineExceeded("the attempt took longer than %v", r.AttemptTimeout).WithCause(errors.Join(ErrAttemptTimeout, err)), true
	}
	return err, false
}

// spent reports whether an attempt has ended with the code because its time is over. A server, which has the same deadline, may be
// quicker to say so than our own clock, by a millisecond at most: deadlines travel in whole ones, rounded down.
func spent(ctx, limited context.Context, code core.Code) bool {
	deadline, ok := limited.Deadline()
	outer, also := ctx.Deadline()
	own := ok && (!also || deadline.Before(outer))
	switch code {
	case core.CodeDeadlineExceeded:
		own = own && time.Until(deadline) <= time.Millisecond
	case core.CodeCanceled:
		own = own && time.Until(deadline) <= 0
	default:
		return false
	}
	return own || context.Cause(limited) == ErrAttemptTimeout //nolint:errorlint // the cause itself
}

// judge says how long to wait for another attempt, or why there is none.
func (r *retry) judge(ctx context.Context, attempt *core.Call, err error, late bool) (time.Duration, Reason) {
	if err == nil {
		r.Budget.Success()
		return 0, ""
	}
	switch {
	case ctx.Err() != nil:
		return 0, ReasonContext // which says nothing of the server
	case !late && !slices.Contains(r.Codes, core.CodeOf(err)):
		return 0, ReasonCode
	}
	allowed := r.Budget.Failure()
	wait, asked, stop := time.Duration(0), false, false
	if !late {
		wait, asked, stop = askedFor(attempt, err)
	}
	switch {
	case attempt.Committed():
		return 0, ReasonCommitted
	case stop || wait > r.MaxPushback:
		return 0, ReasonPushback
	case attempt.Attempt() >= r.attempts:
		return 0, ReasonAttempts
	case !allowed:
		return 0, ReasonBudget
	}
	if !asked {
		wait += min(r.backoff(attempt.Attempt()), math.MaxInt64-wait)
	}
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
		return 0, ReasonDeadline
	}
	return wait, ""
}

// askedFor is what the server says about another attempt: to wait so long, exactly or at least; or to stop.
func askedFor(attempt *core.Call, err error) (wait time.Duration, exactly, stop bool) {
	if wait, asked, stop := grpcretry.Pushback(attempt); asked {
		return wait, true, stop
	}
	if info, ok := errors.DetailOf[*errdetails.RetryInfo](err); ok {
		return max(0, info.GetRetryDelay().AsDuration()), false, false // saturates
	}
	return 0, false, false
}

// backoff is a random wait after the given attempt, from 1.
func (r *retry) backoff(attempt int) time.Duration {
	return rand.N(ceiling(r.Backoff, r.MaxBackoff, attempt)) //nolint:gosec // nobody gains by guessing it
}

// ceiling is the longest wait after the given attempt, from 1: no number of attempts overflows it.
func ceiling(wait, most time.Duration, attempt int) time.Duration {
	for ; attempt > 1 && wait < most; attempt-- {
		if wait > most/2 {
			return most
		}
		wait *= 2
	}
	return min(wait, most)
}
