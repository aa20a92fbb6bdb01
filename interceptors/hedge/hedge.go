// Package hedge makes clients ask again when an answer takes long, without giving up on the first
// request: the first answer wins, and the other attempts are cancelled. It is for unary calls of methods that may be
// repeated; all other calls pass as they are.
package hedge

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/internal/grpcretry"
)

// Options for [New]. The zero value is right.
type Options struct {
	// Attempts is the most attempts of a call, the first included: 2 if it is 0, 100 at most.
	Attempts int
	// Codes are those after which the next attempt starts at once, and others under way go on, by default
	// UNAVAILABLE alone. Any other end of an attempt is that of the call.
	Codes []core.Code
	// Methods selects the calls that may be repeated (core.MatchMethod, core.MatchService, a function of your own). By
	// default it is those whose definition says idempotency_level = IDEMPOTENT or NO_SIDE_EFFECTS.
	Methods core.Matcher
	// Budget keeps hedges from multiplying the load of a service that is slow or down. Interceptors may share one, those of
	// package retry too. By default each interceptor has its own, retry.NewBudget(100, 0.1): when all answers are slow, one
	// call in ten is hedged.
	Budget *retry.Budget
	// MaxPushback is the longest wait that a server may ask for: if it asks for more, there is no further attempt. 1 min if it is 0.
	MaxPushback time.Duration
	// OnAttempt sees each attempt that has ended, to log and count, in the goroutine of the call. The call is the attempt, with its
	// metadata and its peer.
	OnAttempt func(ctx context.Context, attempt *core.Call, end End)
}

// End is how an attempt has ended.
type End struct {
	// Number is that of the attempt, from 1, in the order of their beginning.
	Number int
	// Err is the attempt's error, nil for success. One that lost has usually been cancelled.
	Err error
	// Won says that this is what the application gets.
	Won bool
}

// New returns an interceptor for clients that makes a further attempt each time that delay has
// passed without an answer. On servers and on streams it does nothing.
//
// Each attempt has request metadata, a reply and response metadata of its own. A server that answers with a negative or malformed
// grpc-retry-pushback-ms gets no further one; with another, the next one waits so long. The interceptor returns when all attempts have
// ended, which a cancelled one does promptly: nothing is left behind.
//
// A good delay is the 95th percentile of the latency: then hedging adds 5% of load.
//
// New returns an error if delay is not positive, if there are less than 2 attempts or more than 100, if MaxPushback is negative, and if a
// code is not one of the sixteen errors.
func New(delay time.Duration, opts *Options) (core.Interceptor, error) {
	h := &hedge{delay: delay}
	if opts != nil {
		h.Options = *opts
	}
	if delay <= 0 {
		return nil, fmt.Errorf("hedge: the delay is %v: it must be positive, or each call is made twice", delay)
	}
	if h.Attempts == 0 {
		h.Attempts = 2
	}
	if h.Attempts < 2 || h.Attempts > 100 {
		return nil, fmt.Errorf("hedge: %d attempts, want 2 to 100", h.Attempts)
	}
	if h.MaxPushback < 0 {
		return nil, fmt.Errorf("hedge: MaxPushback is negative: %v", h.MaxPushback)
	}
	if h.MaxPushback == 0 {
		h.MaxPushback = time.Minute
	}
	h.Codes = slices.Clone(h.Codes)
	for _, code := range h.Codes {
		if !code.IsError() {
			return nil, fmt.Errorf("hedge: Codes has %s, which is not the code of an error", code)
		}
	}
	if len(h.Codes) == 0 {
		h.Codes = []core.Code{core.CodeUnavailable}
	}
	if h.Budget == nil {
		h.Budget, _ = retry.NewBudget(100, 0.1)
	}
	if h.Methods == nil {
		h.Methods = grpcretry.Idempotent
	}
	return h, nil
}

type hedge struct {
	Options

	delay time.Duration
}

// result is the end of an attempt.
type result struct {
	attempt *core.Call
	err     error
	gone    bool // it has panicked, or its goroutine has exited
	raise   *core.Panic
}

// Intercept implements [core.Interceptor].
func (h *hedge) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	if call.Side() != core.SideClient || call.Shape() != core.ShapeUnary || !h.Methods(call) {
		return next(ctx, call)
	}
	r := &race{hedge: h, call: call, next: next, outer: ctx, results: make(chan result, h.Attempts), most: h.Attempts}
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithCancel(ctx)
	defer cancel() // also when a hook panics
	won, err := r.run()
	cancel()
	if err == nil && !won.gone {
		r.tell(won, true)
		call.Adopt(won.attempt)
	}
	for ; r.running > 0; r.running-- {
		lost := <-r.results
		if lost.gone {
			won = lost
		} else if err == nil {
			r.tell(lost, false)
		}
	}
	switch {
	case won.raise != nil:
		panic(won.raise)
	case won.gone:
		runtime.Goexit()
	case err != nil:
		return err
	}
	return won.err
}

// race is one call.
type race struct {
	*hedge

	call             *core.Call
	next             core.Handler
	outer, ctx       context.Context //nolint:containedctx // it lives as long as the call
	results          chan result
	started, running int
	most             int
}

// run returns the attempt that counts.
func (r *race) run() (won result, err error) {
	if err := r.start(); err != nil {
		return won, err
	}
	timer := time.NewTimer(r.delay)
	defer timer.Stop()
	paid := false // the failure of an attempt has taken the token for the next
	for {
		select {
		case <-timer.C:
			if r.started >= r.most || r.ctx.Err() != nil {
				continue
			}
			if !paid && !r.Budget.Take() {
				r.most = r.started
				continue
			}
			paid = false
			if err := r.start(); err != nil {
				return won, err
			}
			timer.Reset(r.delay)
		case won = <-r.results:
			r.running--
			if won.err == nil && !won.gone {
				r.Budget.Success()
			}
			if won.gone || won.err == nil || r.ctx.Err() != nil || !slices.Contains(r.Codes, core.CodeOf(won.err)) {
				return won, nil
			}
			wait, _, stop := grpcretry.Pushback(won.attempt)
			if paid = r.Budget.Failure(); !paid || stop || wait > r.MaxPushback {
				r.most = r.started
			}
			if r.started >= r.most && r.running == 0 {
				return won, nil
			}
			if deadline, ok := r.ctx.Deadline(); ok && r.running == 0 && time.Until(deadline) <= wait {
				return won, nil // rather than a deadline that says nothing
			}
			r.tell(won, false)
			timer.Reset(wait)
		}
	}
}

// start begins an attempt.
func (r *race) start() error {
	attempt := r.call.NewAttempt()
	if r.started > 0 {
		if err := attempt.RequestHeader().Set(grpcretry.PreviousKey, strconv.Itoa(r.started)); err != nil {
			return err
		}
	}
	r.started++
	r.running++
	go r.try(attempt)
	return nil
}

func (r *race) try(attempt *core.Call) {
	end := result{attempt: attempt, gone: true}
	defer func() {
		if end.gone {
			if value := recover(); value != nil {
				if end.raise, _ = value.(*core.Panic); end.raise == nil {
					end.raise = &core.Panic{Value: value, Stack: debug.Stack()}
				}
			}
		}
		r.results <- end
	}()
	end.err = r.next(r.ctx, attempt)
	end.gone = false
}

// tell tells the hook.
func (r *race) tell(end result, won bool) {
	if r.OnAttempt != nil {
		r.OnAttempt(r.outer, end.attempt, End{end.attempt.Attempt(), end.err, won})
	}
}
