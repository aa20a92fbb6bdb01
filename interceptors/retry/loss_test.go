package retry_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/rpctest"
)

// wire is how a client gets to a server over TCP. It can be cut.
type wire struct {
	dial func(ctx context.Context) (net.Conn, error)

	mu    sync.Mutex
	conns []net.Conn
	down  int // so many connections to come are refused
}

func (w *wire) connect(ctx context.Context) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down > 0 {
		w.down--
		return (&net.Dialer{}).DialContext(ctx, "tcp", "127.0.0.1:1") // nobody listens there
	}
	conn, err := w.dial(ctx)
	if err == nil {
		w.conns = append(w.conns, conn)
	}
	return conn, err
}

// cut closes all connections, and refuses so many.
func (w *wire) cut(down int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		_ = conn.(*net.TCPConn).SetLinger(0) // as a machine that has crashed
		_ = conn.Close()
	}
	w.conns, w.down = nil, down
}

// tcp runs test for each path and shape with a server and a wire of its own.
func tcp(t *testing.T, shapes []core.Shape, test func(t *testing.T, c *rpctest.Client, s *server, w *wire)) {
	t.Helper()
	for _, path := range rpctest.Paths() {
		for _, shape := range shapes {
			if path.Can(shape) {
				t.Run(path.String()+"/"+shape.String(), func(t *testing.T) {
					s, w := &server{}, &wire{}
					servers := rpctest.NewServers(t, &rpctest.Options{Network: rpctest.TCP, Server: []core.Interceptor{s}})
					w.dial = func(ctx context.Context) (net.Conn, error) { return servers.Dial(ctx, path) }
					clients := rpctest.NewServers(t, &rpctest.Options{
						Dial: w.connect,
						// grpc-go does not dial again for a second, and all calls fail at once meanwhile.
						DialOptions: []grpc.DialOption{grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: time.Millisecond, MaxDelay: time.Millisecond}})},
						Client:      []core.Interceptor{must(1000, &retry.Options{Methods: all, Backoff: time.Millisecond, MaxBackoff: time.Millisecond})},
					})
					test(t, clients.Client(path, shape), s, w)
					clients.Close()
				})
			}
		}
	}
}

func TestAConnectionThatIsLostInTheMiddleOfAnAttempt(t *testing.T) {
	tcp(t, rpctest.Shapes(), func(t *testing.T, c *rpctest.Client, s *server, w *wire) {
		s.script(func(ctx context.Context, number int, _ *core.Call) error {
			if number <= 2 {
				w.cut(0)
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
		wantAttempts(t, s, 3)
	})
}

func TestAServerThatIsGoneBetweenAttempts(t *testing.T) {
	tcp(t, rpctest.Shapes(), func(t *testing.T, c *rpctest.Client, s *server, w *wire) {
		s.script(func(_ context.Context, number int, _ *core.Call) error {
			if number == 1 {
				w.cut(1)
				return down
			}
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c.Call(ctx, "hi").Want(t, core.CodeOK, "hi")
		wantAttempts(t, s, 2)
	})
}

// Peers of ours give messages to the application twice.
func TestAConnectionThatIsLostInTheMiddleOfAStream(t *testing.T) {
	tcp(t, []core.Shape{core.ShapeBidiStream}, func(t *testing.T, c *rpctest.Client, s *server, w *wire) {
		// Before the first response: the next attempt gets all that was sent.
		s.script(func(_ context.Context, number int, call *core.Call) error {
			if number <= 2 {
				call.OnResponse(func(ctx context.Context, _ any) error {
					w.cut(0)
					<-ctx.Done()
					return ctx.Err()
				})
			}
			return nil
		})
		c.Call(t.Context(), "a", "b", "c").Want(t, core.CodeOK, "abc")
		wantAttempts(t, s, 3)
		// After it: the application hears of the loss.
		s.script(nil)
		stream, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = stream.Close() }()
		_ = stream.Send("a")
		if got, err := stream.Receive(); got != "a" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		w.cut(0)
		// connect-go calls what it has lost of a response INTERNAL.
		if got, err := stream.Receive(); core.CodeOf(err) != core.CodeUnavailable && core.CodeOf(err) != core.CodeInternal {
			t.Errorf("after the loss: %q, %v", got, err)
		}
		wantAttempts(t, s, 1)
	})
}
