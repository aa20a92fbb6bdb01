//go:build !race

package bench

import (
	"math"
	"testing"
)

// What docs/resilience.md says of Weft's allocations.
func TestAllocations(t *testing.T) {
	want := map[string]float64{
		"nothing": 1, "timeout": 5, "retry, not needed": 3, "retry, 2 failures": 27, "hedge, not needed": 12, "breaker, closed": 2,
		"ratelimit": 1, "concurrency": 1, "fallback, not needed": 1, "timeout, retry, breaker": 8,
	}
	for _, c := range contests() {
		call, _ := c.rpc(c.rivals["weft"])
		least := math.Inf(1)
		for range 5 {
			least = min(least, testing.AllocsPerRun(300, func() {
				if err := call(); err != nil {
					t.Fatal(err)
				}
			}))
		}
		if least > want[c.name] {
			t.Errorf("%s: %v allocations, want %v at most", c.name, least, want[c.name])
		}
	}
}
