//go:build stubs

package sut

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // as connect-go has it
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/grpcx/web"
	suite "github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1"
	"github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1/conformancev1connect"
	"github.com/rpcweft/weft/test/conformance/internal/chain"
)

// Serve reads what server to be, says where it is and serves until the context is over.
func Serve(ctx context.Context, c Config, in io.Reader, out io.Writer) error {
	req := &suite.ServerCompatRequest{}
	if err := readMessage(in, req); err != nil {
		return err
	}
	var security *tls.Config
	if req.GetUseTls() {
		var err error
		security, err = loadTLS(req.GetServerCreds().GetCert(), req.GetServerCreds().GetKey(), req.GetClientTlsCert())
		if err != nil {
			return err
		}
		if len(req.GetClientTlsCert()) > 0 {
			security.ClientAuth = tls.RequireAndVerifyClientCert
		}
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	addr := listener.Addr().(*net.TCPAddr)
	installed := chain.New(c.Fault, false)
	failed := make(chan error, 1)
	var stop func()
	switch c.Stack {
	case grpcStack:
		stop = serveGRPC(c, installed, req, security, listener, failed)
	case webStack:
		var handler http.Handler
		if handler, err = web.NewHandler(newGRPC(c, installed, req), &web.Options{MaxMessageBytes: 2 * int(req.GetMessageReceiveLimit())}); err != nil {
			return err
		}
		stop = serveHTTP(handler, req, security, listener, failed)
	default:
		mux := http.NewServeMux()
		mux.Handle(conformancev1connect.NewConformanceServiceHandler(connectServer{},
			c.connectOption(installed),
			connect.WithReadMaxBytes(int(req.GetMessageReceiveLimit())),
		))
		stop = serveHTTP(mux, req, security, listener, failed)
	}
	err = writeMessage(out, &suite.ServerCompatResponse{
		Host: addr.IP.String(), Port: uint32(addr.Port), PemCert: req.GetServerCreds().GetCert(), //nolint:gosec // a port
	})
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
		}
	}
	stop()
	return errors.Join(err, installed.Write(c.Reports))
}

// grace is what running calls get when a server stops. Judges leave none behind; a broken one may.
const grace = time.Second

func serveHTTP(handler http.Handler, req *suite.ServerCompatRequest, security *tls.Config, listener net.Listener, failed chan<- error) (stop func()) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(req.GetHttpVersion() == suite.HTTPVersion_HTTP_VERSION_1)
	protocols.SetHTTP2(req.GetHttpVersion() == suite.HTTPVersion_HTTP_VERSION_2)
	protocols.SetUnencryptedHTTP2(req.GetHttpVersion() == suite.HTTPVersion_HTTP_VERSION_2)
	server := &http.Server{
		Handler: handler, Protocols: protocols, TLSConfig: security,
		ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.New(io.Discard, "", 0),
	}
	go func() {
		if security != nil {
			failed <- server.ServeTLS(listener, "", "")
		} else {
			failed <- server.Serve(listener)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), grace)
		defer cancel()
		_ = server.Shutdown(ctx)
		_ = server.Close()
	}
}

func serveGRPC(
	c Config, installed *chain.Chain, req *suite.ServerCompatRequest, security *tls.Config, listener net.Listener, failed chan<- error,
) (stop func()) {
	var options []grpc.ServerOption
	if security != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(security)))
	}
	server := newGRPC(c, installed, req, options...)
	go func() { failed <- server.Serve(listener) }()
	return func() {
		defer time.AfterFunc(grace, server.Stop).Stop()
		server.GracefulStop()
	}
}

func newGRPC(c Config, installed *chain.Chain, req *suite.ServerCompatRequest, options ...grpc.ServerOption) *grpc.Server {
	options = append(options, grpc.MaxRecvMsgSize(int(req.GetMessageReceiveLimit())))
	if c.Fault != "" {
		options = append(options, chain.GRPCServer(c.Fault))
	}
	if !c.Bare {
		options = append(options, grpcx.ServerOptions(installed.Interceptors...)...)
	}
	server := grpc.NewServer(options...)
	suite.RegisterConformanceServiceServer(server, grpcServer{})
	return server
}

// The service is defined by the answer that each request asks for. These are the parts that the stacks share.

// received is what the server tells the client of its requests.
type received struct {
	headers  []*suite.Header
	query    []*suite.Header
	requests []*anypb.Any
}

func (r *received) add(msg proto.Message) error {
	packed, err := anypb.New(msg)
	r.requests = append(r.requests, packed)
	return err
}

// take returns the requests that were not told of yet, and the rest with the first of them.
func (r *received) take(ctx context.Context, first bool) *suite.ConformancePayload_RequestInfo {
	info := &suite.ConformancePayload_RequestInfo{Requests: r.requests}
	r.requests = nil
	if !first {
		return info
	}
	info.RequestHeaders = r.headers
	if deadline, ok := ctx.Deadline(); ok {
		info.TimeoutMs = new(max(0, time.Until(deadline).Milliseconds()))
	}
	if len(r.query) > 0 {
		info.ConnectGetInfo = &suite.ConformancePayload_ConnectGetInfo{QueryParams: r.query}
	}
	return info
}

func delay(milliseconds uint32) { time.Sleep(time.Duration(milliseconds) * time.Millisecond) }

// single returns the one response that the definition asks for, or the error.
func single(ctx context.Context, d *suite.UnaryResponseDefinition, r *received) (*suite.ConformancePayload, *suite.Error, error) {
	info := r.take(ctx, true)
	if e := d.GetError(); e != nil {
		packed, err := anypb.New(info)
		e.Details = append(e.Details, packed)
		return nil, e, err
	}
	return &suite.ConformancePayload{Data: d.GetResponseData(), RequestInfo: info}, nil, nil
}

// streamer answers with a stream.
type streamer struct {
	*received

	ctx        context.Context //nolint:containedctx // of one call
	definition *suite.StreamResponseDefinition
	send       func(*suite.ConformancePayload) error
	toError    func(*suite.Error) error
	sent       int
}

func (s *streamer) done() bool { return s.sent >= len(s.definition.GetResponseData()) }

// next sends the next response.
func (s *streamer) next() error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	payload := &suite.ConformancePayload{Data: s.definition.GetResponseData()[s.sent]}
	if len(s.requests) > 0 || s.sent == 0 {
		payload.RequestInfo = s.take(s.ctx, s.sent == 0)
	}
	delay(s.definition.GetResponseDelayMs())
	s.sent++
	if err := s.send(payload); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// finish sends what is left, and the error.
func (s *streamer) finish() error {
	for !s.done() {
		if err := s.next(); err != nil {
			return err
		}
	}
	e := s.definition.GetError()
	if e == nil {
		return nil
	}
	if s.sent == 0 {
		packed, err := anypb.New(s.take(s.ctx, true))
		if err != nil {
			return err
		}
		e.Details = append(e.Details, packed)
	}
	return s.toError(e)
}

// bidi answers a stream of requests: in full duplex each one, else all together.
func (s *streamer) bidi(receive func() (*suite.BidiStreamRequest, error), begin func(full bool) error, flush func() error) error {
	full := false
	for first := true; ; first = false {
		msg, err := receive()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := s.add(msg); err != nil {
			return err
		}
		if first {
			s.definition, full = msg.GetResponseDefinition(), msg.GetFullDuplex()
			if err := begin(full); err != nil {
				return err
			}
		}
		if full {
			if s.done() {
				break
			}
			if err := s.next(); err != nil {
				return err
			}
		}
	}
	if !full {
		if err := flush(); err != nil {
			return err
		}
	}
	return s.finish()
}
