package retry

import (
	"fmt"
	"math"
	"sync/atomic"
)

// Budget bounds retries by how well calls go: the token bucket of gRPC's retry throttling. Each attempt that failed with a
// code to try again takes a token, each success brings the ratio of one back. While half of the tokens or
// less are left there are no retries: then a service that is down gets the first attempts alone. It may be
// used by many goroutines.
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

// deposit counts a success.
func (b *Budget) deposit() {
	for {
		have := b.tokens.Load()
		if have >= b.most || b.tokens.CompareAndSwap(have, min(have+b.add, b.most)) {
			return
		}
	}
}

// withdraw counts a failure, and reports whether there may be a retry.
func (b *Budget) withdraw() bool {
	if b.most == 0 {
		return true
	}
	for {
		have := b.tokens.Load()
		left := max(0, have-1000)
		if b.tokens.CompareAndSwap(have, left) {
			return left > b.most/2
		}
	}
}
