package rpctest

import (
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

type connectDriver struct {
	client dummyv1connect.DummyServiceClient
}

var _ Driver = connectDriver{}

// Unary implements [Driver].
func (d connectDriver) Unary(ctx context.Context, header []string, input string) *Result {
	req := connect.NewRequest(&dummyv1.DummyRequest{Input: input})
	setHTTP(req.Header(), header)
	res, err := d.client.Execute(ctx, req)
	if err != nil {
		out := &Result{Err: err}
		if native := (*connect.Error)(nil); errors.As(err, &native) {
			out.Trailer = wrapHTTP(native.Meta())
		}
		return out
	}
	return &Result{Outputs: []string{res.Msg.GetOutput()}, Header: wrapHTTP(res.Header()), Trailer: wrapHTTP(res.Trailer())}
}

// Open implements [Driver].
func (d connectDriver) Open(ctx context.Context, shape core.Shape, header []string) (DriverStream, error) {
	switch shape {
	case core.ShapeClientStream:
		stream := d.client.ExecuteClientStream(ctx)
		setHTTP(stream.RequestHeader(), header)
		conn, err := stream.Conn()
		one := &oneResponse{receive: func() (string, error) {
			res, err := stream.CloseAndReceive()
			if err != nil {
				return "", err
			}
			return res.Msg.GetOutput(), nil
		}}
		return &connectClientStream{stream: stream, conn: conn, receive: one.Receive}, err
	case core.ShapeServerStream:
		return &connectServerStream{ctx: ctx, driver: d, pairs: header}, nil
	case core.ShapeBidiStream, core.ShapeUnary:
	}
	stream := d.client.ExecuteClientServerStream(ctx)
	setHTTP(stream.RequestHeader(), header)
	return &connectBidiStream{stream}, nil
}

func setHTTP(header http.Header, pairs []string) {
	for i := 0; i < len(pairs); i += 2 {
		value := pairs[i+1]
		if strings.HasSuffix(pairs[i], "-bin") {
			value = base64.RawStdEncoding.EncodeToString([]byte(value))
		}
		header.Add(pairs[i], value)
	}
}

// wrapHeader leaves out that connect shows a response of trailers only as header too.
func wrapHeader(header http.Header) *core.Metadata {
	if header.Get("Grpc-Status") != "" {
		return nil
	}
	return wrapHTTP(header)
}

func wrapHTTP(header http.Header) *core.Metadata {
	return core.WrapMetadata(core.RawMetadata{Map: header, HTTP: true})
}

// plainEOF makes connect's EOF the usual one.
func plainEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	return err
}

type connectBidiStream struct {
	stream *connect.BidiStreamForClient[dummyv1.DummyRequest, dummyv1.DummyResponse]
}

func (s *connectBidiStream) Send(input string) error {
	return plainEOF(s.stream.Send(&dummyv1.DummyRequest{Input: input}))
}
func (s *connectBidiStream) CloseSend() error { return s.stream.CloseRequest() }
func (s *connectBidiStream) Receive() (string, error) {
	res, err := s.stream.Receive()
	return res.GetOutput(), plainEOF(err)
}
func (s *connectBidiStream) Close() error {
	return errors.Join(s.stream.CloseRequest(), s.stream.CloseResponse())
}
func (s *connectBidiStream) Header() *core.Metadata  { return wrapHeader(s.stream.ResponseHeader()) }
func (s *connectBidiStream) Trailer() *core.Metadata { return wrapHTTP(s.stream.ResponseTrailer()) }

type connectClientStream struct {
	stream  *connect.ClientStreamForClient[dummyv1.DummyRequest, dummyv1.DummyResponse]
	conn    connect.StreamingClientConn
	receive func() (string, error)
}

func (s *connectClientStream) Send(input string) error {
	return plainEOF(s.stream.Send(&dummyv1.DummyRequest{Input: input}))
}
func (s *connectClientStream) CloseSend() error         { return nil } // CloseAndReceive does both
func (s *connectClientStream) Receive() (string, error) { return s.receive() }
func (s *connectClientStream) Close() error             { return s.conn.CloseResponse() }
func (s *connectClientStream) Header() *core.Metadata   { return wrapHeader(s.conn.ResponseHeader()) }
func (s *connectClientStream) Trailer() *core.Metadata  { return wrapHTTP(s.conn.ResponseTrailer()) }

// connectServerStream opens with its request.
type connectServerStream struct {
	ctx    context.Context //nolint:containedctx // until the request is there
	driver connectDriver
	pairs  []string
	stream *connect.ServerStreamForClient[dummyv1.DummyResponse]
	err    error
}

func (s *connectServerStream) Send(input string) error {
	req := connect.NewRequest(&dummyv1.DummyRequest{Input: input})
	setHTTP(req.Header(), s.pairs)
	s.stream, s.err = s.driver.client.ExecuteServerStream(s.ctx, req)
	return s.err
}
func (s *connectServerStream) CloseSend() error { return nil }
func (s *connectServerStream) Receive() (string, error) {
	if s.err != nil {
		return "", s.err
	}
	if s.stream.Receive() {
		return s.stream.Msg().GetOutput(), nil
	}
	if err := s.stream.Err(); err != nil {
		return "", err
	}
	return "", io.EOF
}
func (s *connectServerStream) Close() error {
	if s.stream == nil {
		return s.err
	}
	return s.stream.Close()
}
func (s *connectServerStream) Header() *core.Metadata {
	if s.stream == nil {
		return nil
	}
	return wrapHeader(s.stream.ResponseHeader())
}
func (s *connectServerStream) Trailer() *core.Metadata {
	if s.stream == nil {
		return nil
	}
	return wrapHTTP(s.stream.ResponseTrailer())
}
