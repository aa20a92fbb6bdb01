//go:build stubs

package sut

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	suite "github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1"
	"github.com/rpcweft/weft/test/conformance/internal/chain"
)

// Run carries out the calls that it reads, several at a time, and writes their results.
func Run(ctx context.Context, c Config, in io.Reader, out io.Writer) error {
	installed := chain.New(c.Fault, c.Attempts)
	call := (&connectClient{config: c, chain: installed}).call
	if c.Stack == grpcStack {
		call = (&grpcClient{config: c, chain: installed}).call
	}
	var calls sync.WaitGroup
	var writing sync.Mutex
	var failed error
	slots := make(chan struct{}, 4*runtime.GOMAXPROCS(0))
	in = bufio.NewReader(in)
	for ctx.Err() == nil {
		req := &suite.ClientCompatRequest{}
		if err := readMessage(in, req); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		slots <- struct{}{}
		calls.Go(func() {
			defer func() { <-slots }()
			res := &suite.ClientCompatResponse{TestName: req.GetTestName()}
			result, err := call(ctx, req)
			if err != nil {
				res.Result = &suite.ClientCompatResponse_Error{Error: &suite.ClientErrorResult{Message: err.Error()}}
			} else {
				res.Result = &suite.ClientCompatResponse_Response{Response: result}
			}
			writing.Lock()
			defer writing.Unlock()
			failed = errors.Join(failed, writeMessage(out, res))
		})
	}
	calls.Wait()
	return errors.Join(failed, installed.Write(c.Reports))
}

// cancellation says when the client gives up.
type cancellation struct {
	cancel         context.CancelFunc
	beforeClose    bool
	afterClose     bool
	delay          time.Duration
	afterResponses uint32
}

// begin returns the call's context and when to cancel it.
func begin(ctx context.Context, req *suite.ClientCompatRequest) (context.Context, *cancellation) {
	ctx, cancel := context.WithCancel(ctx)
	c := &cancellation{cancel: cancel}
	if req.TimeoutMs != nil {
		timed, stop := context.WithTimeout(ctx, time.Duration(req.GetTimeoutMs())*time.Millisecond)
		ctx, c.cancel = timed, func() { cancel(); stop() }
	}
	switch timing := req.GetCancel().GetCancelTiming().(type) {
	case *suite.ClientCompatRequest_Cancel_BeforeCloseSend:
		c.beforeClose = true
	case *suite.ClientCompatRequest_Cancel_AfterCloseSendMs:
		c.afterClose, c.delay = true, time.Duration(timing.AfterCloseSendMs)*time.Millisecond
	case *suite.ClientCompatRequest_Cancel_AfterNumResponses:
		c.afterResponses = timing.AfterNumResponses
	default:
		c.afterClose = req.GetCancel() != nil
	}
	return ctx, c
}

// closing is called before the requests end.
func (c *cancellation) closing() {
	if c.beforeClose {
		c.cancel()
	}
}

// closed is called when the requests have ended, or before a call that ends them by itself.
func (c *cancellation) closed() {
	if c.afterClose {
		time.AfterFunc(c.delay, c.cancel)
	}
}

// received is called after each response.
func (c *cancellation) received(count int) {
	if c.afterResponses > 0 && count == int(c.afterResponses) {
		c.cancel()
	}
}

// unpack fills msgs with the requests.
func unpack[T any, M interface {
	*T
	proto.Message
}](from []*anypb.Any) ([]M, error) {
	var msgs []M
	for _, packed := range from {
		msg := M(new(T))
		if err := packed.UnmarshalTo(msg); err != nil {
			return nil, err
		}
		msgs = append(msgs, msg)
	}
	return msgs, nil
}

// exchange is the application's part of a bidirectional stream.
type exchange struct {
	send      func(*suite.BidiStreamRequest) error
	closeSend func() error
	receive   func() (*suite.BidiStreamResponse, error)
	fromError func(error) *suite.Error
}

func (x *exchange) run(req *suite.ClientCompatRequest, c *cancellation, result *suite.ClientResponseResult) error {
	requests, err := unpack[suite.BidiStreamRequest](req.GetRequestMessages())
	if err != nil {
		return err
	}
	over := false
	receive := func() {
		msg, err := x.receive()
		switch {
		case err == nil:
			result.Payloads = append(result.Payloads, msg.GetPayload())
			c.received(len(result.GetPayloads()))
			return
		case !errors.Is(err, io.EOF):
			result.Error = x.fromError(err)
		}
		over = true
	}
	for i, msg := range requests {
		delay(req.GetRequestDelayMs())
		if err := x.send(msg); err != nil {
			result.NumUnsentRequests = int32(len(requests) - i) //nolint:gosec // few
			receive()                                           // it tells why
			if !over {
				return fmt.Errorf("send: %w, but there is a response", err)
			}
			break
		}
		if req.GetStreamType() == suite.StreamType_STREAM_TYPE_FULL_DUPLEX_BIDI_STREAM {
			if receive(); over {
				break
			}
		}
	}
	c.closing()
	if err := x.closeSend(); err != nil && !over {
		result.Error, over = x.fromError(err), true
	}
	c.closed()
	for !over {
		receive()
	}
	return nil
}
