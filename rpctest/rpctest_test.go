package rpctest_test

import (
	"context"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/rpctest"
)

var networks = map[string]rpctest.Network{"memory": rpctest.Memory, "TCP": rpctest.TCP, "TLS": rpctest.TLS}

// guarded survives panics, as any server must.
var guarded = []core.Interceptor{errors.NewInterceptor(nil)}

// outcomes makes calls of all kinds.
func outcomes(t *testing.T, c *rpctest.Client) {
	t.Helper()
	c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
	c.Call(t.Context(), "fail:not_found").Want(t, core.CodeNotFound, "")
	c.Call(t.Context(), "panic").Want(t, core.CodeInternal, "")
	for _, input := range []string{"metadata", "metadata-fail:aborted"} {
		res := c.With("x-echo-a", "1").With("X-Echo-B-Bin", "\x00\xff").Call(t.Context(), input)
		if got := res.Metadata(); !slices.Equal(got, []string{`x-echo-a="1"`, `x-echo-b-bin="\x00\xff"`, `x-trailer-a="1"`, `x-trailer-b-bin="\x00\xff"`}) {
			t.Errorf("%s: metadata %s of %s", input, got, res)
		}
	}
}

func TestEveryPathAndShapeWorksOnEachNetwork(t *testing.T) {
	for name, network := range networks {
		t.Run(name, func(t *testing.T) {
			tls := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
				if isTLS := call.Peer().TLS != nil; call.Protocol() == core.ProtocolGRPC && isTLS != (network == rpctest.TLS) && call.RequestHeader().Get("x-grpc") != "" {
					t.Errorf("TLS: %t", isTLS)
				}
				return next(ctx, call)
			})
			rpctest.Run(t, &rpctest.Options{Network: network, Server: slices.Concat(guarded, []core.Interceptor{tls})}, func(t *testing.T, c *rpctest.Client) {
				outcomes(t, c)
				if c.Path.Server == rpctest.GRPC {
					c.With("x-grpc", "1").Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
				}
			})
		})
	}
}

func TestEverythingInMemoryWorksInABubble(t *testing.T) {
	for _, path := range rpctest.Paths() {
		for _, shape := range rpctest.Shapes() {
			if !path.Can(shape) {
				continue
			}
			t.Run(path.String()+"/"+shape.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { // whose end shows that no goroutine is left
					s := rpctest.NewServers(t, &rpctest.Options{Server: guarded})
					defer s.Close()
					c := s.Client(path, shape)
					outcomes(t, c)
					start := time.Now()
					c.Call(t.Context(), "sleep:1h").Want(t, core.CodeOK, "sleep:1h")
					if took := time.Since(start); took != time.Hour {
						t.Errorf("an hour took %v", took)
					}
					ctx, cancel := context.WithCancel(t.Context())
					time.AfterFunc(time.Minute, cancel)
					c.Call(ctx, "sleep:1h").Want(t, core.CodeCanceled, "")
					time.Sleep(time.Hour) // over HTTP/1.1 the handler may not hear of it
				})
			})
		}
	}
}

func TestRunLeavesNothingBehind(t *testing.T) {
	files := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return 0 // not Linux
		}
		return len(open)
	}
	for name, network := range networks {
		t.Run(name, func(t *testing.T) {
			leave := func() {
				var streams []*rpctest.Stream // which nobody closes
				rpctest.Run(t, &rpctest.Options{Network: network, Server: guarded}, func(t *testing.T, c *rpctest.Client) {
					c.Call(t.Context(), "hi").Want(t, core.CodeOK, "hi")
					if c.Shape == core.ShapeBidiStream {
						s, err := c.Open(context.Background())
						if err != nil {
							t.Fatal(err)
						}
						_ = s.Send("hi")
						streams = append(streams, s)
					}
				})
			}
			leave() // what the process makes once
			goroutines, open := runtime.NumGoroutine(), files()
			leave()
			patience, tick := time.After(10*time.Second), time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for runtime.NumGoroutine() > goroutines || files() > open {
				select {
				case <-tick.C:
				case <-patience:
					stacks := make([]byte, 1<<20)
					t.Fatalf("%d goroutines and %d files, there were %d and %d:\n%s", runtime.NumGoroutine(), files(), goroutines, open, stacks[:runtime.Stack(stacks, true)])
				}
			}
		})
	}
}

func TestNobodyListensAfterClose(t *testing.T) {
	for name, network := range networks {
		s := rpctest.NewServers(t, &rpctest.Options{Network: network})
		for _, path := range rpctest.Paths() {
			conn, err := s.Dial(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
		}
		s.Close()
		s.Close()
		for _, path := range rpctest.Paths() {
			if conn, err := s.Dial(t.Context(), path); err == nil {
				_ = conn.Close()
				t.Errorf("%s: somebody listens for %s", name, path)
			}
		}
	}
}

func TestRunIsFilteredByPathAndShape(t *testing.T) {
	var ran []string
	path := rpctest.Paths()[2]
	rpctest.Run(t, &rpctest.Options{Paths: []rpctest.Path{path}, Shapes: rpctest.Shapes()[1:]}, func(_ *testing.T, c *rpctest.Client) {
		ran = append(ran, c.Path.String()+"/"+c.Shape.String())
	})
	if want := []string{path.String() + "/client_stream", path.String() + "/server_stream"}; !slices.Equal(ran, want) {
		t.Errorf("ran %q, want %q: HTTP/1.1 has no bidirectional streams", ran, want)
	}
	count := 0
	rpctest.Run(t, nil, func(*testing.T, *rpctest.Client) { count++ })
	if count != 37 {
		t.Errorf("%d combinations, want all 37", count)
	}
}

func TestAClientMayDialElsewhere(t *testing.T) {
	refused := errors.New("refused")
	dial := func(context.Context) (net.Conn, error) { return nil, refused }
	rpctest.Run(t, &rpctest.Options{Dial: dial}, func(t *testing.T, c *rpctest.Client) {
		c.Call(t.Context(), "hi").Want(t, core.CodeUnavailable, "")
	})
}

func TestMisuseOfAClientPanics(t *testing.T) {
	for name, misuse := range map[string]func(){
		"nil driver":    func() { rpctest.NewClient(rpctest.Path{}, core.ShapeUnary, nil) },
		"open of unary": func() { _, _ = rpctest.NewClient(rpctest.Path{}, core.ShapeUnary, &loop{}).Open(t.Context()) },
		"bad method":    func() { rpctest.Call(rpctest.Fake{Method: "x"}) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			misuse()
		}()
	}
}
