package rpctest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/rpctest"
)

func TestEchoAndFailureOnEveryPath(t *testing.T) {
	rec := &rpctest.Recorder{}
	ic := []core.Interceptor{rec.Interceptor("a"), rec.Interceptor("b")}
	rpctest.Run(t, &rpctest.Options{Server: append([]core.Interceptor{errors.NewInterceptor(nil)}, ic...), Client: ic}, func(t *testing.T, c *rpctest.Client) {
		rec.Reset()
		res := c.With("x-echo-a", "1").With("x-echo-b-bin", "\x00\xff").Call(t.Context(), "metadata")
		if res.Err != nil || strings.Join(res.Outputs, "") != "metadata" {
			t.Error(res)
		}
		t.Log(res)
		res = c.With("x-echo-a", "1").With("x-echo-b-bin", "\x00\xff").Call(t.Context(), "metadata-fail:not_found")
		if core.CodeOf(res.Err) != core.CodeNotFound || len(errors.Details(res.Err)) != 1 {
			t.Error(res)
		}
		t.Log(res)
		for _, in := range []string{"panic", "plain"} {
			if res = c.Call(t.Context(), in); !core.CodeOf(res.Err).IsError() {
				t.Error(res)
			}
			t.Log(res)
		}
		if err := rec.Wait(5 * time.Second); err != nil {
			t.Error(err)
		}
	})
}
