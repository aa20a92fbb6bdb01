// Package logging writes one record of [log/slog] for each call, when it is over.
//
// Names of attributes are those of OpenTelemetry's semantic conventions for RPC, where there is one:
//
//	rpc.system.name             grpc (gRPC-Web too) or connectrpc
//	rpc.method                  shop.v1.ShopService/Buy
//	rpc.response.status_code    OK, NOT_FOUND, ...: gRPC's spelling for all protocols
//	error.type                  the same, of a call that failed
//	error.message               what the peer reads of the error
//	network.peer.address, network.peer.port
//	rpc.request.metadata, rpc.response.metadata   groups, see [Options]
//
// and these without one:
//
//	side        server or client
//	shape       unary, client_stream, server_stream or bidi_stream
//	protocol    grpc, grpcweb or connect
//	duration    of the whole call, streams too
//	timeout     the time that the call had when it began, if it has a deadline
//	requests, responses   the number of messages
//	error       the whole text of the error, if it says more than error.message: causes are for logs
//
// The records of one call are the same on all stacks, but for the protocol and the peer.
package logging

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Options for [New]. The zero value writes the plain record. Functions are called by many goroutines at once.
type Options struct {
	// Level says how grave the end of a call is. Nil means [DefaultLevel].
	Level func(call *core.Call, code core.Code) slog.Level
	// Attrs returns more attributes for the records of a call, of what the context has on the outside of this
	// interceptor, as the request id. It is called once for each record. What is known only inside comes by [Add].
	Attrs func(ctx context.Context, call *core.Call) []slog.Attr
	// Sample says whether a call that has ended is worth its record. Nil means that each is.
	Sample func(ctx context.Context, call *core.Call, code core.Code, took time.Duration) bool
	// Start writes a record when a call begins, too, of level Info and before anything of it happens. Sample is not
	// asked about it.
	Start bool
	// Metadata adds the metadata of request and response to the record. Values of keys that look like
	// credentials (authorization, cookie, x-api-key, anything with "token" or "secret" in it, and the like) are redacted.
	Metadata bool
	// RedactMetadata lists more keys whose values are redacted.
	RedactMetadata []string
	// Payload writes a record for each message, unless nil.
	Payload *Payload
}

// Payload says how messages are logged: each in a record of its own, of level Debug unless set otherwise, under "message", as a group of
// its fields. Fields that have debug_redact in their schema are redacted, unknown fields left out.
type Payload struct {
	// Level of the records. The zero value means Debug, not slog's Info.
	Level slog.Leveler
	// MaxBytes bounds how much of a message is logged, about. Zero means 4096.
	MaxBytes int
	// Redact lists more fields that are redacted: by their full names, "shop.v1.Card.number", wherever they are, or by
	// a path of fields that begins with a message, "shop.v1.Order.card.number", there alone; lists and maps are passed through. They
	// must be in protobuf's registry, so that a misspelled one is noticed.
	Redact []string
}

// New returns an interceptor that logs, on servers and clients. Nil options are the zero Options.
//
// Its place is outside of the interceptor that turns errors and panics into codes, so that it logs what the
// peer gets, and the cause that it does not get; and inside of the one that gives request ids. Inside of
// both, a call that panics is logged too, as Internal.
//
// It returns an error if a field to redact does not exist, a key of metadata cannot be one, or MaxBytes is negative. It panics if
// logger is nil.
func New(logger *slog.Logger, opts *Options) (core.Interceptor, error) {
	if logger == nil {
		panic("logging: New of a nil logger")
	}
	l := &logging{log: logger}
	if opts != nil {
		l.Options = *opts
	}
	if l.Level == nil {
		l.Level = func(_ *core.Call, code core.Code) slog.Level { return DefaultLevel(code) }
	}
	var err error
	if l.secret, err = newKeys(l.RedactMetadata); err != nil {
		return nil, err
	}
	if l.Payload != nil {
		if l.payload, err = newPayload(*l.Payload); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// DefaultLevel is Info for success and for what is the caller's fault, Warn for what may pass (a deadline, a
// quota, a server that is not available) or is not there, and Error for what is the server's fault.
func DefaultLevel(code core.Code) slog.Level {
	switch code {
	case core.CodeUnknown, core.CodeInternal, core.CodeDataLoss:
		return slog.LevelError
	case core.CodeDeadlineExceeded, core.CodeResourceExhausted, core.CodeUnavailable, core.CodeUnimplemented:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// record is what is known of one call while it runs.
type record struct {
	requests, responses int // of streams; next returns after the last hook
	start               time.Time

	mu    sync.Mutex
	attrs []slog.Attr
}

type recordKey struct{}

// Add adds attributes to the record of the call that ctx belongs to, from anywhere inside: a handler, an
// interceptor that has found out who calls. They come last, in order. It does nothing if no interceptor of this package stands
// outside, or once the record was written. It may be used by many goroutines.
func Add(ctx context.Context, attrs ...slog.Attr) {
	if r, ok := ctx.Value(recordKey{}).(*record); ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.attrs = append(r.attrs, attrs...)
	}
}

type logging struct {
	Options
	log     *slog.Logger
	secret  keys
	payload *payload
}

// Intercept implements [core.Interceptor].
func (l *logging) Intercept(ctx context.Context, call *core.Call, next core.Handler) (err error) {
	r := &record{start: time.Now()}
	if l.Start && l.log.Enabled(ctx, slog.LevelInfo) {
		attrs := l.begin(ctx, call, make([]slog.Attr, 0, capacity), r)
		l.log.LogAttrs(ctx, slog.LevelInfo, "rpc started", l.more(ctx, call, attrs)...)
	}
	if call.Shape() != core.ShapeUnary || l.payload != nil {
		l.watch(call, r)
	}
	returned := false
	defer func() {
		if !returned { // a panic, or Goexit: it goes on
			err = errPanic
		}
		l.end(ctx, call, r, err)
	}()
	err = next(context.WithValue(ctx, recordKey{}, r), call)
	returned = true
	return err
}

var errPanic = errors.Internal("%s", core.PublicMessage(core.CodeInternal)).
	WithCause(errors.New("a panic or runtime.Goexit passed the log"))

// watch counts the messages and logs them.
func (l *logging) watch(call *core.Call, r *record) {
	call.OnRequest(func(ctx context.Context, msg any) error {
		r.requests++
		l.message(ctx, call, "rpc request", msg, r.requests)
		return nil
	})
	call.OnResponse(func(ctx context.Context, msg any) error {
		r.responses++
		l.message(ctx, call, "rpc response", msg, r.responses)
		return nil
	})
}

// message logs one message, if asked.
func (l *logging) message(ctx context.Context, call *core.Call, what string, msg any, number int) {
	if l.payload == nil || !l.log.Enabled(ctx, l.payload.level.Level()) {
		return
	}
	attrs := make([]slog.Attr, 0, capacity)
	attrs = append(attrs,
		slog.String("rpc.method", call.Method().String()[1:]),
		slog.String("side", call.Side().String()),
		slog.Int("number", number),
		slog.Attr{Key: "message", Value: l.payload.value(msg)})
	l.log.LogAttrs(ctx, l.payload.level.Level(), what, l.more(ctx, call, attrs)...)
}

// capacity is that of most records.
const capacity = 20

// end writes the record.
func (l *logging) end(ctx context.Context, call *core.Call, r *record, err error) {
	took := time.Since(r.start)
	if notModified(call, err) {
		err = nil
	}
	code := core.CodeOf(err)
	if l.Sample != nil && !l.Sample(ctx, call, code, took) {
		return
	}
	level := l.Level(call, code)
	if !l.log.Enabled(ctx, level) {
		return
	}
	requests, responses := r.requests, r.responses
	if call.Shape() == core.ShapeUnary {
		requests, responses = 1, 0
		if err == nil && call.Response() != nil {
			responses = 1
		}
	}
	var array [capacity]slog.Attr
	attrs := l.begin(ctx, call, array[:0], r)
	attrs = append(attrs,
		slog.String("rpc.response.status_code", statusCode(code)),
		slog.Duration("duration", took),
		slog.Int("requests", requests),
		slog.Int("responses", responses))
	if err != nil {
		attrs = explain(attrs, code, err)
	}
	if l.Metadata {
		attrs = append(attrs,
			l.secret.group("rpc.request.metadata", call.RequestHeader()),
			l.secret.group("rpc.response.metadata", call.ResponseMetadata()))
	}
	attrs = l.more(ctx, call, attrs)
	r.mu.Lock()
	attrs = append(attrs, r.attrs...)
	r.mu.Unlock()
	l.log.LogAttrs(ctx, level, "rpc", attrs...)
}

// begin adds what is known of a call from its beginning.
func (l *logging) begin(ctx context.Context, call *core.Call, attrs []slog.Attr, r *record) []slog.Attr {
	system := "grpc"
	if call.Protocol() == core.ProtocolConnect {
		system = "connectrpc"
	}
	attrs = append(attrs,
		slog.String("rpc.system.name", system),
		slog.String("rpc.method", call.Method().String()[1:]),
		slog.String("side", call.Side().String()),
		slog.String("shape", call.Shape().String()),
		slog.String("protocol", string(call.Protocol())))
	if addr := call.Peer().Addr; addr != "" {
		host, port, err := net.SplitHostPort(addr)
		if err != nil {
			host = addr
		}
		attrs = append(attrs, slog.String("network.peer.address", host))
		if number, err := strconv.Atoi(port); port != "" && err == nil {
			attrs = append(attrs, slog.Int("network.peer.port", number))
		}
	}
	if deadline, ok := ctx.Deadline(); ok {
		attrs = append(attrs, slog.Duration("timeout", deadline.Sub(r.start)))
	}
	return attrs
}

func (l *logging) more(ctx context.Context, call *core.Call, attrs []slog.Attr) []slog.Attr {
	if l.Attrs == nil {
		return attrs
	}
	return append(attrs, l.Attrs(ctx, call)...)
}

// notModified reports whether err is connect's way to answer a GET with 304, which is no failure.
func notModified(call *core.Call, err error) bool {
	if err == nil || call.HTTPMethod() != "GET" || core.CodeOf(err) != core.CodeUnknown {
		return false
	}
	e, ok := core.FindCoded(err, nil).(*errors.Error)
	return ok && e.Original() != nil && (e.Message() == "not modified" || e.Message() == "HTTP 304: not modified")
}

// explain adds what there is to say about an error.
func explain(attrs []slog.Attr, code core.Code, err error) []slog.Attr {
	message := core.PublicMessage(code)
	coded := core.FindCoded(err, nil)
	if coded != nil {
		message = coded.Message()
	}
	attrs = append(attrs, slog.String("error.type", statusCode(code)), slog.String("error.message", message))
	// The text of a stack's own error is the message in that stack's words.
	e, ok := coded.(*errors.Error)
	if native := ok && e.Original() != nil && error(e) == err; native && errors.Is(e.Unwrap(), e.Original()) { //nolint:errorlint // nothing wraps it
		return attrs
	}
	if text := fmt.Sprint(err); text != code.String()+": "+message {
		attrs = append(attrs, slog.String("error", text))
	}
	return attrs
}

var statusCodes = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND",
	"ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
	"ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS",
	"UNAUTHENTICATED",
}

// statusCode spells a code as gRPC does. CodeOf gives no other.
func statusCode(code core.Code) string { return statusCodes[code] }
