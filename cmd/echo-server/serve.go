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
	"github.com/rpcweft/weft/cors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/grpcx/web"
	"github.com/rpcweft/weft/interceptors/trace"
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
	addr, grpcAddr, webAddr string
	certFile, keyFile       string
	token                   string // that callers must send, "" if none
	log                     *slog.Logger
	recorder                *trace.Recorder // of both chains, nil if nothing is recorded
	// Both are the same, but for a test that shows what becomes of it if they are not.
	connectChain, grpcChain []core.Interceptor
}

// servers are the two servers, listening. The one of grpc-go has a second address, for browsers.
type servers struct {
	config

	host, grpcHost, webHost string // host and port for clients
	cert                    tls.Certificate
	http, web               *http.Server
	grpc                    *grpc.Server
	httpHealth              *grpchealth.StaticChecker
	grpcHealth              *health.Server
	failed                  chan error // gets what ends a server unasked
}

// start listens on all addresses and serves in the background.
func start(ctx context.Context, c config) (_ *servers, err error) {
	s := &servers{config: c, failed: make(chan error, 3)}
	var security *tls.Config
	if c.certFile != "" {
		cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
		if err != nil {
			return nil, fmt.Errorf("-tls-cert, -tls-key: %w", err)
		}
		s.cert = cert
		security = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	}
	var listeners [3]net.Listener
	defer func() {
		for _, l := range listeners {
			if err != nil && l != nil {
				_ = l.Close()
			}
		}
	}()
	for i, a := range []struct {
		flag, addr string
		host       *string
	}{{"-addr", c.addr, &s.host}, {"-grpc-addr", c.grpcAddr, &s.grpcHost}, {"-grpc-web-addr", c.webAddr, &s.webHost}} {
		if listeners[i], err = new(net.ListenConfig).Listen(ctx, "tcp", a.addr); err != nil {
			return nil, fmt.Errorf("%s: %w", a.flag, err)
		}
		*a.host = dialable(a.addr, listeners[i])
	}

	service := dummy.New(dummy.FlakyCases()) // beside the ones that there are always
	s.newGRPC(service, security)
	if err := errors.Join(s.newHTTP(service, security), s.newWeb(security)); err != nil {
		return nil, err
	}
	go s.serve(s.http, listeners[0])
	go s.serve(s.web, listeners[2])
	go func() {
		if err := s.grpc.Serve(listeners[1]); err != nil {
			s.failed <- err
		}
	}()
	return s, nil
}

func (s *servers) serve(server *http.Server, l net.Listener) {
	serve := server.Serve
	if server.TLSConfig != nil {
		serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
	}
	if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
		s.failed <- err
	}
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

func (s *servers) newHTTP(service *dummy.Service, security *tls.Config) error {
	page, err := s.newPage()
	if err != nil {
		return err
	}
	options := connect.WithHandlerOptions(
		connect.WithInterceptors(connectx.New(s.connectChain...)),
		connect.WithReadMaxBytes(maxMessage),
	)
	s.httpHealth = grpchealth.NewStaticChecker(dummyv1connect.DummyServiceName)
	reflector := grpcreflect.NewStaticReflector(dummyv1connect.DummyServiceName,
		grpchealth.HealthV1ServiceName, grpcreflect.ReflectV1ServiceName, grpcreflect.ReflectV1AlphaServiceName)
	mux := http.NewServeMux()
	// The fixed definition does not say so, but they have none: so Execute may be called by GET.
	harmless := connect.WithIdempotency(connect.IdempotencyNoSideEffects)
	mux.Handle(dummyv1connect.NewDummyServiceHandler(service.Connect(), options, harmless))
	mux.Handle(grpchealth.NewHandler(s.httpHealth, options))
	mux.Handle(grpcreflect.NewHandlerV1(reflector, options))
	mux.Handle(grpcreflect.NewHandlerV1Alpha(reflector, options))
	mux.Handle("/trace", s.newTraces())
	mux.Handle("/", page)
	s.http = s.newServer(mux, security)
	return nil
}

// newWeb makes the server through which browsers call the services of grpc-go. The page comes from another origin.
func (s *servers) newWeb(security *tls.Config) error {
	handler, err := web.NewHandler(s.grpc, &web.Options{MaxMessageBytes: maxMessage})
	if err != nil {
		return err
	}
	wrap, err := cors.New(&cors.Options{Origins: s.origins(), RequestHeaders: sentByPages, ResponseHeaders: readByPages})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/trace", s.newTraces())
	mux.Handle("/", handler)
	s.web = s.newServer(wrap(mux), security)
	return nil
}

func (s *servers) newServer(handler http.Handler, security *tls.Config) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           handler,
		Protocols:         protocols,
		TLSConfig:         security.Clone(), // ServeTLS writes to it
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
	drained := make(chan error, 1)
	go func() { drained <- shutdown(ctx, s.http) }()
	err := shutdown(ctx, s.web) // first: GracefulStop would cut off the calls of grpc that come by it
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		s.grpc.GracefulStop()
	}()
	select {
	case <-stopped:
	case <-ctx.Done():
		err = ctx.Err()
		s.grpc.Stop() // unlike GracefulStop, it does not wait for handlers
	}
	return errors.Join(err, <-drained) == nil
}

func shutdown(ctx context.Context, server *http.Server) error {
	err := server.Shutdown(ctx)
	if err != nil {
		_ = server.Close()
	}
	return err
}
