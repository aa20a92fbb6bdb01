package rpctest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// Network is how clients and servers are joined.
type Network int

// The networks.
const (
	// Memory needs no ports and works inside testing/synctest bubbles.
	Memory Network = iota
	// TCP uses free ports on 127.0.0.1, without TLS.
	TCP
	// TLS uses free ports on 127.0.0.1, with a certificate that only the clients of this test trust.
	TLS
)

// Servers serves the Dummy service by both stacks. [Run] is the usual way to it.
type Servers struct {
	options Options
	tls     *tls.Config // of clients
	connect *listener
	http1   *listener // of the same server, for HTTP/1.1 in memory
	grpc    *listener

	mu    sync.Mutex
	close []func()
	once  sync.Once

	over    context.Context //nolint:containedctx // of all streams of the clients
	abandon context.CancelFunc
}

// listener is where a server listens and how to get there.
type listener struct {
	net.Listener
	dial func(context.Context) (net.Conn, error)
}

// NewServers starts both servers. They end with t, or with Close.
func NewServers(t testing.TB, o *Options) *Servers {
	t.Helper()
	s := &Servers{options: *o}
	s.over, s.abandon = context.WithCancel(context.Background())
	t.Cleanup(func() {
		s.Close()
		s.abandon()
	})
	service := dummy.New(o.Cases)
	var creds []grpc.ServerOption
	var serverTLS *tls.Config
	if o.Network == TLS {
		serverTLS, s.tls = certificate()
		creds = append(creds, grpc.Creds(credentials.NewTLS(serverTLS)))
	}

	s.connect, s.grpc = listen(t, o.Network), listen(t, o.Network)
	s.http1 = s.connect
	if o.Network == Memory {
		l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
		s.http1 = &listener{l, l.dial}
	}
	_, handler := dummyv1connect.NewDummyServiceHandler(service.Connect(),
		append([]connect.HandlerOption{connect.WithInterceptors(connectx.New(o.Server...))}, o.HandlerOptions...)...)
	web := &http.Server{
		Handler:           handler,
		Protocols:         new(http.Protocols),
		TLSConfig:         serverTLS,
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // it logs panics that a test wants
	}
	web.Protocols.SetHTTP1(true)
	web.Protocols.SetHTTP2(true)
	web.Protocols.SetUnencryptedHTTP2(true)
	native := grpc.NewServer(append(append(grpcx.ServerOptions(o.Server...), creds...), o.ServerOptions...)...)
	dummyv1.RegisterDummyServiceServer(native, service.GRPC())

	var serving sync.WaitGroup
	serving.Go(func() {
		if serverTLS != nil {
			_ = web.ServeTLS(s.connect, "", "")
			return
		}
		_ = web.Serve(s.connect)
	})
	if s.http1 != s.connect {
		serving.Go(func() { _ = web.Serve(s.http1) })
	}
	serving.Go(func() { _ = native.Serve(s.grpc) })
	s.close = append(s.close, func() {
		_ = web.Close()
		native.Stop()
		serving.Wait()
	})
	return s
}

// Close ends clients and servers. Calls under way fail. More than one Close is fine.
func (s *Servers) Close() {
	s.once.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, end := range slices.Backward(s.close) {
			end()
		}
	})
}

func (s *Servers) onClose(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.close = append(s.close, f)
}

func listen(t testing.TB, network Network) *listener {
	if network == Memory {
		l := bufconn.Listen(64 << 10)
		return &listener{l, l.DialContext}
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("rpctest: %v", err)
	}
	return &listener{l, func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}}
}

// pipeListener listens in memory for HTTP/1.1. In grpc's bufconn a deadline may come after it was
// taken back, which net/http's HTTP/1.1 servers do; and HTTP/2 wants the buffers that a net.Pipe has not.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Accept implements [net.Listener].
func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements [net.Listener].
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "memory", Net: "pipe"} }

// certificate borrows that of httptest: valid for example.com and 127.0.0.1.
func certificate() (server, client *tls.Config) {
	borrowed := httptest.NewUnstartedServer(nil)
	borrowed.StartTLS()
	defer borrowed.Close()
	roots := x509.NewCertPool()
	roots.AddCert(borrowed.Certificate())
	server = &tls.Config{Certificates: borrowed.TLS.Certificates, MinVersion: tls.VersionTLS12}
	client = &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS12}
	return server, client
}

// Dial opens a bare connection to the path's server, for tests that write the frames themselves.
func (s *Servers) Dial(ctx context.Context, path Path) (net.Conn, error) { return s.to(path).dial(ctx) }

// to returns where clients of the path connect to: the listener of its server, unless the options say otherwise.
func (s *Servers) to(path Path) *listener {
	switch {
	case s.options.Dial != nil:
		return &listener{dial: s.options.Dial}
	case path.Server == GRPC:
		return s.grpc
	case path.HTTP == 1:
		return s.http1
	}
	return s.connect
}

// httpClient returns a client for the path.
func (s *Servers) httpClient(path Path) *http.Client {
	l := s.to(path)
	transport := &http.Transport{
		DialContext:     func(ctx context.Context, _, _ string) (net.Conn, error) { return l.dial(ctx) },
		TLSClientConfig: s.tls.Clone(), // net/http writes into it
		Protocols:       new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(path.HTTP == 1)
	transport.Protocols.SetHTTP2(path.HTTP == 2)
	transport.Protocols.SetUnencryptedHTTP2(path.HTTP == 2)
	s.onClose(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Conn returns a connection of grpc-go to the path's server, with the client's interceptors.
func (s *Servers) Conn(path Path) *grpc.ClientConn {
	l := s.to(path)
	creds := insecure.NewCredentials()
	if s.tls != nil {
		creds = credentials.NewTLS(s.tls)
	}
	conn, err := grpc.NewClient("passthrough:///example.com", append(append(grpcx.DialOptions(s.options.Client...),
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.dial(ctx) })),
		s.options.DialOptions...)...)
	if err != nil {
		panic(err) // the target is ours
	}
	s.onClose(func() { _ = conn.Close() })
	return conn
}

// ConnectOptions returns what a client of connect-go needs for the path: its
// protocol, codec and the client's interceptors.
func (s *Servers) ConnectOptions(path Path) []connect.ClientOption {
	options := []connect.ClientOption{connect.WithInterceptors(connectx.New(s.options.Client...))}
	switch path.Protocol {
	case core.ProtocolGRPC:
		options = append(options, connect.WithGRPC())
	case core.ProtocolGRPCWeb:
		options = append(options, connect.WithGRPCWeb())
	case core.ProtocolConnect:
	}
	if path.Codec == "json" {
		options = append(options, connect.WithProtoJSON())
	}
	return append(options, s.options.ClientOptions...)
}

func (s *Servers) url() string {
	if s.tls != nil {
		return "https://example.com"
	}
	return "http://example.com"
}
