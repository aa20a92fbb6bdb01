package parity

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/rpctest"
)

// A handler that waits for a message hears of a context that an interceptor has made shorter, which neither stack sees to.
func TestAReceiveOfAHandlerEndsWithItsContext(t *testing.T) {
	const limit = time.Hour
	for _, path := range rpctest.Paths() {
		for _, shape := range []core.Shape{core.ShapeClientStream, core.ShapeBidiStream} {
			// With HTTP/1.1 the handler is let out too, but net/http does not end the response while somebody reads the request.
			if !path.Can(shape) || path.HTTP == 1 {
				continue
			}
			t.Run(fmt.Sprint(path, "/", shape), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var took time.Duration
					var saw error
					requests := 0
					limited := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
						start := time.Now()
						ctx, cancel := context.WithTimeout(ctx, limit)
						defer cancel()
						call.OnRequest(func(context.Context, any) error {
							requests++
							return nil
						})
						saw = next(ctx, call)
						took = time.Since(start)
						return saw
					})
					servers := rpctest.NewServers(t, &rpctest.Options{Server: []core.Interceptor{limited}})
					s, err := servers.Client(path, shape).Open(t.Context())
					if err != nil {
						t.Fatal(err)
					}
					for range 3 {
						if err := s.Send("a"); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(limit)
					synctest.Wait()
					if core.CodeOf(saw) != core.CodeDeadlineExceeded || took != limit || requests != 3 {
						t.Errorf("after %v and %d requests next returned: %v", took, requests, saw)
					}
					for err == nil {
						_, err = s.Receive()
					}
					if core.CodeOf(err) != core.CodeDeadlineExceeded {
						t.Errorf("the application got: %v", err)
					}
					_ = s.Close()
					servers.Close()
					time.Sleep(time.Hour) // what is let go of later
				})
			})
		}
	}
}
