package retry

import (
	"fmt"
	"math"
	"sync/atomic"
)

// Budget bounds further attempts by how well calls go: the token bucket of gRPC's retry throttling. Each attempt that failed with a
// code to try again takes a token, and so does a hedge that is sent because the answer takes long; each success brings the ratio of
// one back. While half of the tokens or less are left there are no further attempts: then a service that is down or slow gets
// the first attempts alone. It may be used by many goroutines.
type Budget struct {
	tokens    atomic.Int64 // thousandths
	most, add int64
}

// NewBudget returns a full budget. gRPC takes 1 to 1000 tokens, and a ratio above 0 of which it reads
// three digits; here they are the same, up to a million tokens. [NoBudget] has no bound.
func NewBudget(tokens int, ratio float64) (*Budget, error) {
	const most = 1e6
	if tokens < 1 || tokens > most {
		return nil, fmt.Errorf("retry: a budget of %d tokens: want 1 to 1000000", tokens)
	}
	add := math.Round(ratio * 1000)
	if !(add >= 1 && add <= most*1000) {
		return nil, fmt.Errorf("retry: a budget whose ratio is %v: want 0.001 at least", ratio)
	}
	b := &Budget{most: int64(tokens) * 1000, add: int64(add)}
	b.tokens.Store(b.most)
	return b, nil
}

// NoBudget returns a budget without a bound.
func NoBudget() *Budget { return &Budget{} }

// Success counts a success. It is for interceptors that make attempts.
func (b *Budget) Success() {
	for {
		have := b.tokens.Load()
		if have >= b.most || b.tokens.CompareAndSwap(have, min(have+b.add, b.most)) {
			return
		}
	}
}

// Failure counts an attempt that failed with a code to try again, and reports whether there may be another one.
func (b *Budget) Failure() bool {
	for b.most > 0 {
		have := b.tokens.Load()
		if left := max(0, have-1000); b.tokens.CompareAndSwap(have, left) {
			return left > b.most/2
		}
	}
	return true
}

// Take takes a token for an attempt beside others that have not failed, if there may be one.
func (b *Budget) Take() bool {
	for b.most > 0 {
		have := b.tokens.Load()
		if have-1000 <= b.most/2 {
			return false
		}
		if b.tokens.CompareAndSwap(have, have-1000) {
			return true
		}
	}
	return true
}
