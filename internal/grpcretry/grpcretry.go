// Package grpcretry is what interceptors that make attempts share: what gRPC says about them in metadata
// (https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
package grpcretry

import (
	"strconv"
	"time"

	"github.com/rpcweft/weft/core"
)

// PreviousKey is the request metadata that tells a server how many attempts there were before.
const PreviousKey = "grpc-previous-rpc-attempts"

const pushbackKey = "grpc-retry-pushback-ms"

// Idempotent is the [core.Matcher] of methods whose definition says that they may be repeated.
func Idempotent(call *core.Call) bool { return call.Idempotency() != core.IdempotencyUnknown }

// Pushback is what the server says about the next attempt in the trailer of one: to wait so long, or, if that is negative or
// malformed, to stop. It reports in asked whether it says anything.
func Pushback(attempt *core.Call) (wait time.Duration, asked, stop bool) {
	values := attempt.ResponseTrailer().Values(pushbackKey)
	if len(values) == 0 {
		return 0, false, false
	}
	ms, err := strconv.ParseInt(values[0], 10, 32)
	if len(values) > 1 || err != nil || ms < 0 {
		return 0, true, true
	}
	return time.Duration(ms) * time.Millisecond, true, false
}
