// Package concurrency bounds how many RPCs run at once: on servers, to do well what can be done and to turn the rest
// away early; on clients, to spare a server. A stream holds its place from its opening to its end.
package concurrency

import (
	"context"
	"fmt"
	"slices"
	"sync"
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

// Options for [New]. The zero value is right.
type Options struct {
	// Key is what the limit is for, ByMethod or a function of your own: each key has a limit and a queue of its own. Nil is one limit for
	// all calls. A key is forgotten when none of its calls runs or waits.
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
// New returns an error if limit is less than 1, and if Queue, MaxWait or RetryAfter is negative.
func New(limit int, opts *Options) (core.Interceptor, error) {
	l := &limiter{limit: limit, gates: map[string]*gate{}}
	if opts != nil {
		l.Options = *opts
	}
	switch {
	case limit < 1:
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
		l.single = &gate{users: 1} // which is never forgotten
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
	users   int // calls that run or wait
	running int
	waiting []chan struct{} // each closed by whoever hands a place on
}

// Intercept implements [core.Interceptor].
func (l *limiter) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	key := ""
	if l.Key != nil {
		key = l.Key(ctx, call)
	}
	g, err := l.enter(ctx, key)
	if err != nil {
		if l.OnReject != nil && err == l.rejection { //nolint:errorlint // our own
			l.OnReject(ctx, call)
		}
		return err
	}
	defer l.leave(key, g)
	return next(ctx, call)
}

// enter returns with a place, or with an error.
func (l *limiter) enter(ctx context.Context, key string) (*gate, error) {
	l.mu.Lock()
	g := l.single
	if g == nil {
		if g = l.gates[key]; g == nil {
			g = &gate{}
			l.gates[key] = g
		}
	}
	if g.running < l.limit {
		g.running++
		g.users++
		l.mu.Unlock()
		return g, nil
	}
	if len(g.waiting) >= l.Queue {
		l.mu.Unlock()
		return nil, l.rejection
	}
	place := make(chan struct{})
	g.waiting = append(g.waiting, place)
	g.users++
	l.mu.Unlock()
	if err := l.wait(ctx, place); err != nil {
		l.giveUp(key, g, place)
		return nil, err
	}
	return g, nil
}

func (l *limiter) wait(ctx context.Context, place <-chan struct{}) error {
	var late <-chan time.Time
	if l.MaxWait > 0 {
		timer := time.NewTimer(l.MaxWait)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-place:
		return nil
	case <-late:
		return l.rejection
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveUp leaves the queue. A place that came meanwhile goes on to the next.
func (l *limiter) giveUp(key string, g *gate, place chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(g.waiting, place); i >= 0 {
		g.waiting = slices.Delete(g.waiting, i, i+1)
	} else {
		g.handOn()
	}
	l.drop(key, g)
}

// leave frees the place of a call that has ended.
func (l *limiter) leave(key string, g *gate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	g.handOn()
	l.drop(key, g)
}

// handOn gives a place to whoever waits for it longest.
func (g *gate) handOn() {
	if len(g.waiting) == 0 {
		g.running--
		return
	}
	close(g.waiting[0])
	g.waiting = slices.Delete(g.waiting, 0, 1)
}

// drop forgets a key that nobody uses.
func (l *limiter) drop(key string, g *gate) {
	if g.users--; g.users == 0 {
		delete(l.gates, key)
	}
}
