package docs

import (
	"context"
	"crypto/subtle"
	"log/slog"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/rpctest"
)

func Timing(record func(method core.Method, took time.Duration, code core.Code)) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		start := time.Now()
		err := next(ctx, call)
		record(call.Method(), time.Since(start), core.CodeOf(err))
		return err
	})
}

func TestGuideTiming(t *testing.T) {
	var calls, failed int
	timing := Timing(func(_ core.Method, took time.Duration, code core.Code) {
		calls++
		if code != core.CodeOK {
			failed++
		}
	})
	call := rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error { return errors.Aborted("no") }})
	if err := call.Run(t.Context(), timing); core.CodeOf(err) != core.CodeAborted || calls != 1 || failed != 1 {
		t.Error(err, calls, failed)
	}
}

// Auth lets pass only who knows the token.
func Auth(token string) (core.Interceptor, error) {
	if token == "" {
		return nil, errors.New("auth: the token is empty, so that everybody would know it")
	}
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		got := call.RequestHeader().Values("authorization")
		if len(got) != 1 || subtle.ConstantTimeCompare([]byte(got[0]), []byte("Bearer "+token)) != 1 {
			return errors.Unauthenticated("a valid bearer token is needed")
		}
		return next(ctx, call)
	}), nil
}

func TestAuthOnEveryStack(t *testing.T) {
	auth, err := Auth("secret")
	if err != nil {
		t.Fatal(err)
	}
	rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{auth}}, func(t *testing.T, c *rpctest.Client) {
		if res := c.Call(t.Context(), "hi"); core.CodeOf(res.Err) != core.CodeUnauthenticated {
			t.Errorf("without a token: %v", res)
		}
		if res := c.With("authorization", "Bearer secret").Call(t.Context(), "hi"); res.Err != nil {
			t.Errorf("with the token: %v", res)
		}
	})
}

func TestGuideSnippets(t *testing.T) {
	type userKey struct{}
	lookup := func(string) string { return "ann" }
	withUser := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		user := lookup(call.RequestHeader().Get("x-session"))
		return next(context.WithValue(ctx, userKey{}, user), call)
	})
	const limit = time.Second
	timeout := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return next(ctx, call)
	})
	id := "7"
	requestID := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if err := call.ResponseHeader().Set("x-request-id", id); err != nil {
			return err
		}
		err := next(ctx, call)
		if problem := call.ResponseTrailer().Set("x-code", core.CodeOf(err).String()); problem != nil {
			slog.WarnContext(ctx, "trailer", "error", problem)
		}
		return err
	})
	var sent, received int
	measure := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(func(_ context.Context, msg any) error {
			if msg, ok := msg.(proto.Message); ok {
				received += proto.Size(msg)
			}
			return nil
		})
		call.OnResponse(func(_ context.Context, msg any) error {
			sent++
			return nil
		})
		return next(ctx, call)
	})
	errQuota := errors.New("quota")
	polite := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		if errors.Is(err, errQuota) {
			return errors.ResourceExhausted("come back tomorrow").WithCause(err)
		}
		return err
	})
	rpctest.Run(t, &rpctest.Options{
		Server: []core.Interceptor{withUser, timeout, requestID, measure, polite},
		Cases: map[string]rpctest.Case{"user": func(ctx context.Context, _ *rpctest.Input) (string, error) {
			return ctx.Value(userKey{}).(string), errQuota //nolint:forcetypeassert // the chain put it there
		}},
	}, func(t *testing.T, c *rpctest.Client) {
		received, sent = 0, 0
		res := c.Call(t.Context(), "user")
		if core.CodeOf(res.Err) != core.CodeResourceExhausted || received == 0 || sent != 0 {
			t.Error(res, received, sent)
		}
		if md := res.Metadata(); len(md) != 2 || md[0] != `x-code="resource_exhausted"` || md[1] != `x-request-id="7"` {
			t.Error(md)
		}
	})
}

// Retry tries again what was unavailable, at most so many times in all.
func Retry(attempts int) core.Interceptor {
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		for {
			attempt := call.NewAttempt()
			err := next(ctx, attempt)
			if core.CodeOf(err) != core.CodeUnavailable || attempt.Committed() || attempt.Attempt() >= attempts {
				call.Adopt(attempt)
				return err
			}
		}
	})
}

func TestGuideRetry(t *testing.T) {
	call := rpctest.Call(rpctest.Fake{
		Side:   core.SideClient,
		Invoke: func(context.Context, *core.Call) error { return errors.Unavailable("not now") },
	})
	if err := call.Run(t.Context(), Retry(3)); core.CodeOf(err) != core.CodeUnavailable || call.Started() != 3 {
		t.Error(err, call.Started())
	}
}
