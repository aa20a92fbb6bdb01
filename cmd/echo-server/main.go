// Command echo-server is Weft's running showcase: the Dummy service on connect-go
// (the Connect, gRPC and gRPC-Web protocols) and on grpc-go, with one chain of
// interceptors on both. It has a page to call them from a browser, which shows what each
// interceptor did, prints lines to paste for curl, grpcurl and buf curl,
// and logs each request to stderr, with its id, which the response has in x-request-id, too. With -auth-token callers
// of the Dummy service must send the token; health and reflection stay public.
//
//	go run ./cmd/echo-server
//	go run ./cmd/echo-server -demo
//
// With -demo it calls every outcome of the service through every stack that can
// carry it, prints what the application saw as one table, and exits 1 if anything differs.
//
// SIGINT and SIGTERM let running calls finish, for a while; a second one does not.
// The exit code is 2 if the flags are wrong, a port in use included.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/rpcweft/weft/interceptors/trace"
)

// drain is how long running calls may take once the servers stop.
const drain = 10 * time.Second

// traces is how many of the last calls the page can show.
const traces = 200

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program. It returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	logger := slog.New(slog.NewTextHandler(stderr, nil))
	c := config{log: logger}
	flags := flag.NewFlagSet("echo-server", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&c.addr, "addr", "localhost:8080", "address of the connect-go server; port 0 chooses one")
	flags.StringVar(&c.grpcAddr, "grpc-addr", "localhost:9090", "address of the grpc-go server; port 0 chooses one")
	flags.StringVar(&c.webAddr, "grpc-web-addr", "localhost:9091", "address of the grpc-go server for browsers (gRPC-Web, Connect); port 0 chooses one")
	flags.StringVar(&c.certFile, "tls-cert", "", "certificate file (PEM), for TLS on both")
	flags.StringVar(&c.keyFile, "tls-key", "", "key file (PEM) of the certificate")
	flags.Func("auth-token", "bearer token that callers must send; all may call without this flag", func(token string) error {
		if c.token = token; token == "" {
			return errors.New("it is empty, so that everybody would know it")
		}
		return nil
	})
	proxies := flags.String("trusted-proxies", "", "networks of proxies, as 10.0.0.0/8,192.0.2.7, whose X-Forwarded-For is believed")
	traced := flags.Bool("trace", true, "show on the page what the interceptors did for a call")
	showcase := flags.Bool("demo", false, "start both, call every outcome through every stack, print the table and exit")

	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(stdout, "usage: echo-server [flags]")
		flags.SetOutput(stdout)
		flags.PrintDefaults()
		return 0
	case err != nil:
	case flags.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case (c.certFile == "") != (c.keyFile == ""):
		err = errors.New("-tls-cert and -tls-key go together")
	case *showcase && flags.NFlag() > 1:
		err = errors.New("-demo chooses its addresses itself and takes no other flag")
	}
	if err == nil {
		var trusted []string
		if *proxies != "" {
			trusted = strings.Split(*proxies, ",")
		}
		c.connectChain, err = chain(logger, c.token, trusted)
		if err == nil && *traced {
			c.recorder, err = trace.New(traces, &trace.Options{Enabled: true})
		}
		c.connectChain = c.recorder.Wrap(c.connectChain...)
		c.grpcChain = c.connectChain
	}
	var s *servers
	if err == nil && !*showcase {
		s, err = start(ctx, c)
	}
	if err != nil {
		fmt.Fprintln(stderr, "echo-server:", err)
		return 2
	}
	if *showcase {
		return demo(ctx, demoConfig(), stdout, stderr)
	}

	fmt.Fprint(stdout, s)
	select {
	case <-ctx.Done():
		logger.Info("stopping", "grace", drain)
		if !s.stop(drain) {
			logger.Warn("calls that took too long were cut off")
		}
		return 0
	case err := <-s.failed:
		fmt.Fprintln(stderr, "echo-server:", err)
		s.stop(0)
		return 1
	}
}
