//go:build !race

package bench

import (
	"fmt"
	"testing"
)

// grpc-go composes its chain anew for each call; Weft does it once, and is ahead from three interceptors on.
func TestWeftAllocatesLessThanGRPCsOwnChainFromThreeOn(t *testing.T) {
	for _, p := range paths {
		if p.name != "grpc/server/unary" && p.name != "grpc/client/unary" && p.name != "grpc/server/stream" && p.name != "grpc/call/unary" {
			continue
		}
		for _, n := range lengths {
			t.Run(fmt.Sprintf("%s/%d", p.name, n), func(t *testing.T) {
				native, weft := allocs(t, p.native(t, n)), allocs(t, p.weft(t, n))
				t.Logf("native %v, weft %v", native, weft)
				if weft > native+1 || n >= 3 && weft >= native {
					t.Errorf("weft makes %v allocations, a native chain %v", weft, native)
				}
			})
		}
	}
}

// allocs is the least that several measurements find: what is more is noise.
func allocs(t *testing.T, rpc func() error) float64 {
	t.Helper()
	least := 1e9
	for range 5 {
		least = min(least, testing.AllocsPerRun(300, func() {
			if err := rpc(); err != nil {
				t.Fatal(err)
			}
		}))
	}
	return least
}
