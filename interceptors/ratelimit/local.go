package ratelimit

import (
	"container/list"
	"context"
	"fmt"
	"math"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Local is a [Limiter] of this process: a token bucket for each key.
type Local struct {
	rate  rate.Limit
	burst int
	most  int

	mu    sync.Mutex
	keys  map[string]*list.Element
	order list.List // of *bucket, the one used last in front
}

type bucket struct {
	key    string
	tokens *rate.Limiter
}

// NewLocal returns a limiter of perSecond tokens a second, of which burst can be saved up. It keeps at
// most keys keys, and forgets first the one that was not used for longest, which then has a full bucket again; 0 is 65536.
//
// It returns an error if perSecond is not a positive number, burst is less than 1, or keys is negative.
func NewLocal(perSecond float64, burst, keys int) (*Local, error) {
	switch {
	case !(perSecond > 0) || math.IsInf(perSecond, 0):
		return nil, fmt.Errorf("ratelimit: a rate of %v a second, want a positive number", perSecond)
	case burst < 1:
		return nil, fmt.Errorf("ratelimit: a burst of %d, want 1 at least", burst)
	case keys < 0:
		return nil, fmt.Errorf("ratelimit: room for %d keys", keys)
	case keys == 0:
		keys = 65536
	}
	return &Local{rate: rate.Limit(perSecond), burst: burst, most: keys, keys: map[string]*list.Element{}}, nil
}

// Take implements [Limiter]. It never fails.
func (l *Local) Take(_ context.Context, key string) (time.Duration, error) {
	tokens, now := l.bucket(key), time.Now()
	if tokens.AllowN(now, 1) {
		return 0, nil
	}
	missing := max(0, 1-tokens.TokensAt(now))
	wait := missing / float64(l.rate) * float64(time.Second)
	if wait >= math.MaxInt64 {
		return math.MaxInt64, nil
	}
	return max(1, time.Duration(math.Ceil(wait))), nil
}

func (l *Local) bucket(key string) *rate.Limiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, ok := l.keys[key]; ok {
		l.order.MoveToFront(at)
		return at.Value.(*bucket).tokens
	}
	if l.order.Len() >= l.most {
		oldest := l.order.Back()
		delete(l.keys, oldest.Value.(*bucket).key)
		l.order.Remove(oldest)
	}
	b := &bucket{key, rate.NewLimiter(l.rate, l.burst)}
	l.keys[key] = l.order.PushFront(b)
	return b.tokens
}

// host is an address without its port, in one spelling.
func host(addr string) string {
	if at, err := netip.ParseAddrPort(addr); err == nil {
		return at.Addr().Unmap().String()
	}
	return addr
}

// Len returns how many keys are kept.
func (l *Local) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.order.Len()
}
