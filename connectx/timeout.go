package connectx

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Where connect keeps the time left of a call: in a header map that may outlive
// the attempt for which it was written.
const (
	connectTimeout = "Connect-Timeout-Ms"
	grpcTimeout    = "Grpc-Timeout"
)

// attemptHeader copies request metadata for one more attempt.
func attemptHeader(header http.Header) http.Header {
	header = header.Clone()
	if header == nil {
		header = http.Header{}
	}
	header.Del(connectTimeout)
	header.Del(grpcTimeout)
	return header
}

// sameDeadline reports whether a and b end at the same time, if ever.
func sameDeadline(a, b context.Context) bool {
	at, ok := a.Deadline()
	bt, also := b.Deadline()
	return ok == also && at.Equal(bt)
}

// setTimeout writes the time left of ctx, or takes away what an earlier context had. connect does
// so when a stream is made; here the chain has given it another deadline since.
func setTimeout(ctx context.Context, header http.Header, protocol core.Protocol) {
	key, encode := grpcTimeout, encodeGRPCTimeout
	if protocol == core.ProtocolConnect {
		key, encode = connectTimeout, encodeConnectTimeout
	}
	header.Del(key)
	if deadline, ok := ctx.Deadline(); ok {
		if value := encode(max(time.Until(deadline), 0)); value != "" {
			header.Set(key, value)
		}
	}
}

// encodeConnectTimeout follows https://connectrpc.com/docs/protocol: at most ten
// digits of milliseconds, or "" for what is as good as no limit.
func encodeConnectTimeout(left time.Duration) string {
	value := strconv.FormatInt(max(left.Milliseconds(), 1), 10)
	if len(value) > 10 {
		return ""
	}
	return value
}

// encodeGRPCTimeout follows the gRPC specification: at most eight digits and the smallest unit
// for which they are enough.
func encodeGRPCTimeout(left time.Duration) string {
	for _, unit := range []struct {
		size time.Duration
		name string
	}{{time.Nanosecond, "n"}, {time.Microsecond, "u"}, {time.Millisecond, "m"}, {time.Second, "S"}, {time.Minute, "M"}} {
		if n := int64(left / unit.size); n < 1e8 {
			return strconv.FormatInt(n, 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(left/time.Hour), 10) + "H"
}

// inTime returns err, or DEADLINE_EXCEEDED if it is a cancellation of the transport's own after the deadline of ctx: a server may reset its
// stream because of the deadline before our own clock has ended ctx.
func inTime(ctx context.Context, err error) error {
	native, ok := errors.AsType[*connect.Error](err)
	if !ok || native == nil || native.Code() != connect.CodeCanceled || connect.IsWireError(native) || ctx.Err() == context.Canceled {
		return err
	}
	if deadline, ok := ctx.Deadline(); !ok || time.Now().Before(deadline) {
		return err
	}
	return connect.NewError(connect.CodeDeadlineExceeded, context.DeadlineExceeded)
}
