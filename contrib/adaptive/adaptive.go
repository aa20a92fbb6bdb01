// Package adaptive is a limit for interceptors/concurrency that finds itself: it grows as long as calls take as long as usual, and
// shrinks when they take longer, which is the sign of a queue somewhere behind.
//
//	limiters, err := adaptive.New(nil)
//	limit, err := concurrency.New(0, &concurrency.Options{Key: concurrency.ByMethod, Limiter: limiters.Limiter})
//
// What is measured is the time of unary calls: see [concurrency.Place]. Streams take places and tell nothing, so that a service of streams
// alone keeps the initial limit.
//
// The limit is that of github.com/failsafe-go/failsafe-go/adaptivelimiter: it compares the recent 90th percentile with a moving
// average of those before it, and looks at how throughput goes along with concurrency.
package adaptive

import (
	"cmp"
	"fmt"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/adaptivelimiter"

	"github.com/rpcweft/weft/interceptors/concurrency"
)

// Options for [New]. The zero value is right.
type Options struct {
	// Min, Initial and Max are limits: where it never falls below, where it starts, where it never grows above. 1, 20 and 200 if they
	// are 0. It never grows above five times the calls that run at once, either.
	Min, Initial, Max int
	// Window is the time, at least, and Samples the number of calls, at least, after which the limit is set anew: 1 s and 50 if they are 0.
	Window  time.Duration
	Samples int
}

// Limiters are the limits of an interceptor, one for each key. They may be used by many goroutines.
type Limiters struct {
	build func() limiter

	mu    sync.Mutex
	byKey map[string]limiter
}

// New returns limiters, for one interceptor: its [concurrency.Options] want the method Limiter.
//
// It returns an error if a number or the window is negative, or if Initial is not between Min and Max.
func New(opts *Options) (*Limiters, error) {
	var o Options
	if opts != nil {
		o = *opts
	}
	for name, n := range map[string]int{"Min": o.Min, "Initial": o.Initial, "Max": o.Max, "Samples": o.Samples, "Window": int(o.Window)} {
		if n < 0 {
			return nil, fmt.Errorf("adaptive: %s is negative: %d", name, n)
		}
	}
	least, most := cmp.Or(o.Min, 1), cmp.Or(o.Max, max(200, o.Min, o.Initial))
	initial := cmp.Or(o.Initial, min(max(20, least), most))
	if initial < least || initial > most {
		return nil, fmt.Errorf("adaptive: limits of %d at least, %d at first and %d at most: want them in this order", least, initial, most)
	}
	window, samples := cmp.Or(o.Window, time.Second), cmp.Or(o.Samples, 50)
	return &Limiters{byKey: map[string]limiter{}, build: func() limiter {
		return limiter{adaptivelimiter.NewBuilder[any]().
			WithLimits(uint(least), uint(most), uint(initial)).
			WithRecentWindow(window, max(30*time.Second, window), uint(samples)).Build()}
	}}, nil
}

// Limiter returns that of a key, and makes it when it is asked for first.
func (l *Limiters) Limiter(key string) concurrency.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	one, ok := l.byKey[key]
	if !ok {
		one = l.build()
		l.byKey[key] = one
	}
	return one
}

// Limits returns the limit of each key at this moment, for metrics.
func (l *Limiters) Limits() map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	limits := map[string]int{}
	for key, one := range l.byKey {
		limits[key] = one.Limit()
	}
	return limits
}

// limiter lets nobody wait: package concurrency has a queue.
type limiter struct {
	adaptivelimiter.AdaptiveLimiter[any]
}

// TryAcquire implements [concurrency.Limiter].
func (l limiter) TryAcquire() (concurrency.Place, bool) { return l.TryAcquirePermit() }
