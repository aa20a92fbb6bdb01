//go:build !race

package bench

import (
	"context"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/interceptors/breaker"
	"github.com/rpcweft/weft/interceptors/concurrency"
	"github.com/rpcweft/weft/interceptors/hedge"
	"github.com/rpcweft/weft/interceptors/ratelimit"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/interceptors/timeout"
	"github.com/rpcweft/weft/rpctest"
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// idle are policies that have nothing to do for a call.
func idle() map[string]core.Interceptor {
	rate := must(ratelimit.NewLocal(1e9, 1e6, 0))
	return map[string]core.Interceptor{
		"timeout, none for the method": must(timeout.New(0, &timeout.Options{Methods: map[string]time.Duration{"other.Service": time.Hour}})),
		"retry, not to be repeated":    must(retry.New(3, &retry.Options{Methods: core.MatchService("other.Service")})),
		"hedge, not to be repeated":    must(hedge.New(time.Hour, &hedge.Options{Methods: core.MatchService("other.Service")})),
		"breaker":                      must(breaker.New(nil)),
		"concurrency":                  must(concurrency.New(10, nil)),
		"concurrency by method":        must(concurrency.New(10, &concurrency.Options{Key: concurrency.ByMethod})),
		"ratelimit":                    must(ratelimit.New(rate, nil)),
		"ratelimit by peer":            must(ratelimit.New(rate, &ratelimit.Options{Key: ratelimit.ByPeer})),
	}
}

func connectChain(i core.Interceptor) func(int) []connect.Interceptor {
	return func(int) []connect.Interceptor { return []connect.Interceptor{connectx.New(i)} }
}

// policyPaths make one RPC through a policy, with the response at hand.
func policyPaths(tb testing.TB) map[string]func(i core.Interceptor) func() error {
	tb.Helper()
	return map[string]func(i core.Interceptor) func() error{
		"grpc/client/unary": func(i core.Interceptor) func() error {
			_, conn := startGRPC(tb, grpcx.DialOptions(i))
			return invoke(conn)
		},
		"grpc/client/stream": func(i core.Interceptor) func() error { return grpcClientStream(tb, grpcx.DialOptions(i)...) },
		"grpc/server/unary":  func(i core.Interceptor) func() error { return grpcServer(tb, grpcx.ServerOptions(i)...) },
		"grpc/server/stream": func(i core.Interceptor) func() error { return grpcServerStream(grpcx.StreamServerInterceptor(i)) },
		"connect/client/unary": func(i core.Interceptor) func() error {
			handler := connect.NewUnaryHandler(procedure, func(context.Context, *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
				return connect.NewResponse(reply), nil
			})
			c := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](inProcess{handler}, "http://test"+procedure, connect.WithInterceptors(connectx.New(i)))
			return func() error {
				_, err := c.CallUnary(context.Background(), connect.NewRequest(request))
				return err
			}
		},
		"connect/client/stream": func(i core.Interceptor) func() error { return connectClientStream(connectChain(i))(tb, 1) },
		"connect/server/unary":  func(i core.Interceptor) func() error { return connectUnary(false, connectChain(i))(tb, 1) },
		"connect/server/stream": func(i core.Interceptor) func() error { return connectServerStream(connectChain(i))(tb, 1) },
	}
}

func TestAnIdlePolicyCostsTwoAllocationsAtMost(t *testing.T) {
	for path, build := range policyPaths(t) {
		bare := allocs(t, build(noops(1)[0]))
		for name, policy := range idle() {
			if got := allocs(t, build(policy)) - bare; got > 2 {
				t.Errorf("%s, %s: %v allocations", path, name, got)
			}
		}
	}
}

// What may be repeated costs what an attempt of its own does, the first one too.
func TestAnAttemptCostsAFixedNumberOfAllocations(t *testing.T) {
	again, twice := must(retry.New(3, &retry.Options{Methods: all})), must(hedge.New(time.Hour, &hedge.Options{Methods: all}))
	most := map[string][2]float64{ // retry, hedge
		"grpc/client/unary": {2, 14}, "grpc/client/stream": {3, 0}, "connect/client/unary": {4, 13}, "connect/client/stream": {5, 0},
		"grpc/server/unary": {}, "grpc/server/stream": {}, "connect/server/unary": {}, "connect/server/stream": {},
	}
	for path, build := range policyPaths(t) {
		bare := allocs(t, build(noops(1)[0]))
		for i, policy := range []core.Interceptor{again, twice} {
			got := allocs(t, build(policy)) - bare
			t.Logf("%s, %s: %v", path, [2]string{"retry", "hedge"}[i], got)
			if got > most[path][i] {
				t.Errorf("%s, %s: %v allocations, want %v at most", path, [2]string{"retry", "hedge"}[i], got, most[path][i])
			}
		}
	}
}

// A server's stream with a limit has a goroutine that receives for it.
func TestWhatALimitOfTimeCostsAServer(t *testing.T) {
	limit := must(timeout.New(time.Hour, nil))
	most := map[string]float64{"grpc/server/unary": 4, "grpc/server/stream": 12, "connect/server/unary": 4, "connect/server/stream": 12}
	for path, build := range policyPaths(t) {
		if want, ok := most[path]; ok {
			if got := allocs(t, build(limit)) - allocs(t, build(noops(1)[0])); got > want {
				t.Errorf("%s: %v allocations, want %v at most", path, got, want)
			}
		}
	}
}

func all(*core.Call) bool { return true }

func TestAMessageThroughAPolicyCostsNoAllocation(t *testing.T) {
	policies := idle()
	policies["timeout per message"] = must(timeout.New(time.Hour, &timeout.Options{PerMessage: true}))
	policies["ratelimit per message"] = must(ratelimit.New(must(ratelimit.NewLocal(1e9, 1e9, 0)), &ratelimit.Options{PerMessage: true}))
	for name, policy := range policies {
		chain := core.NewChain(policy)
		measure := func(messages int) float64 {
			fake := rpctest.Fake{Shape: core.ShapeBidiStream}
			for range messages {
				fake.Requests, fake.Responses = append(fake.Requests, request), append(fake.Responses, reply)
			}
			return allocs(t, func() error { return chain.Handler()(context.Background(), &rpctest.Call(fake).Call) })
		}
		if few, many := measure(1), measure(1001); many > few {
			t.Errorf("%s: 2000 messages cost %v allocations", name, many-few)
		}
	}
}
