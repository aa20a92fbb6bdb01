//go:build stubs

package sut

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	suite "github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1"
	"github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1/conformancev1connect"
	"github.com/rpcweft/weft/test/conformance/internal/chain"
)

type connectClient struct {
	config Config
	chain  *chain.Chain

	mu         sync.Mutex
	transports map[string]*http.Transport
}

// transport returns the one for the server, with its connections.
func (c *connectClient) transport(req *suite.ClientCompatRequest) (http.RoundTripper, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := fmt.Sprint(req.GetHost(), req.GetPort(), req.GetHttpVersion(), len(req.GetServerTlsCert()), len(req.GetClientTlsCreds().GetCert()))
	if t, ok := c.transports[key]; ok {
		return t, nil
	}
	second := req.GetHttpVersion() == suite.HTTPVersion_HTTP_VERSION_2
	t := &http.Transport{DisableCompression: true, Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP1(!second)
	t.Protocols.SetHTTP2(second)
	t.Protocols.SetUnencryptedHTTP2(second && len(req.GetServerTlsCert()) == 0)
	if len(req.GetServerTlsCert()) > 0 {
		var err error
		creds := req.GetClientTlsCreds()
		if t.TLSClientConfig, err = loadTLS(creds.GetCert(), creds.GetKey(), req.GetServerTlsCert()); err != nil {
			return nil, err
		}
	}
	if c.transports == nil {
		c.transports = map[string]*http.Transport{}
	}
	c.transports[key] = t
	return t, nil
}

func (c *connectClient) call(ctx context.Context, req *suite.ClientCompatRequest) (*suite.ClientResponseResult, error) {
	transport, err := c.transport(req)
	if err != nil {
		return nil, err
	}
	options := []connect.ClientOption{
		c.config.connectOption(c.chain),
		connect.WithReadMaxBytes(int(req.GetMessageReceiveLimit())),
	}
	if req.GetUseGetHttpMethod() {
		options = append(options, connect.WithHTTPGet())
	}
	switch req.GetProtocol() {
	case suite.Protocol_PROTOCOL_GRPC:
		options = append(options, connect.WithGRPC())
	case suite.Protocol_PROTOCOL_GRPC_WEB:
		options = append(options, connect.WithGRPCWeb())
	default:
	}
	if req.GetCodec() == suite.Codec_CODEC_JSON {
		options = append(options, connect.WithProtoJSON())
	}
	if req.GetCompression() == suite.Compression_COMPRESSION_GZIP {
		options = append(options, connect.WithSendGzip())
	} else {
		options = append(options, connect.WithAcceptCompression("gzip", nil, nil))
	}
	scheme := "http://"
	if len(req.GetServerTlsCert()) > 0 {
		scheme = "https://"
	}
	url := scheme + net.JoinHostPort(req.GetHost(), strconv.Itoa(int(req.GetPort())))
	client := conformancev1connect.NewConformanceServiceClient(&http.Client{Transport: transport}, url, options...)
	ctx, timing := begin(ctx, req)
	defer timing.cancel()
	switch req.GetMethod() {
	case "Unary":
		return connectUnary[suite.UnaryRequest](ctx, req, timing, client.Unary)
	case "IdempotentUnary":
		return connectUnary[suite.IdempotentUnaryRequest](ctx, req, timing, client.IdempotentUnary)
	case "Unimplemented":
		return connectUnary[suite.UnimplementedRequest](ctx, req, timing, client.Unimplemented)
	case "ServerStream":
		return connectServerStream(ctx, req, timing, client)
	case "ClientStream":
		return connectClientStream(ctx, req, timing, client)
	case "BidiStream":
		return connectBidi(ctx, req, timing, client)
	}
	return nil, fmt.Errorf("no method %s", req.GetMethod())
}

// answered fills result with what a call of one response returned.
func answered[T any](result *suite.ClientResponseResult, res *connect.Response[T], err error) {
	if err != nil {
		result.Error = fromConnectError(err)
		if native := new(connect.Error); errors.As(err, &native) {
			result.ResponseTrailers = toHeaders(native.Meta())
		}
		return
	}
	if msg, ok := any(res.Msg).(interface {
		GetPayload() *suite.ConformancePayload
	}); ok {
		result.Payloads = []*suite.ConformancePayload{msg.GetPayload()}
	}
	result.ResponseHeaders, result.ResponseTrailers = toHeaders(res.Header()), toHeaders(res.Trailer())
}

func connectUnary[Req, Res any, M interface {
	*Req
	proto.Message
}](
	ctx context.Context, req *suite.ClientCompatRequest, timing *cancellation,
	method func(context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
) (*suite.ClientResponseResult, error) {
	requests, err := unpack[Req, M](req.GetRequestMessages())
	if err != nil {
		return nil, err
	}
	msg := connect.NewRequest((*Req)(requests[0]))
	addHeaders(req.GetRequestHeaders(), msg.Header().Add)
	timing.closed()
	result := &suite.ClientResponseResult{}
	res, err := method(ctx, msg)
	answered(result, res, err)
	return result, nil
}

func connectClientStream(
	ctx context.Context, req *suite.ClientCompatRequest, timing *cancellation, client conformancev1connect.ConformanceServiceClient,
) (*suite.ClientResponseResult, error) {
	requests, err := unpack[suite.ClientStreamRequest](req.GetRequestMessages())
	if err != nil {
		return nil, err
	}
	result := &suite.ClientResponseResult{}
	stream := client.ClientStream(ctx)
	addHeaders(req.GetRequestHeaders(), stream.RequestHeader().Add)
	for i, msg := range requests {
		delay(req.GetRequestDelayMs())
		if err := stream.Send(msg); errors.Is(err, io.EOF) {
			result.NumUnsentRequests = int32(len(requests) - i) //nolint:gosec // few
			break
		}
	}
	timing.closing()
	timing.closed()
	res, err := stream.CloseAndReceive()
	answered(result, res, err)
	return result, nil
}

func connectServerStream(
	ctx context.Context, req *suite.ClientCompatRequest, timing *cancellation, client conformancev1connect.ConformanceServiceClient,
) (*suite.ClientResponseResult, error) {
	requests, err := unpack[suite.ServerStreamRequest](req.GetRequestMessages())
	if err != nil {
		return nil, err
	}
	msg := connect.NewRequest(requests[0])
	addHeaders(req.GetRequestHeaders(), msg.Header().Add)
	result := &suite.ClientResponseResult{}
	stream, err := client.ServerStream(ctx, msg)
	if err != nil {
		result.Error = fromConnectError(err)
		if native := new(connect.Error); errors.As(err, &native) {
			result.ResponseHeaders = toHeaders(native.Meta())
		}
		return result, nil
	}
	timing.closed()
	for stream.Receive() {
		result.Payloads = append(result.Payloads, stream.Msg().GetPayload())
		timing.received(len(result.GetPayloads()))
	}
	result.Error = fromConnectError(stream.Err())
	if err := stream.Close(); err != nil && result.GetError() == nil {
		result.Error = fromConnectError(err)
	}
	if ctx.Err() == nil || len(result.GetPayloads()) > 0 { // otherwise connect-go may be writing them still
		result.ResponseHeaders, result.ResponseTrailers = toHeaders(stream.ResponseHeader()), toHeaders(stream.ResponseTrailer())
	}
	return result, nil
}

func connectBidi(
	ctx context.Context, req *suite.ClientCompatRequest, timing *cancellation, client conformancev1connect.ConformanceServiceClient,
) (*suite.ClientResponseResult, error) {
	result := &suite.ClientResponseResult{}
	stream := client.BidiStream(ctx)
	addHeaders(req.GetRequestHeaders(), stream.RequestHeader().Add)
	x := &exchange{send: stream.Send, closeSend: stream.CloseRequest, receive: stream.Receive, fromError: fromConnectError}
	if err := x.run(req, timing, result); err != nil {
		return nil, err
	}
	if err := stream.CloseResponse(); err != nil && result.GetError() == nil {
		result.Error = fromConnectError(err)
	}
	if ctx.Err() == nil || len(result.GetPayloads()) > 0 {
		result.ResponseHeaders, result.ResponseTrailers = toHeaders(stream.ResponseHeader()), toHeaders(stream.ResponseTrailer())
	}
	return result, nil
}
