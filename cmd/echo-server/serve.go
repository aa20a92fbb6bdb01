package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/grpchealth"
	"connectrpc.com/grpcreflect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	_ "google.golang.org/grpc/encoding/gzip" // connect-go has it without asking
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// The limits of both servers. There is none on the time that a request or a response takes: it would cut streams.
const (
	maxMessage    = 4 << 20 // bytes, decompressed
	maxHeader     = 64 << 10
	maxStreams    = 250 // on one connection
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	pingAfter     = 30 * time.Second // of silence, to find out whether the peer is still there
	pingTimeout   = 15 * time.Second
)

type config struct {
	addr, grpcAddr    string
	certFile, keyFile string
	token             string // that callers must send, "" if none
	log               *slog.Logger
	// Both are the same, but for a test that shows what becomes of it if they are not.
	connectChain, grpcChain []core.Interceptor
}

// servers are the two servers, listening.
type servers struct {
	config

	host, grpcHost string // host and port for clients
	cert           tls.Certificate
	http           *http.Server
	grpc           *grpc.Server
	httpHealth     *grpchealth.StaticChecker
	grpcHealth     *health.Server
	failed         chan error // gets what ends a server unasked
}

// start listens on both addresses and serves in the background.
func start(ctx context.Context, c config) (*servers, error) {
	s := &servers{config: c, failed: make(chan error, 2)}
	var security *tls.Config
	if c.certFile != "" {
		cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
		if err != nil {
			return nil, fmt.Errorf("-tls-cert, -tls-key: %w", err)
		}
		s.cert = cert
		security = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	var listen net.ListenConfig
	httpListener, err := listen.Listen(ctx, "tcp", c.addr)
	if err != nil {
		return nil, fmt.Errorf("-addr: %w", err)
	}
	grpcListener, err := listen.Listen(ctx, "tcp", c.grpcAddr)
	if err != nil {
		_ = httpListener.Close()
		return nil, fmt.Errorf("-grpc-addr: %w", err)
	}
	s.host, s.grpcHost = dialable(c.addr, httpListener), dialable(c.grpcAddr, grpcListener)

	service := dummy.New(nil)
	s.newHTTP(service, security)
	s.newGRPC(service, security)
	go func() {
		serve := s.http.Serve
		if security != nil {
			serve = func(l net.Listener) error { return s.http.ServeTLS(l, "", "") }
		}
		if err := serve(httpListener); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- err
		}
	}()
	go func() {
		if err := s.grpc.Serve(grpcListener); err != nil {
			s.failed <- err
		}
	}()
	return s, nil
}

// dialable returns the host that was asked for, if clients can dial it, with the port that it got.
func dialable(addr string, listener net.Listener) string {
	host, _, _ := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return net.JoinHostPort(host, port)
}

func (s *servers) newHTTP(service *dummy.Service, security *tls.Config) {
	options := connect.WithHandlerOptions(
		connect.WithInterceptors(connectx.New(s.connectChain...)),
		connect.WithReadMaxBytes(maxMessage),
	)
	s.httpHealth = grpchealth.NewStaticChecker(dummyv1connect.DummyServiceName)
	reflector := grpcreflect.NewStaticReflector(dummyv1connect.DummyServiceName,
		grpchealth.HealthV1ServiceName, grpcreflect.ReflectV1ServiceName, grpcreflect.ReflectV1AlphaServiceName)
	mux := http.NewServeMux()
	mux.Handle(dummyv1connect.NewDummyServiceHandler(service.Connect(), options))
	mux.Handle(grpchealth.NewHandler(s.httpHealth, options))
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options))

	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           mux,
		Protocols:         protocols,
		TLSConfig:         security,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams, SendPingTimeout: pingAfter, PingTimeout: pingTimeout},
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
}

func (s *servers) newGRPC(service *dummy.Service, security *tls.Config) {
	options := append(grpcx.ServerOptions(s.grpcChain...),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(headerTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: idleTimeout, Time: pingAfter, Timeout: pingTimeout}),
	)
	if security != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(security)))
	}
	s.grpc = grpc.NewServer(options...)
	dummyv1.RegisterDummyServiceServer(s.grpc, service.GRPC())
	s.grpcHealth = health.NewServer()
	s.grpcHealth.SetServingStatus(dummyv1connect.DummyServiceName, healthv1.HealthCheckResponse_SERVING)
	healthv1.RegisterHealthServer(s.grpc, s.grpcHealth)
	reflection.Register(s.grpc)
}

// stop lets running calls finish, cuts off those that take longer than the
// limit, and reports whether there were none.
func (s *servers) stop(limit time.Duration) bool {
	s.grpcHealth.Shutdown()
	for _, name := range []string{"", dummyv1connect.DummyServiceName} {
		s.httpHealth.SetStatus(name, grpchealth.StatusNotServing)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
	}()
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close()
	}
	select {
	case <-drained:
	case <-ctx.Done():
		err = ctx.Err()
		s.grpc.Stop() // unlike GracefulStop, it does not wait for handlers
	}
	return err == nil
}
