// Package concurrency bounds how many RPCs run at once: on servers, to do well what can be done and to turn the rest
// away early; on clients, to spare a server. A stream holds its place from its opening to its end.
package concurrency

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// ErrLimit is in the tree of the error of a call that was turned away: see [errors.Is].
var ErrLimit = errors.New("concurrency: too many calls at once")

// KeyFunc says which calls share a limit: those with the same key.
type KeyFunc func(ctx context.Context, call *core.Call) string

// ByMethod is a [KeyFunc]: each method has its own limit.
func ByMethod(_ context.Context, call *core.Call) string { return call.Method().String() }

// ByService is a [KeyFunc]: each service has its own limit.
func ByService(_ context.Context, call *core.Call) string { return call.Method().FullService() }

// maxKeys is how many keys have a [Limiter] of their own.
const maxKeys = 10_000

// Limiter is a limit that changes with what it learns of the calls. Module contrib/adaptive has one. It is called by many goroutines
// at once.
type Limiter interface {
	// TryAcquire takes a place, without waiting, or reports that there is none. When no place is taken there must be one:
	// calls that wait are asked about again when others end, and by nothing else. So no two interceptors may share a limiter.
	TryAcquire() (Place, bool)
}

// Place is that of one call. One of its methods is called, once, when the call has ended: a panic is an end, too.
type Place interface {
	// Record frees the place of a call whose duration says how busy the service is: a unary call that has
	// succeeded, or whose deadline has passed (of which a server may hear as a cancellation). The time in the queue comes before the place.
	Record()
	// Drop frees the place of any other call: how long a stream lives is up to those who talk, a failure may be quick
	// because nothing was done, and a call may be canceled at any time.
	Drop()
}

// Options for [New]. The zero value is right.
type Options struct {
	// Limiter returns the limiter of a key, in place of a fixed limit, when the key is seen first; without Key it is "". It is called
	// once for each key, under a lock, and must not return nil. Keys are not forgotten then; after 10,000, further ones share a limiter.
	Limiter func(key string) Limiter
	// Key is what the limit is for, ByMethod or a function of your own: each key has a limit and a queue of its own. Nil is one limit for
	// all calls. A key is forgotten when none of its calls runs or waits, unless there is a Limiter.
	Key KeyFunc
	// Queue is how many calls may wait for a place, first come, first served. 0 turns away at once.
	Queue int
	// MaxWait is how long a call waits at most, 0 as long as its context lets it.
	MaxWait time.Duration
	// RetryAfter is what a call that is turned away is told to wait before it tries again: 1 s if it is 0.
	RetryAfter time.Duration
	// OnReject sees each call that is turned away, to count it. It is called by many goroutines at once.
	OnReject func(ctx context.Context, call *core.Call)
}

// New returns an interceptor, for either side, that lets at most limit calls run at once. What is too much is turned
// away with RESOURCE_EXHAUSTED, a google.rpc.RetryInfo, and [ErrLimit] in the tree of the error. A call whose context ends while it waits fails
// with that. The place is free again when the call has ended, however: also by a panic.
//
// With [Options.Limiter] limit must be 0. New returns an error if it is less than 1 otherwise, and if Queue, MaxWait or RetryAfter
// is negative.
func New(limit int, opts *Options) (core.Interceptor, error) {
	l := &limiter{limit: limit, gates: map[string]*gate{}}
	if opts != nil {
		l.Options = *opts
	}
	switch {
	case l.Limiter != nil && limit != 0:
		return nil, fmt.Errorf("concurrency: a limit of %d calls beside a Limiter: want 0, or no Limiter", limit)
	case l.Limiter == nil && limit < 1:
		return nil, fmt.Errorf("concurrency: a limit of %d calls, want 1 at least", limit)
	case l.Queue < 0:
		return nil, fmt.Errorf("concurrency: Queue is negative: %d", l.Queue)
	case l.MaxWait < 0:
		return nil, fmt.Errorf("concurrency: MaxWait is negative: %v", l.MaxWait)
	case l.RetryAfter < 0:
		return nil, fmt.Errorf("concurrency: RetryAfter is negative: %v", l.RetryAfter)
	case l.RetryAfter == 0:
		l.RetryAfter = time.Second
	}
	if l.Key == nil {
		l.single = l.makeGate("")
		l.single.users = 1 // it is never forgotten
	}
	l.rejection = errors.ResourceExhausted("too many calls at once").WithCause(ErrLimit).
		WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(l.RetryAfter)})
	return l, nil
}

type limiter struct {
	Options

	limit     int
	rejection error

	mu     sync.Mutex
	gates  map[string]*gate // by key, of calls that run or wait
	single *gate            // without keys
}

// gate is the limit of one key.
type gate struct {
	limiter Limiter
	fixed   fixed
	users   int          // calls that run or wait
	waiting []chan Place // each gets its place from whoever hands it on
}

// fixed is the [Limiter] of a number, and all its places.
type fixed struct {
	limit   int64
	running atomic.Int64
}

// TryAcquire implements [Limiter]. It is called under the lock.
func (f *fixed) TryAcquire() (Place, bool) {
	if f.running.Add(1) > f.limit {
		f.Drop()
		return nil, false
	}
	return f, true
}

// Record implements [Place].
func (f *fixed) Record() { f.Drop() }

// Drop implements [Place].
func (f *fixed) Drop() { f.running.Add(-1) }

func (l *limiter) makeGate(key string) *gate {
	g := &gate{}
	g.fixed.limit = int64(l.limit)
	if g.limiter = &g.fixed; l.Limiter != nil {
		if g.limiter = l.Limiter(key); g.limiter == nil {
			panic(fmt.Sprintf("concurrency: Options.Limiter returned nil for key %q", key))
		}
		g.users = 1 // it is never forgotten
	}
	return g
}

// Intercept implements [core.Interceptor].
func (l *limiter) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	key := ""
	if l.Key != nil {
		key = l.Key(ctx, call)
	}
	g, place, err := l.enter(ctx, key)
	if err != nil {
		if l.OnReject != nil && err == l.rejection { //nolint:errorlint // our own
			l.OnReject(ctx, call)
		}
		return err
	}
	telling := false // unless next returns
	defer func() {
		if telling {
			place.Record()
		} else {
			place.Drop()
		}
		l.leave(key, g)
	}()
	err = next(ctx, call)
	code := core.CodeOf(err)
	telling = call.Shape() == core.ShapeUnary && (code == core.CodeOK || code == core.CodeDeadlineExceeded)
	return err
}

// enter returns with a place, or with an error.
func (l *limiter) enter(ctx context.Context, key string) (*gate, Place, error) {
	g, place, handed := l.ask(key)
	switch {
	case place != nil:
		return g, place, nil
	case handed == nil:
		return nil, nil, l.rejection
	}
	place, err := l.wait(ctx, handed)
	if err != nil {
		l.giveUp(key, g, handed)
	}
	return g, place, err
}

// ask returns a place, or where it will be handed over, or neither.
func (l *limiter) ask(key string) (g *gate, place Place, handed chan Place) {
	l.mu.Lock()
	defer l.mu.Unlock() // also when a Limiter panics
	g = l.gate(key)
	if len(g.waiting) == 0 {
		if place, ok := g.limiter.TryAcquire(); ok {
			g.users++
			return g, place, nil
		}
	}
	if len(g.waiting) < l.Queue {
		handed = make(chan Place, 1)
		g.waiting = append(g.waiting, handed)
		g.users++
	}
	return g, nil, handed
}

// gate returns that of a key. The lock is held.
func (l *limiter) gate(key string) *gate {
	if l.single != nil {
		return l.single
	}
	g := l.gates[key]
	if g == nil && l.Limiter != nil && len(l.gates) >= maxKeys {
		key = "" // which they share
		g = l.gates[key]
	}
	if g == nil {
		g = l.makeGate(key)
		l.gates[key] = g
	}
	return g
}

func (l *limiter) wait(ctx context.Context, handed <-chan Place) (Place, error) {
	var late <-chan time.Time
	if l.MaxWait > 0 {
		timer := time.NewTimer(l.MaxWait)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case place := <-handed:
		return place, nil
	case <-late:
		return nil, l.rejection
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// giveUp leaves the queue. A place that came meanwhile goes on to the next.
func (l *limiter) giveUp(key string, g *gate, handed chan Place) {
	l.mu.Lock()
	i := slices.Index(g.waiting, handed)
	if i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	}
	l.mu.Unlock()
	if i < 0 {
		(<-handed).Drop()
	}
	l.leave(key, g)
}

// leave is the end of a call that has freed its place: what is free goes to those who wait longest.
func (l *limiter) leave(key string, g *gate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(g.waiting) > 0 {
		place, ok := g.limiter.TryAcquire()
		if !ok {
			break
		}
		g.waiting[0] <- place
		g.waiting = slices.Delete(g.waiting, 0, 1)
	}
	if g.users--; g.users == 0 {
		delete(l.gates, key) // nobody uses it
	}
}
