package rpctest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rpcweft/weft/core"
)

// Client calls the Dummy service over one path in one shape. The calls look the
// same whatever the stack. It may be used by several goroutines.
type Client struct {
	Path  Path
	Shape core.Shape

	header []string // pairs of key and value
	driver driver
}

// driver is a client of one stack.
type driver interface {
	// unary makes a unary call.
	unary(ctx context.Context, header []string, input string) *Result
	// open opens a stream. For server streams it is the one request that does so.
	open(ctx context.Context, shape core.Shape, header []string) (driven, error)
}

// driven is a stream of one stack, as its generated code offers it.
type driven interface {
	send(input string) error
	closeSend() error
	// receive ends with io.EOF. For client streams it closes the requests and gets the one response.
	receive() (string, error)
	close() error
	header() *core.Metadata
	trailer() *core.Metadata
}

// Client returns a client for a path and a shape.
func (s *Servers) Client(path Path, shape core.Shape) *Client {
	c := &Client{Path: path, Shape: shape}
	if path.Client == GRPC {
		c.driver = newGRPCDriver(s, path)
	} else {
		c.driver = newConnectDriver(s, path)
	}
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
		if key == "vary" { // of net/http, with compression
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
		return c.driver.unary(ctx, c.header, inputs[0])
	}
	stream, err := c.Open(ctx)
	if err != nil {
		return &Result{Err: err}
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
	stream, err := c.driver.open(ctx, c.Shape, c.header)
	if err != nil {
		cancel()
		return nil, err
	}
	return &Stream{driven: stream, cancel: cancel, shape: c.Shape}, nil
}

// Stream is a stream in the hands of a test. One goroutine may send while
// another receives.
type Stream struct {
	driven driven
	cancel context.CancelFunc
	shape  core.Shape
}

// Send sends a message. On a server stream it is the one request, and must be sent before
// anything else. It returns io.EOF when the stream is over and Receive knows why.
func (s *Stream) Send(input string) error { return s.driven.send(input) }

// CloseSend ends the requests.
func (s *Stream) CloseSend() error { return s.driven.closeSend() }

// Receive returns the next output, and io.EOF itself at the end of a success. On a
// client stream it ends the requests first.
func (s *Stream) Receive() (string, error) { return s.driven.receive() }

// Close ends the stream early, as far as the stack has a way to: grpc-go's is to
// cancel the context.
func (s *Stream) Close() error {
	err := s.driven.close()
	s.cancel()
	return err
}

// Cancel cancels the context of the stream and does no more: the stream is abandoned.
func (s *Stream) Cancel() { s.cancel() }

// Header waits for the response header.
func (s *Stream) Header() *core.Metadata { return s.driven.header() }

// Trailer returns the response trailer, after the end.
func (s *Stream) Trailer() *core.Metadata { return s.driven.trailer() }

// Drain ends the requests, reads the stream to its end and releases it.
func (s *Stream) Drain() *Result {
	res := &Result{}
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
