// Package breaker is a circuit breaker: after too many failures it turns calls away at once, for a time, and then
// tries a few. On clients it spares a server that is down; on servers it sheds load that a dependency cannot bear.
package breaker

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// ErrOpen is in the tree of the error of a call that was turned away: see [errors.Is].
var ErrOpen = errors.New("breaker: the circuit is open")

// maxKeys is how many keys have a breaker of their own.
const maxKeys = 10_000

// State is that of a breaker.
type State string

// The states.
const (
	Closed   State = "closed"    // calls pass
	Open     State = "open"      // calls are turned away
	HalfOpen State = "half_open" // a few calls pass, to see
)

// KeyFunc says which calls share a breaker: those with the same key.
type KeyFunc func(ctx context.Context, call *core.Call) string

// ByMethod is a [KeyFunc]: each method has its own breaker.
func ByMethod(_ context.Context, call *core.Call) string { return call.Method().String() }

// ByService is a [KeyFunc]: each service has its own breaker.
func ByService(_ context.Context, call *core.Call) string { return call.Method().FullService() }

// Options for [New]. The zero value is right.
type Options struct {
	// Key is ByService unless it is set. After 10,000 keys, further ones share a breaker.
	Key KeyFunc
	// Ratio of failures, of MinCalls calls at least that ended within Window, opens the circuit: 0.5, 20 and 10 s unless they are set.
	Ratio    float64
	MinCalls int
	Window   time.Duration
	// Consecutive failures open it too; 0 is any number.
	Consecutive int
	// OpenFor is how long it stays open, 10 s if it is 0. Then up to Probes calls at once may pass, 1 if it is 0: that many successes
	// close it, and one failure opens it again.
	OpenFor time.Duration
	Probes  int
	// Codes are the failures: by default UNAVAILABLE, DEADLINE_EXCEEDED, INTERNAL, UNKNOWN and DATA_LOSS. CANCELED counts as nothing, unless
	// it is here, and gives its probe back. All other codes are the caller's fault and count as successes.
	Codes []core.Code
	// OnChange sees each change of state. The breaker is locked meanwhile: OnChange must not call through it.
	OnChange func(key string, from, to State)
}

// New returns an interceptor for either side. A call that finds the circuit open is turned away with
// UNAVAILABLE, a google.rpc.RetryInfo, and [ErrOpen] in the tree of the error. A stream counts once, at its end. A panic is a failure.
//
// New returns an error if Ratio is not between 0 and 1, a number or a duration is negative, or a code is not one of the sixteen errors.
func New(opts *Options) (core.Interceptor, error) {
	b := &breakers{byKey: map[string]*breaker{}}
	if opts != nil {
		b.Options = *opts
	}
	b.Codes = slices.Clone(b.Codes)
	if len(b.Codes) == 0 {
		b.Codes = []core.Code{core.CodeUnavailable, core.CodeDeadlineExceeded, core.CodeInternal, core.CodeUnknown, core.CodeDataLoss}
	}
	for _, code := range b.Codes {
		if !code.IsError() {
			return nil, fmt.Errorf("breaker: Codes has %s, which is not the code of an error", code)
		}
	}
	if !(b.Ratio >= 0 && b.Ratio <= 1) {
		return nil, fmt.Errorf("breaker: Ratio is %v, want more than 0 and at most 1", b.Ratio)
	}
	const most = 1 << 30
	for name, n := range map[string]int{"MinCalls": b.MinCalls, "Consecutive": b.Consecutive, "Probes": b.Probes} {
		if n < 0 || n > most {
			return nil, fmt.Errorf("breaker: %s is %d, want 0 to %d", name, n, most)
		}
	}
	for name, d := range map[string]time.Duration{"Window": b.Window, "OpenFor": b.OpenFor} {
		if d < 0 {
			return nil, fmt.Errorf("breaker: %s is negative: %v", name, d)
		}
	}
	const longest = math.MaxInt64 / 2 // what is added to them overflows otherwise
	b.Window, b.OpenFor = min(b.Window, longest), min(b.OpenFor, longest)
	if b.Key == nil {
		b.Key = ByService
	}
	if b.Ratio == 0 {
		b.Ratio = 0.5
	}
	if b.MinCalls == 0 {
		b.MinCalls = 20
	}
	if b.Window == 0 {
		b.Window = 10 * time.Second
	}
	if b.OpenFor == 0 {
		b.OpenFor = 10 * time.Second
	}
	b.Probes = max(1, b.Probes)
	return b, nil
}

type breakers struct {
	Options

	mu    sync.RWMutex
	byKey map[string]*breaker
}

type breaker struct {
	*gobreaker.TwoStepCircuitBreaker[struct{}]

	opened atomic.Pointer[time.Time]
}

// errPanic is a failure whatever Codes has.
var errPanic = errors.New("breaker: the call has panicked")

// Intercept implements [core.Interceptor].
func (b *breakers) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	one := b.of(b.Key(ctx, call))
	var done func(error)
	var err error
	if one.State() != gobreaker.StateClosed {
		if done, err = one.Allow(); err != nil {
			return b.reject(one)
		}
	}
	err = errPanic // unless next returns
	defer func() {
		if done == nil {
			one.tell(err)
		} else {
			done(err)
		}
	}()
	err = next(ctx, call)
	return err
}

// tell counts a call that found the circuit closed, when it has ended. gobreaker would count it in the part of the window in which it
// began: what takes longer than the window, as calls of a server that hangs do, would count for nothing.
func (b *breaker) tell(err error) {
	if b.State() != gobreaker.StateClosed {
		return // others have opened it meanwhile
	}
	if done, rejected := b.Allow(); rejected == nil {
		done(err)
	}
}

// reject is the error of a call that was turned away.
func (b *breakers) reject(one *breaker) error {
	wait := time.Second // for probes under way
	if opened := one.opened.Load(); opened != nil {
		wait = max(wait, time.Until(opened.Add(b.OpenFor))+1) // at the very end it is open still
	}
	return errors.Unavailable("the circuit is open").WithCause(ErrOpen).WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(wait)})
}

// of returns the breaker of a key.
func (b *breakers) of(key string) *breaker {
	b.mu.RLock()
	one := b.byKey[key]
	b.mu.RUnlock()
	if one != nil {
		return one
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if one := b.byKey[key]; one != nil {
		return one
	}
	if len(b.byKey) >= maxKeys {
		key = "" // which they share
		if one := b.byKey[key]; one != nil {
			return one
		}
	}
	one = b.make(key)
	b.byKey[key] = one
	return one
}

func (b *breakers) make(key string) *breaker {
	one := &breaker{}
	one.TwoStepCircuitBreaker = gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreaker.Settings{
		Name:         key,
		MaxRequests:  uint32(b.Probes), //nolint:gosec // checked by New
		Interval:     b.Window,
		BucketPeriod: max(1, b.Window/10),
		Timeout:      b.OpenFor,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			ended := c.TotalSuccesses + c.TotalFailures
			return b.Consecutive > 0 && int(c.ConsecutiveFailures) >= b.Consecutive ||
				int(ended) >= b.MinCalls && float64(c.TotalFailures) >= b.Ratio*float64(ended)
		},
		OnStateChange: func(name string, from, to gobreaker.State) {
			if now := time.Now(); to == gobreaker.StateOpen {
				one.opened.Store(&now)
			}
			if b.OnChange != nil {
				b.OnChange(name, state(from), state(to))
			}
		},
		IsSuccessful: func(err error) bool {
			return err != errPanic && !slices.Contains(b.Codes, core.CodeOf(err)) //nolint:errorlint // our own
		},
		IsExcluded: func(err error) bool {
			return core.CodeOf(err) == core.CodeCanceled && !slices.Contains(b.Codes, core.CodeCanceled)
		},
	})
	return one
}

func state(s gobreaker.State) State {
	switch s {
	case gobreaker.StateOpen:
		return Open
	case gobreaker.StateHalfOpen:
		return HalfOpen
	case gobreaker.StateClosed:
	}
	return Closed
}
