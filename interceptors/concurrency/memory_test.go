package concurrency

import (
	"context"
	"fmt"
	"testing"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/rpctest"
)

func TestKeysThatNobodyUsesAreForgotten(t *testing.T) {
	n := 0
	policy, err := New(1, &Options{Key: func(context.Context, *core.Call) string { n++; return fmt.Sprint(n) }})
	if err != nil {
		t.Fatal(err)
	}
	l := policy.(*limiter)
	for range 1000 {
		call := rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error {
			if len(l.gates) != 1 {
				t.Errorf("%d keys while one call runs", len(l.gates))
			}
			return nil
		}})
		if err := call.Run(t.Context(), policy); err != nil {
			t.Fatal(err)
		}
	}
	if len(l.gates) != 0 {
		t.Errorf("%d keys are left", len(l.gates))
	}
}
