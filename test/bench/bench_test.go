// Package bench compares Weft's resilience batteries with their counterparts in failsafe-go and go-grpc-middleware:
//
//	go test -run '^$' -bench . ./...
//
// Each is a unary client interceptor of grpc-go here, because that is what all of them can be. The RPC inside does nothing: what is
// measured is the interceptor alone.
package bench

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/bulkhead"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/failsafegrpc"
	failsafefallback "github.com/failsafe-go/failsafe-go/fallback"
	"github.com/failsafe-go/failsafe-go/hedgepolicy"
	"github.com/failsafe-go/failsafe-go/ratelimiter"
	failsafetimeout "github.com/failsafe-go/failsafe-go/timeout"
	middlewarerate "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/ratelimit"
	middlewareretry "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/retry"
	middlewaretimeout "github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/timeout"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/interceptors/breaker"
	"github.com/rpcweft/weft/interceptors/concurrency"
	"github.com/rpcweft/weft/interceptors/fallback"
	"github.com/rpcweft/weft/interceptors/hedge"
	"github.com/rpcweft/weft/interceptors/ratelimit"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/interceptors/timeout"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

type result = *dummyv1.DummyResponse

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func weft(policy ...core.Interceptor) grpc.UnaryClientInterceptor {
	return grpcx.UnaryClientInterceptor(policy...)
}

func safe(policies ...failsafe.Policy[result]) grpc.UnaryClientInterceptor {
	return failsafegrpc.NewUnaryClientInterceptor(policies...)
}

func all(*core.Call) bool { return true }

// bucket is go-grpc-middleware's kind of limiter, over the library that Weft uses too.
type bucket struct{ *rate.Limiter }

func (b bucket) Limit(context.Context) error {
	if !b.Allow() {
		return errors.New("exceeded")
	}
	return nil
}

// contest is one thing to do. Each call fails so often with UNAVAILABLE before it succeeds.
type contest struct {
	name     string
	failures int
	rivals   map[string]grpc.UnaryClientInterceptor
}

func contests() []contest {
	retries := func() map[string]grpc.UnaryClientInterceptor {
		return map[string]grpc.UnaryClientInterceptor{
			"weft":       weft(must(retry.New(3, &retry.Options{Methods: all, Backoff: 1, MaxBackoff: 1, Budget: retry.NoBudget()}))),
			"failsafe":   safe(failsafegrpc.NewRetryPolicyBuilder[result]().WithMaxRetries(2).Build()),
			"middleware": middlewareretry.UnaryClientInterceptor(middlewareretry.WithMax(3), middlewareretry.WithCodes(codes.Unavailable), middlewareretry.WithBackoff(func(context.Context, uint) time.Duration { return 0 })),
		}
	}
	return []contest{
		{"nothing", 0, map[string]grpc.UnaryClientInterceptor{"weft": weft(), "failsafe": safe()}},
		{"timeout", 0, map[string]grpc.UnaryClientInterceptor{
			"weft":       weft(must(timeout.New(time.Hour, nil))),
			"failsafe":   safe(failsafetimeout.New[result](time.Hour)),
			"middleware": middlewaretimeout.UnaryClientInterceptor(time.Hour),
		}},
		{"retry, not needed", 0, retries()},
		{"retry, 2 failures", 2, retries()},
		{"hedge, not needed", 0, map[string]grpc.UnaryClientInterceptor{
			"weft":     weft(must(hedge.New(time.Hour, &hedge.Options{Methods: all}))),
			"failsafe": safe(hedgepolicy.NewWithDelay[result](time.Hour)),
		}},
		{"breaker, closed", 0, map[string]grpc.UnaryClientInterceptor{
			"weft":     weft(must(breaker.New(nil))),
			"failsafe": safe(circuitbreaker.NewBuilder[result]().WithFailureRateThreshold(0.5, 20, 10*time.Second).Build()),
		}},
		{"ratelimit", 0, map[string]grpc.UnaryClientInterceptor{
			"weft":       weft(must(ratelimit.New(must(ratelimit.NewLocal(1e9, 1e6, 0)), nil))),
			"failsafe":   safe(ratelimiter.NewBursty[result](1e9, time.Millisecond)),
			"middleware": middlewarerate.UnaryClientInterceptor(bucket{rate.NewLimiter(1e9, 1e6)}),
		}},
		{"concurrency", 0, map[string]grpc.UnaryClientInterceptor{
			"weft":     weft(must(concurrency.New(10, nil))),
			"failsafe": safe(bulkhead.New[result](10)),
		}},
		{"fallback, not needed", 0, map[string]grpc.UnaryClientInterceptor{
			"weft":     weft(must(fallback.New(func(context.Context, *core.Call, error) (proto.Message, error) { return &dummyv1.DummyResponse{}, nil }, nil))),
			"failsafe": safe(failsafefallback.NewWithResult(&dummyv1.DummyResponse{})),
		}},
		{"timeout, retry, breaker", 0, map[string]grpc.UnaryClientInterceptor{
			"weft": weft(must(timeout.New(time.Hour, nil)), must(retry.New(3, &retry.Options{Methods: all})), must(breaker.New(nil))),
			"failsafe": safe(failsafetimeout.New[result](time.Hour), failsafegrpc.NewRetryPolicyBuilder[result]().Build(),
				circuitbreaker.NewBuilder[result]().WithFailureRateThreshold(0.5, 20, 10*time.Second).Build()),
		}},
	}
}

// rpc returns a call that fails as often as the contest wants.
func (c contest) rpc(i grpc.UnaryClientInterceptor) (call func() error, reached *int) {
	down := status.Error(codes.Unavailable, "down")
	request, reply, reached := &dummyv1.DummyRequest{}, &dummyv1.DummyResponse{}, new(int)
	invoker := func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error {
		if *reached++; (*reached-1)%(c.failures+1) < c.failures {
			return down
		}
		return nil
	}
	return func() error {
		return i(context.Background(), dummyv1.DummyService_Execute_FullMethodName, request, reply, nil, invoker)
	}, reached
}

func Benchmark(b *testing.B) {
	for _, c := range contests() {
		for name, rival := range c.rivals {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				call, _ := c.rpc(rival)
				b.ReportAllocs()
				for b.Loop() {
					if err := call(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// All of them do what is compared.
func TestContests(t *testing.T) {
	for _, c := range contests() {
		for name, rival := range c.rivals {
			call, reached := c.rpc(rival)
			for n := 1; n <= 10; n++ {
				if err := call(); err != nil || *reached != n*(c.failures+1) {
					t.Fatalf("%s, %s: call %d after %d attempts: %v", c.name, name, n, *reached, err)
				}
			}
		}
	}
}
