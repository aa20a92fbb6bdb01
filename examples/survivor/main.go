// Survivor is a client that gets its answers from servers that misbehave, over connect-go and grpc-go. It prints each attempt.
//
//	go run ./examples/survivor
//
// It starts a server of its own; -connect-url and -grpc-target aim it at an echo server that runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
	"github.com/rpcweft/weft/interceptors/breaker"
	"github.com/rpcweft/weft/interceptors/fallback"
	"github.com/rpcweft/weft/interceptors/hedge"
	"github.com/rpcweft/weft/interceptors/retry"
	"github.com/rpcweft/weft/interceptors/timeout"
	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

func main() {
	if err := run(context.Background(), os.Stdout, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "survivor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, args []string) error {
	flags := flag.NewFlagSet("survivor", flag.ContinueOnError)
	connectURL := flags.String("connect-url", "", "URL of a server to call by connect-go, like http://localhost:8080")
	grpcTarget := flags.String("grpc-target", "", "target of a server to call by grpc-go, like localhost:9090")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *connectURL == "" && *grpcTarget == "" {
		servers, err := misbehave(ctx)
		if err != nil {
			return err
		}
		defer servers.close()
		*connectURL, *grpcTarget = "http://"+servers.web, servers.grpc
	}
	if *connectURL != "" {
		if err := overConnect(ctx, out, *connectURL); err != nil {
			return err
		}
	}
	if *grpcTarget != "" {
		return overGRPC(ctx, out, *grpcTarget)
	}
	return nil
}

// policies are the chain of a client that survives: the same for both stacks.
func policies(out io.Writer) (*core.Chain, error) {
	answer, err := fallback.New(func(context.Context, *core.Call, error) (proto.Message, error) {
		return &dummyv1.DummyResponse{Output: "what the cache has"}, nil
	}, nil)
	if err != nil {
		return nil, err
	}
	whole, err := timeout.New(5*time.Second, nil)
	if err != nil {
		return nil, err
	}
	again, err := retry.New(4, &retry.Options{
		Methods:        core.MatchService(dummyv1connect.DummyServiceName), // its schema does not say that it may be repeated
		Backoff:        20 * time.Millisecond,
		AttemptTimeout: time.Second,
		OnAttempt: func(_ context.Context, _ *core.Call, end retry.End) {
			next := ""
			switch {
			case end.Again:
				next = fmt.Sprintf(", again in %v", end.Wait.Round(time.Millisecond))
			case end.Err != nil:
				next = ", no more: " + string(end.Reason)
			}
			fmt.Fprintf(out, "    attempt %d: %s%s\n", end.Number, core.CodeOf(end.Err), next)
		},
	})
	if err != nil {
		return nil, err
	}
	circuit, err := breaker.New(&breaker.Options{
		Consecutive: 4,
		OpenFor:     30 * time.Second,
		OnChange: func(_ string, from, to breaker.State) {
			fmt.Fprintf(out, "    the circuit was %s and is %s\n", from, to)
		},
	})
	if err != nil {
		return nil, err
	}
	return core.NewChain(answer, whole, again, circuit), nil
}

// hedged are the policies of calls whose answers must come soon.
func hedged(out io.Writer) (core.Interceptor, error) {
	return hedge.New(200*time.Millisecond, &hedge.Options{
		Methods: core.MatchService(dummyv1connect.DummyServiceName),
		OnAttempt: func(_ context.Context, _ *core.Call, end hedge.End) {
			fmt.Fprintf(out, "    attempt %d: %s, won: %t\n", end.Number, core.CodeOf(end.Err), end.Won)
		},
	})
}

// client is what the two stacks have in common here.
type client struct {
	call   func(ctx context.Context, input string) (string, error)
	stream func(ctx context.Context, input string) (string, error)
	hedged func(ctx context.Context, input string) (string, error)
}

func overConnect(ctx context.Context, out io.Writer, url string) error {
	chain, err := policies(out)
	if err != nil {
		return err
	}
	twice, err := hedged(out)
	if err != nil {
		return err
	}
	connectx.RegisterResponse[dummyv1.DummyResponse]() // a fallback may have to answer the first call
	plain := dummyv1connect.NewDummyServiceClient(http.DefaultClient, url, connect.WithInterceptors(connectx.New(chain)))
	quick := dummyv1connect.NewDummyServiceClient(http.DefaultClient, url, connect.WithInterceptors(connectx.New(twice)))
	unary := func(c dummyv1connect.DummyServiceClient) func(context.Context, string) (string, error) {
		return func(ctx context.Context, input string) (string, error) {
			res, err := c.Execute(ctx, connect.NewRequest(&dummyv1.DummyRequest{Input: input}))
			if err != nil {
				return "", err
			}
			return res.Msg.GetOutput(), nil
		}
	}
	return survive(ctx, out, "connect-go", client{unary(plain), func(ctx context.Context, input string) (string, error) {
		stream, err := plain.ExecuteServerStream(ctx, connect.NewRequest(&dummyv1.DummyRequest{Input: input}))
		if err != nil {
			return "", err
		}
		var output strings.Builder
		for stream.Receive() {
			output.WriteString(stream.Msg().GetOutput())
		}
		return output.String(), errors.Join(stream.Err(), stream.Close())
	}, unary(quick)})
}

func overGRPC(ctx context.Context, out io.Writer, target string) error {
	chain, err := policies(out)
	if err != nil {
		return err
	}
	twice, err := hedged(out)
	if err != nil {
		return err
	}
	dial := func(interceptor core.Interceptor) (*grpc.ClientConn, error) {
		return grpc.NewClient(target, append(grpcx.DialOptions(interceptor), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	}
	conn, err := dial(chain)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	quick, err := dial(twice)
	if err != nil {
		return err
	}
	defer func() { _ = quick.Close() }()
	unary := func(conn *grpc.ClientConn) func(context.Context, string) (string, error) {
		return func(ctx context.Context, input string) (string, error) {
			res, err := dummyv1.NewDummyServiceClient(conn).Execute(ctx, &dummyv1.DummyRequest{Input: input})
			return res.GetOutput(), err
		}
	}
	return survive(ctx, out, "grpc-go", client{unary(conn), func(ctx context.Context, input string) (string, error) {
		stream, err := dummyv1.NewDummyServiceClient(conn).ExecuteServerStream(ctx, &dummyv1.DummyRequest{Input: input})
		if err != nil {
			return "", err
		}
		var output strings.Builder
		for {
			res, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return output.String(), nil
			}
			if err != nil {
				return "", err
			}
			output.WriteString(res.GetOutput())
		}
	}, unary(quick)})
}

// survive makes the calls and prints what becomes of them.
func survive(ctx context.Context, out io.Writer, stack string, c client) error {
	fmt.Fprintln(out, stack)
	key := rand.Uint32() //nolint:gosec // a server that runs has seen no other
	for _, one := range []struct {
		what  string
		call  func(ctx context.Context, input string) (string, error)
		input string
	}{
		{"a server that is down for two attempts", c.call, fmt.Sprintf("flaky:2:unavailable:a%d", key)},
		{"a server that hangs once", c.call, fmt.Sprintf("lazy:1:1m:b%d", key)},
		{"a stream from a server that is down for one attempt", c.stream, fmt.Sprintf("flaky:1:unavailable:c%d", key)},
		{"a server that hangs once, asked twice", c.hedged, fmt.Sprintf("lazy:1:1m:d%d", key)},
		{"a server that is down", c.call, "fail:unavailable"},
		{"a server that is down, again", c.call, "fail:unavailable"},
		{"an answer that no retry heals", c.hedged, "fail:not_found"},
	} {
		fmt.Fprintf(out, "  %s: %s\n", one.what, one.input)
		output, err := one.call(ctx, one.input)
		if err != nil {
			fmt.Fprintf(out, "    the application gets %s\n", core.CodeOf(err))
			continue
		}
		fmt.Fprintf(out, "    the application gets %q\n", output)
	}
	return ctx.Err()
}

// servers are on ports of the loopback interface.
type servers struct {
	web, grpc string
	close     func()
}

// misbehave starts a server of each stack.
func misbehave(ctx context.Context) (*servers, error) {
	service := dummy.New(dummy.FlakyCases())
	var listen net.ListenConfig
	web, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	native, err := listen.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, web.Close())
	}
	mux := http.NewServeMux()
	mux.Handle(dummyv1connect.NewDummyServiceHandler(service.Connect(), connect.WithInterceptors(connectx.New())))
	connectServer := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	grpcServer := grpc.NewServer(grpcx.ServerOptions()...)
	dummyv1.RegisterDummyServiceServer(grpcServer, service.GRPC())
	var serving sync.WaitGroup
	serving.Go(func() { _ = connectServer.Serve(web) })
	serving.Go(func() { _ = grpcServer.Serve(native) })
	return &servers{web: web.Addr().String(), grpc: native.Addr().String(), close: func() {
		_ = connectServer.Close()
		grpcServer.Stop()
		serving.Wait()
	}}, nil
}
