package dummy

import (
	"context"
	"io"
	"net/http"
	"strings"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// Connect returns the service for connect-go. Its errors are Weft's, so that a
// handler needs connectx to send them.
func (s *Service) Connect() dummyv1connect.DummyServiceHandler { return connectService{s} }

type connectService struct{ *Service }

func (s connectService) Execute(ctx context.Context, req *connect.Request[dummyv1.DummyRequest]) (*connect.Response[dummyv1.DummyResponse], error) {
	return s.single(ctx, core.ShapeUnary, once(req.Msg.GetInput()))
}

func (s connectService) ExecuteClientStream(
	ctx context.Context, stream *connect.ClientStream[dummyv1.DummyRequest],
) (*connect.Response[dummyv1.DummyResponse], error) {
	return s.single(ctx, core.ShapeClientStream, func() (string, error) {
		if stream.Receive() {
			return stream.Msg().GetInput(), nil
		}
		if err := stream.Err(); err != nil {
			return "", err
		}
		return "", io.EOF
	})
}

func (s connectService) ExecuteServerStream(
	ctx context.Context, req *connect.Request[dummyv1.DummyRequest], stream *connect.ServerStream[dummyv1.DummyResponse],
) error {
	return s.serve(ctx, core.ShapeServerStream, wire{once(req.Msg.GetInput()), connectSend(stream.Send), newConnectMetadata(ctx)})
}

func (s connectService) ExecuteClientServerStream(
	ctx context.Context, stream *connect.BidiStream[dummyv1.DummyRequest, dummyv1.DummyResponse],
) error {
	return s.serve(ctx, core.ShapeBidiStream, wire{receive(stream.Receive), connectSend(stream.Send), newConnectMetadata(ctx)})
}

// single serves a method with one response.
func (s connectService) single(ctx context.Context, shape core.Shape, receive func() (string, error)) (*connect.Response[dummyv1.DummyResponse], error) {
	res := &dummyv1.DummyResponse{}
	send := func(output string) error {
		res.Output = output
		return nil
	}
	if err := s.serve(ctx, shape, wire{receive, send, newConnectMetadata(ctx)}); err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

func connectSend(send func(*dummyv1.DummyResponse) error) func(string) error {
	return func(output string) error { return send(&dummyv1.DummyResponse{Output: output}) }
}

// connectMetadata is the call's own, which unlike a response's survives an error.
type connectMetadata struct{ connect.CallInfo }

func newConnectMetadata(ctx context.Context) connectMetadata {
	info, _ := connect.CallInfoForHandlerContext(ctx)
	return connectMetadata{info}
}

func (m connectMetadata) request() map[string][]string {
	raw := map[string][]string{}
	for key, values := range m.RequestHeader() {
		key = strings.ToLower(key)
		if !strings.HasSuffix(key, "-bin") {
			raw[key] = append(raw[key], values...)
			continue
		}
		for _, value := range values {
			for part := range strings.SplitSeq(value, ",") { // HTTP may have joined them
				if data, err := connect.DecodeBinaryHeader(strings.TrimSpace(part)); err == nil {
					raw[key] = append(raw[key], string(data))
				}
			}
		}
	}
	return raw
}

func (m connectMetadata) addHeader(key, value string) error {
	return connectAdd(m.ResponseHeader(), key, value)
}

func (m connectMetadata) addTrailer(key, value string) error {
	return connectAdd(m.ResponseTrailer(), key, value)
}

func connectAdd(header http.Header, key, value string) error {
	if strings.HasSuffix(key, "-bin") {
		value = connect.EncodeBinaryHeader([]byte(value))
	}
	header.Add(key, value)
	return nil
}
