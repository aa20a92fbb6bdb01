package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// chain is what both servers run. The log stands outside, to see what the client gets.
func chain(log *slog.Logger) []core.Interceptor {
	return []core.Interceptor{
		requestLog{log},
		errors.NewInterceptor(&errors.Options{
			OnPanic: func(ctx context.Context, call *core.Call, value any, stack []byte) {
				log.ErrorContext(ctx, "panic", "method", call.Method().String(), "value", fmt.Sprint(value), "stack", string(stack))
			},
		}),
	}
}

// requestLog logs each RPC when it is over, streams included.
type requestLog struct{ log *slog.Logger }

// Intercept implements [core.Interceptor].
func (l requestLog) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	start := time.Now()
	err := next(ctx, call)
	attrs := []slog.Attr{
		slog.String("method", call.Method().String()),
		slog.String("protocol", string(call.Protocol())),
		slog.String("shape", call.Shape().String()),
		slog.String("peer", call.Peer().Addr),
		slog.String("code", core.CodeOf(err).String()),
		slog.Duration("duration", time.Since(start)),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	l.log.LogAttrs(ctx, slog.LevelInfo, "rpc", attrs...)
	return err
}
