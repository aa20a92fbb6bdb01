//go:build stubs

// Command server is the server under test; the suite starts it.
package main

import (
	"context"
	"flag"
	"log"
	"os"
	"os/signal"
	"syscall"

	"github.com/rpcweft/weft/test/conformance/internal/sut"
)

func main() {
	var c sut.Config
	flag.StringVar(&c.Stack, "stack", "connect", "connect, grpc or web")
	flag.BoolVar(&c.Bare, "bare", false, "without Weft, to compare")
	flag.StringVar(&c.Fault, "fault", "", "what to break")
	flag.StringVar(&c.Reports, "reports", "", "folder for the report")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := sut.Serve(ctx, c, os.Stdin, os.Stdout); err != nil {
		log.Fatal("server under test: ", err) //nolint:gocritic // nothing is left to stop
	}
}
