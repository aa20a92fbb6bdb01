package rpctest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// Client calls the Dummy service over one path in one shape. The calls look the
// same whatever the stack. It may be used by several goroutines.
type Client struct {
	Path  Path
	Shape core.Shape

	header []string // pairs of key and value
	driver Driver
	over   context.Context //nolint:containedctx // when it ends, so do streams: a test may have abandoned them
}

// Driver is a client of the Dummy service on some stack, as its generated code or its own means offer it, with
// nothing around them: a test sees through it what an application would see. It may be used by several goroutines.
// header is pairs of key, in lower case, and value, which under "-bin" is raw bytes.
type Driver interface {
	// Unary makes a unary call. Of a failed one the Result has the stack's own error, and as much
	// metadata as the stack gives to an application.
	Unary(ctx context.Context, header []string, input string) *Result
	// Open opens a stream. On a stack whose server streams open with their request, this is put off until Send.
	Open(ctx context.Context, shape core.Shape, header []string) (DriverStream, error)
}

// DriverStream is a stream of a [Driver]. Its errors are the stack's own, but for the end of a success, which is io.EOF
// itself. One goroutine may send while another receives.
type DriverStream interface {
	// Send sends a message, without waiting for somebody who receives. On server streams it is called once, for
	// the request, before anything else. It returns io.EOF when the stream is over and Receive knows why.
	Send(input string) error
	// CloseSend ends the requests.
	CloseSend() error
	// Receive returns the next output. On client streams it ends the requests and
	// returns the one response, then io.EOF. After the end it returns the same again.
	Receive() (output string, err error)
	// Close ends the stream early, if the stack has a way to other than the context, which is canceled after.
	Close() error
	// Header waits for the response header. Trailer is called after the end.
	Header() *core.Metadata
	Trailer() *core.Metadata
}

// NewClient returns a client that drives a stack of its own, for an [Adapter]. It panics if the driver is nil.
func NewClient(path Path, shape core.Shape, driver Driver) *Client {
	if driver == nil {
		panic("rpctest: NewClient of a nil driver")
	}
	return &Client{Path: path, Shape: shape, driver: driver, over: context.Background()}
}

// Client returns a client for a path and a shape.
func (s *Servers) Client(path Path, shape core.Shape) *Client {
	var c *Client
	if path.Client == GRPC {
		c = NewClient(path, shape, grpcDriver{dummyv1.NewDummyServiceClient(s.Conn(path))})
	} else {
		c = NewClient(path, shape, connectDriver{
			dummyv1connect.NewDummyServiceClient(s.httpClient(path), s.url(), s.ConnectOptions(path)...),
		})
	}
	c.over = s.over
	return c
}

// With returns a client that sends one more pair of request metadata. The value of a key that ends in
// "-bin" is raw bytes.
func (c *Client) With(key, value string) *Client {
	more := *c
	more.header = append(append([]string{}, c.header...), strings.ToLower(key), value)
	return &more
}

// InShape returns the same client for another shape.
func (c *Client) InShape(shape core.Shape) *Client {
	other := *c
	other.Shape = shape
	return &other
}

// Result is what the application saw of a call.
type Result struct {
	// Outputs are the response messages.
	Outputs []string
	// Header and Trailer are the response metadata. A connect client gets those of a failed unary call as one: it
	// is in Trailer then.
	Header, Trailer *core.Metadata
	// Err is the stack's own error, nil for success.
	Err error

	of *Client
}

// Want fails the test unless the call has ended with the code, after outputs that make up text when they
// are joined, which is the same in all shapes. It tells path, shape and all of the result.
func (r *Result) Want(t testing.TB, code core.Code, text string) {
	t.Helper()
	if core.CodeOf(r.Err) == code && strings.Join(r.Outputs, "") == text {
		return
	}
	where := "the call"
	if r.of != nil {
		where = r.of.Path.String() + " " + r.of.Shape.String()
	}
	t.Errorf("%s, in the application, after %d outputs:\n\twant %s %q\n\tgot  %s", where, len(r.Outputs), code, text, r)
}

// Metadata returns header and trailer as one, in alphabetical order of the keys:
// "key=value", values quoted. Keys that the net/http server adds are not there.
func (r *Result) Metadata() []string {
	merged := map[string][]string{}
	for _, md := range []*core.Metadata{r.Header, r.Trailer} {
		for key, values := range md.All() {
			merged[key] = append(merged[key], values...)
		}
	}
	return pairs(core.WrapMetadata(core.RawMetadata{Map: merged}))
}

func pairs(md *core.Metadata) []string {
	var out []string
	for key, values := range md.All() {
		if key == "vary" || key == "user-agent" { // of net/http, with compression; of the stack
			continue
		}
		for _, value := range values {
			out = append(out, fmt.Sprintf("%s=%q", key, value))
		}
	}
	return out
}

// String shows all of the result on one line.
func (r *Result) String() string {
	return fmt.Sprintf("%q, metadata %s, %s: %v", r.Outputs, r.Metadata(), core.CodeOf(r.Err), r.Err)
}

// Call makes one call in the client's shape and reads it to its end. Shapes without a client stream send the first
// input, "" if there is none.
func (c *Client) Call(ctx context.Context, inputs ...string) *Result {
	if !c.Shape.ClientStreams() {
		inputs = append(inputs, "")[:1]
	}
	if c.Shape == core.ShapeUnary {
		res := c.driver.Unary(ctx, c.header, inputs[0])
		res.of = c
		return res
	}
	stream, err := c.Open(ctx)
	if err != nil {
		return &Result{Err: err, of: c}
	}
	for _, input := range inputs {
		// An error of Send is found by Receive, with its reason.
		if err := stream.Send(input); err != nil {
			break
		}
	}
	return stream.Drain()
}

// Open opens a stream, to be driven by hand. The shape must not be unary.
func (c *Client) Open(ctx context.Context) (*Stream, error) {
	if c.Shape == core.ShapeUnary {
		panic("rpctest: Open of a unary call: use Call")
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.over, cancel)
	stream, err := c.driver.Open(ctx, c.Shape, c.header)
	release := func() {
		stop()
		cancel()
	}
	if err != nil {
		release()
		return nil, err
	}
	return &Stream{driver: stream, cancel: release, of: c}, nil
}

// Stream is a stream in the hands of a test. One goroutine may send while
// another receives.
type Stream struct {
	driver DriverStream
	cancel context.CancelFunc
	of     *Client
}

// Send sends a message. On a server stream it is the one request, and must be sent before
// anything else. It returns io.EOF when the stream is over and Receive knows why.
func (s *Stream) Send(input string) error { return s.driver.Send(input) }

// CloseSend ends the requests.
func (s *Stream) CloseSend() error { return s.driver.CloseSend() }

// Receive returns the next output, and io.EOF itself at the end of a success. On a
// client stream it ends the requests first.
func (s *Stream) Receive() (string, error) { return s.driver.Receive() }

// Close ends the stream early, as far as the stack has a way to: grpc-go's is to
// cancel the context.
func (s *Stream) Close() error {
	err := s.driver.Close()
	s.cancel()
	return err
}

// Cancel cancels the context of the stream and does no more: the stream is abandoned.
func (s *Stream) Cancel() { s.cancel() }

// Header waits for the response header.
func (s *Stream) Header() *core.Metadata { return s.driver.Header() }

// Trailer returns the response trailer, after the end.
func (s *Stream) Trailer() *core.Metadata { return s.driver.Trailer() }

// Drain ends the requests, reads the stream to its end and releases it.
func (s *Stream) Drain() *Result {
	res := &Result{of: s.of}
	_ = s.CloseSend()
	for {
		output, err := s.Receive()
		if err == nil {
			res.Outputs = append(res.Outputs, output)
			continue
		}
		if !errors.Is(err, io.EOF) {
			res.Err = err
		}
		break
	}
	res.Header, res.Trailer = s.Header(), s.Trailer()
	_ = s.Close()
	return res
}
