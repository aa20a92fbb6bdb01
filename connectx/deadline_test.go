package connectx_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
)

// overdue is a context whose deadline has passed before its timer has run.
type overdue struct {
	context.Context //nolint:containedctx // that is what it is

	deadline time.Time
}

func (o overdue) Deadline() (time.Time, bool) { return o.deadline, true }

// resetConn is a stream that the server has reset.
type resetConn struct{ err error }

func (c resetConn) Receive(any) error          { return c.err }
func (resetConn) Spec() connect.Spec           { return specOf(true, connect.StreamTypeBidi) }
func (resetConn) Peer() connect.Peer           { return connect.Peer{Protocol: connect.ProtocolGRPC} }
func (resetConn) Send(any) error               { return nil }
func (resetConn) CloseRequest() error          { return nil }
func (resetConn) CloseResponse() error         { return nil }
func (resetConn) RequestHeader() http.Header   { return http.Header{} }
func (resetConn) ResponseHeader() http.Header  { return http.Header{} }
func (resetConn) ResponseTrailer() http.Header { return http.Header{} }

// grpc-go resets a stream at its deadline, and a client may hear of it before its own timer has run.
func TestAResetAtTheDeadlineIsDeadlineExceeded(t *testing.T) {
	reset := connect.NewError(connect.CodeCanceled, context.Canceled)
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for name, one := range map[string]struct {
		ctx  context.Context
		err  error
		want core.Code
	}{
		"reset after the deadline":    {overdue{context.Background(), time.Now()}, reset, core.CodeDeadlineExceeded},
		"reset before the deadline":   {overdue{context.Background(), time.Now().Add(time.Hour)}, reset, core.CodeCanceled},
		"reset without a deadline":    {context.Background(), reset, core.CodeCanceled},
		"canceled before":             {overdue{canceled, time.Now()}, reset, core.CodeCanceled},
		"canceled as the server says": {overdue{context.Background(), time.Now()}, connect.NewWireError(connect.CodeCanceled, context.Canceled), core.CodeCanceled},
		"another code":                {overdue{context.Background(), time.Now()}, connect.NewError(connect.CodeAborted, context.Canceled), core.CodeAborted},
	} {
		t.Run(name, func(t *testing.T) {
			unary := connectx.New().WrapUnary(func(context.Context, connect.AnyRequest) (connect.AnyResponse, error) { return nil, one.err })
			_, err := unary(one.ctx, &request{connect.NewRequest(wrapperspb.String("")), specOf(true, connect.StreamTypeUnary)})
			if got := core.CodeOf(err); got != one.want {
				t.Errorf("unary: got %v, want %s", err, one.want)
			}
			if one.ctx.Err() != nil {
				return // the stream does not open
			}
			stream := connectx.New().WrapStreamingClient(func(context.Context, connect.Spec) connect.StreamingClientConn { return resetConn{one.err} })
			conn := stream(one.ctx, specOf(true, connect.StreamTypeBidi))
			if got := core.CodeOf(conn.Receive(&wrapperspb.StringValue{})); got != one.want {
				t.Errorf("stream: got %s, want %s", got, one.want)
			}
		})
	}
}
