// Package dummy implements the Dummy service, which tests, examples and the echo
// server share: one implementation, served by connect-go and by grpc-go.
//
// Without more it echoes: Execute the input, ExecuteClientStream all inputs
// joined, ExecuteServerStream one character (Unicode code point) a message,
// ExecuteClientServerStream each input as it arrives. Special inputs do something
// else. They act in all four methods: in Execute and ExecuteServerStream on the request, in the
// two with a client stream on the message in which they arrive. These are the special inputs of
// [DefaultCases], so that any client can provoke every outcome:
//
//   - fail:CODE fails with that code (fail:not_found; the sixteen names in lower snake case), message
//     "dummy failure: CODE", one detail google.rpc.ErrorInfo{reason: "DUMMY_FAILURE", domain: "weft.dummy",
//     metadata: {"code": CODE}}.
//   - fail-after:N:CODE, in methods that stream responses, sends N messages "0", "1", ... and then
//     fails as above; the other two fail at once. N is at most 1000.
//   - plain returns a plain Go error whose text contains the word hunter2, which no client may ever see.
//   - panic panics with a text that contains the word hunter2, which no client may ever see.
//   - sleep:DURATION waits that long (sleep:250ms), or until the context is over and
//     then returns the context's error; then echoes.
//   - metadata copies each request metadata key that starts with x-echo- into the response header
//     under the same key and into the response trailer under x-trailer- and the rest of the key, binary (-bin)
//     values included; then echoes. After the first response message of a stream the header is gone: trailer only.
//   - metadata-fail:CODE does what metadata does, then what fail:CODE does: header and
//     trailer must reach the client with the error.
//   - deadline answers with the time left until the context's deadline in whole milliseconds, or
//     "none", in one message.
//
// An unknown CODE or a malformed DURATION or N is an invalid_argument error that
// names it. A joined input of ExecuteClientStream over 1 MiB is a resource_exhausted error;
// nothing a client sends makes the server hold more.
package dummy

import (
	"context"
	"io"
	"maps"
	"strings"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

// MaxJoined is how many bytes the joined input of ExecuteClientStream may have.
const MaxJoined = 1 << 20

// Case is what the service does with a special input: it returns the output or
// an error, or panics. It is called by many goroutines at once.
//
// Returning [Input.Text] echoes, as the comment of each method says. Any other output is one
// message (in ExecuteClientStream: what is joined in place of the input).
type Case func(ctx context.Context, in *Input) (output string, err error)

// Cases are special inputs. A key that ends in a colon, "fail:", stands for all
// inputs that start with it and have no key of their own, up to their first colon; any other key for the
// input that equals it.
type Cases map[string]Case

// Input is a request message in the hands of a [Case], which must not keep it.
type Input struct {
	// Text is the message's input, Arg what stands behind the first colon if the key ends in one.
	Text, Arg string
	// Shape is that of the method.
	Shape core.Shape
	// Count is the number of request messages so far, this one included.
	Count int

	wire wire
	sent bool
}

// wire is the stack's side of one call.
type wire struct {
	receive func() (string, error) // ends with an error that is io.EOF
	send    func(output string) error
	metadata
}

// metadata is the stack's own, reached without Weft's help. Keys are in lower case and values raw.
type metadata interface {
	request() map[string][]string
	addHeader(key, value string) error
	addTrailer(key, value string) error
}

// RequestMetadata returns a copy of the request's metadata as the stack has it:
// keys in lower case, the values of "-bin" keys raw.
func (in *Input) RequestMetadata() map[string][]string { return in.wire.request() }

// AddHeader adds to the response header. It does nothing once the first response
// message was sent. The error is the stack's.
func (in *Input) AddHeader(key, value string) error {
	if in.sent {
		return nil
	}
	return in.wire.addHeader(key, value)
}

// AddTrailer adds to the response trailer. The error is the stack's.
func (in *Input) AddTrailer(key, value string) error { return in.wire.addTrailer(key, value) }

// Streams reports whether the method streams responses, so that Send works.
func (in *Input) Streams() bool {
	return in.Shape == core.ShapeServerStream || in.Shape == core.ShapeBidiStream
}

// Send sends a response message before the one that the case returns, in methods
// that stream responses. Elsewhere it is an error.
func (in *Input) Send(output string) error {
	if !in.Streams() {
		return errors.Internal("a %s method cannot send messages in between", in.Shape)
	}
	in.sent = true
	return in.wire.send(output)
}

// Service is the Dummy service. See [Service.Connect] and [Service.GRPC].
type Service struct{ cases Cases }

// New returns a service with [DefaultCases] and the given ones, which win.
func New(cases Cases) *Service {
	all := DefaultCases()
	maps.Copy(all, cases)
	return &Service{cases: all}
}

// serve is a call of any method.
func (s *Service) serve(ctx context.Context, shape core.Shape, w wire) error {
	in := &Input{Shape: shape, wire: w}
	var joined strings.Builder
	for {
		text, err := w.receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		in.Text, in.Count = text, in.Count+1
		output, err := s.answer(ctx, in)
		if err != nil {
			return err
		}
		switch {
		case shape == core.ShapeClientStream:
			if joined.Len()+len(output) > MaxJoined {
				return errors.ResourceExhausted("the joined input is longer than %d bytes", MaxJoined)
			}
			joined.WriteString(output)
		case shape == core.ShapeServerStream && output == text:
			for _, char := range text {
				if err := w.send(string(char)); err != nil {
					return err
				}
			}
		default:
			in.sent = true
			if err := w.send(output); err != nil {
				return err
			}
		}
	}
	if shape == core.ShapeClientStream {
		return w.send(joined.String())
	}
	return nil
}

// answer returns the output for one input.
func (s *Service) answer(ctx context.Context, in *Input) (string, error) {
	in.Arg = ""
	if special, ok := s.cases[in.Text]; ok {
		return special(ctx, in)
	}
	if prefix, arg, ok := strings.Cut(in.Text, ":"); ok {
		if special, ok := s.cases[prefix+":"]; ok {
			in.Arg = arg
			return special(ctx, in)
		}
	}
	return in.Text, nil
}

// once receives the one request of a method without a client stream.
func once(text string) func() (string, error) {
	var end error
	return func() (string, error) {
		err := end
		end = io.EOF
		return text, err
	}
}

// receive adapts the stream of either stack.
func receive(native func() (*dummyv1.DummyRequest, error)) func() (string, error) {
	return func() (string, error) {
		req, err := native()
		return req.GetInput(), err
	}
}
