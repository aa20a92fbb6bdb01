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

func newConnectDriver(s *Servers, path Path) driver {
	return connectDriver{dummyv1connect.NewDummyServiceClient(s.httpClient(path), s.url(), s.ConnectOptions(path)...)}
}

func (d connectDriver) unary(ctx context.Context, header []string, input string) *Result {
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

func (d connectDriver) open(ctx context.Context, shape core.Shape, header []string) (driven, error) {
	switch shape {
	case core.ShapeClientStream:
		stream := d.client.ExecuteClientStream(ctx)
		setHTTP(stream.RequestHeader(), header)
		return &connectClientStream{ClientStreamForClient: stream}, nil
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
	*connect.BidiStreamForClient[dummyv1.DummyRequest, dummyv1.DummyResponse]
}

func (s *connectBidiStream) send(input string) error {
	return plainEOF(s.Send(&dummyv1.DummyRequest{Input: input}))
}
func (s *connectBidiStream) closeSend() error { return s.CloseRequest() }
func (s *connectBidiStream) receive() (string, error) {
	res, err := s.Receive()
	return res.GetOutput(), plainEOF(err)
}
func (s *connectBidiStream) close() error {
	return errors.Join(s.CloseRequest(), s.CloseResponse())
}
func (s *connectBidiStream) header() *core.Metadata  { return wrapHeader(s.ResponseHeader()) }
func (s *connectBidiStream) trailer() *core.Metadata { return wrapHTTP(s.ResponseTrailer()) }

type connectClientStream struct {
	*connect.ClientStreamForClient[dummyv1.DummyRequest, dummyv1.DummyResponse]
	res  *connect.Response[dummyv1.DummyResponse]
	err  error
	done bool
}

func (s *connectClientStream) send(input string) error {
	return plainEOF(s.Send(&dummyv1.DummyRequest{Input: input}))
}
func (s *connectClientStream) closeSend() error { return nil } // CloseAndReceive does both
func (s *connectClientStream) receive() (string, error) {
	if s.done {
		if s.err == nil {
			return "", io.EOF
		}
		return "", s.err
	}
	s.done = true
	s.res, s.err = s.CloseAndReceive()
	if s.err != nil {
		return "", s.err
	}
	return s.res.Msg.GetOutput(), nil
}
func (s *connectClientStream) close() error {
	conn, err := s.Conn()
	if err != nil {
		return err
	}
	return conn.CloseResponse()
}
func (s *connectClientStream) header() *core.Metadata {
	conn, err := s.Conn()
	if err != nil {
		return nil
	}
	return wrapHeader(conn.ResponseHeader())
}
func (s *connectClientStream) trailer() *core.Metadata {
	conn, err := s.Conn()
	if err != nil {
		return nil
	}
	return wrapHTTP(conn.ResponseTrailer())
}

// connectServerStream opens with its request.
type connectServerStream struct {
	ctx    context.Context //nolint:containedctx // until the request is there
	driver connectDriver
	pairs  []string
	stream *connect.ServerStreamForClient[dummyv1.DummyResponse]
	err    error
}

func (s *connectServerStream) send(input string) error {
	req := connect.NewRequest(&dummyv1.DummyRequest{Input: input})
	setHTTP(req.Header(), s.pairs)
	s.stream, s.err = s.driver.client.ExecuteServerStream(s.ctx, req)
	return s.err
}
func (s *connectServerStream) closeSend() error { return nil }
func (s *connectServerStream) receive() (string, error) {
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
func (s *connectServerStream) close() error {
	if s.stream == nil {
		return s.err
	}
	return s.stream.Close()
}
func (s *connectServerStream) header() *core.Metadata {
	if s.stream == nil {
		return nil
	}
	return wrapHeader(s.stream.ResponseHeader())
}
func (s *connectServerStream) trailer() *core.Metadata {
	if s.stream == nil {
		return nil
	}
	return wrapHTTP(s.stream.ResponseTrailer())
}
