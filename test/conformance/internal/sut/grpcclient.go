//go:build stubs

package sut

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/rpcweft/weft/grpcx"
	suite "github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1"
	"github.com/rpcweft/weft/test/conformance/internal/chain"
)

type grpcClient struct {
	config Config
	chain  *chain.Chain
}

func (c *grpcClient) call(ctx context.Context, req *suite.ClientCompatRequest) (*suite.ClientResponseResult, error) {
	security := insecure.NewCredentials()
	if len(req.GetServerTlsCert()) > 0 {
		creds := req.GetClientTlsCreds()
		config, err := loadTLS(creds.GetCert(), creds.GetKey(), req.GetServerTlsCert())
		if err != nil {
			return nil, err
		}
		security = credentials.NewTLS(config)
	}
	options := []grpc.DialOption{grpc.WithTransportCredentials(security), grpc.WithNoProxy()}
	if c.config.Fault != "" {
		options = append(options, chain.GRPCClient(c.config.Fault))
	}
	if !c.config.Bare {
		options = append(options, grpcx.DialOptions(c.chain.Interceptors...)...)
	}
	if req.GetCompression() == suite.Compression_COMPRESSION_GZIP {
		options = append(options, grpc.WithDefaultCallOptions(grpc.UseCompressor(gzip.Name)))
	}
	if limit := req.GetMessageReceiveLimit(); limit > 0 {
		options = append(options, grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(int(limit))))
	}
	conn, err := grpc.NewClient(net.JoinHostPort(req.GetHost(), strconv.Itoa(int(req.GetPort()))), options...)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	connected(ctx, conn)
	client := suite.NewConformanceServiceClient(conn)
	ctx, timing := begin(ctx, req)
	defer timing.cancel()
	ctx = metadata.NewOutgoingContext(ctx, toMD(req.GetRequestHeaders()))
	switch req.GetMethod() {
	case "Unary":
		return grpcUnary[suite.UnaryRequest](ctx, req, timing, client.Unary)
	case "Unimplemented":
		return grpcUnary[suite.UnimplementedRequest](ctx, req, timing, client.Unimplemented)
	case "ServerStream":
		return grpcServerStream(ctx, req, timing, client)
	case "ClientStream":
		return grpcClientStream(ctx, req, timing, client)
	case "BidiStream":
		return grpcBidi(ctx, req, timing, client)
	}
	return nil, fmt.Errorf("no method %s", req.GetMethod())
}

// connected waits for the connection, so that it takes nothing of the call's time.
func connected(ctx context.Context, conn *grpc.ClientConn) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn.Connect()
	for state := conn.GetState(); state != connectivity.Ready && conn.WaitForStateChange(ctx, state); {
		state = conn.GetState()
	}
}

func grpcUnary[Req any, Res proto.Message, M interface {
	*Req
	proto.Message
}](
	ctx context.Context, req *suite.ClientCompatRequest, timing *cancellation,
	method func(context.Context, M, ...grpc.CallOption) (Res, error),
) (*suite.ClientResponseResult, error) {
	requests, err := unpack[Req, M](req.GetRequestMessages())
	if err != nil {
		return nil, err
	}
	timing.closed()
	var header, trailer metadata.MD
	res, err := method(ctx, requests[0], grpc.Header(&header), grpc.Trailer(&trailer))
	result := &suite.ClientResponseResult{
		ResponseHeaders: fromMD(header), ResponseTrailers: fromMD(trailer), Error: fromGRPCError(err),
	}
	if msg, ok := any(res).(*suite.UnaryResponse); ok && err == nil {
		result.Payloads = []*suite.ConformancePayload{msg.GetPayload()}
	}
	return result, nil
}

// finished adds the metadata of a stream that is over.
func finished(stream grpc.ClientStream, result *suite.ClientResponseResult) *suite.ClientResponseResult {
	header, _ := stream.Header() // its error is that of the stream
	result.ResponseHeaders, result.ResponseTrailers = fromMD(header), fromMD(stream.Trailer())
	return result
}

func grpcServerStream(
	ctx context.Context, req *suite.ClientCompatRequest, timing *cancellation, client suite.ConformanceServiceClient,
) (*suite.ClientResponseResult, error) {
	requests, err := unpack[suite.ServerStreamRequest](req.GetRequestMessages())
	if err != nil {
		return nil, err
	}
	result := &suite.ClientResponseResult{}
	stream, err := client.ServerStream(ctx, requests[0])
	if err != nil {
		result.Error = fromGRPCError(err)
		return result, nil
	}
	timing.closed()
	for {
		msg, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			result.Error = fromGRPCError(err)
			break
		}
		result.Payloads = append(result.Payloads, msg.GetPayload())
		timing.received(len(result.GetPayloads()))
	}
	return finished(stream, result), nil
}

func grpcClientStream(
	ctx context.Context, req *suite.ClientCompatRequest, timing *cancellation, client suite.ConformanceServiceClient,
) (*suite.ClientResponseResult, error) {
	requests, err := unpack[suite.ClientStreamRequest](req.GetRequestMessages())
	if err != nil {
		return nil, err
	}
	result := &suite.ClientResponseResult{}
	stream, err := client.ClientStream(ctx)
	if err != nil {
		result.Error = fromGRPCError(err)
		return result, nil
	}
	for _, msg := range requests {
		delay(req.GetRequestDelayMs())
		if err := stream.Send(msg); err != nil {
			break
		}
	}
	timing.closing()
	timing.closed()
	res, err := stream.CloseAndRecv()
	if err != nil {
		result.Error = fromGRPCError(err)
	} else {
		result.Payloads = []*suite.ConformancePayload{res.GetPayload()}
	}
	return finished(stream, result), nil
}

func grpcBidi(
	ctx context.Context, req *suite.ClientCompatRequest, timing *cancellation, client suite.ConformanceServiceClient,
) (*suite.ClientResponseResult, error) {
	result := &suite.ClientResponseResult{}
	stream, err := client.BidiStream(ctx)
	if err != nil {
		result.Error = fromGRPCError(err)
		return result, nil
	}
	x := &exchange{send: stream.Send, closeSend: stream.CloseSend, receive: stream.Recv, fromError: fromGRPCError}
	if err := x.run(req, timing, result); err != nil {
		return nil, err
	}
	return finished(stream, result), nil
}
