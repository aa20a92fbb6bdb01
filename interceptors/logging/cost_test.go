//go:build !race

package logging_test

import (
	"context"
	"testing"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/rpctest"
)

func TestAPlainRecordCostsSixAllocationsAtMost(t *testing.T) {
	all := chains()
	for _, shape := range rpctest.Shapes() {
		measure := func(name string, messages int) float64 {
			msgs := make([]any, messages)
			for i := range msgs {
				msgs[i] = &struct{}{}
			}
			fake := rpctest.Fake{Shape: shape, Requests: msgs, Responses: msgs, Peer: core.Peer{Addr: "192.0.2.1:443"}}
			return testing.AllocsPerRun(200, func() { _ = all[name].Handler()(context.Background(), &rpctest.Call(fake).Call) })
		}
		if got := measure("with", 1) - measure("bare", 1); got > 6 {
			t.Errorf("%s: %v allocations, want 6 at most", shape, got)
		}
		if one, many := measure("with", 1), measure("with", 11); many != one {
			t.Errorf("%s: %v allocations for each message", shape, (many-one)/10)
		}
	}
}
