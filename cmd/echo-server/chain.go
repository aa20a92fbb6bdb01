package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/auth"
	"github.com/rpcweft/weft/interceptors/logging"
	"github.com/rpcweft/weft/interceptors/realip"
	"github.com/rpcweft/weft/interceptors/requestid"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// chain is what both servers run, in the order that docs/batteries.md explains. Without a token anyone may call.
func chain(logger *slog.Logger, token string, proxies []string) ([]core.Interceptor, error) {
	ids, err := requestid.New(nil)
	if err != nil {
		return nil, err
	}
	addresses, err := realip.New(proxies, nil)
	if err != nil {
		return nil, fmt.Errorf("-trusted-proxies: %w", err)
	}
	log, err := logging.New(logger, &logging.Options{Attrs: contextAttrs})
	if err != nil {
		return nil, err
	}
	statuses := errors.NewInterceptor(&errors.Options{
		OnPanic: func(ctx context.Context, call *core.Call, value any, stack []byte) {
			logger.ErrorContext(ctx, "panic", "rpc.method", call.Method().String()[1:], "request_id", requestid.FromContext(ctx),
				"value", fmt.Sprint(value), "stack", string(stack))
		},
	})
	if token == "" {
		return []core.Interceptor{ids, addresses, log, statuses}, nil
	}
	verify, err := auth.Secrets(map[string]string{token: "caller"})
	if err != nil {
		return nil, fmt.Errorf("-auth-token: %w", err)
	}
	guard, err := auth.New(named(auth.Bearer(verify)), []auth.Rule{
		auth.Known(dummyv1connect.DummyServiceName),
		auth.Public("grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"),
	}, &auth.Options{Realm: "echo-server"})
	if err != nil {
		return nil, err
	}
	return []core.Interceptor{ids, addresses, log, statuses, guard}, nil
}

// contextAttrs is what the log says of each call beside the call itself.
func contextAttrs(ctx context.Context, _ *core.Call) []slog.Attr {
	attrs := []slog.Attr{slog.String("request_id", requestid.FromContext(ctx))}
	if addr, ok := realip.FromContext(ctx); ok {
		attrs = append(attrs, slog.String("client.address", addr.String()))
	}
	return attrs
}

// named tells the log, which stands outside, who calls.
func named(authenticate auth.Func) auth.Func {
	return func(ctx context.Context, call *core.Call) (context.Context, error) {
		ctx, err := authenticate(ctx, call)
		if err != nil {
			return nil, err
		}
		if user, ok := auth.Identity[string](ctx); ok {
			logging.Add(ctx, slog.String("user.id", user))
		}
		return ctx, nil
	}
}
