//go:build stubs

// Command client is the client under test; the suite feeds it.
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
	flag.StringVar(&c.Stack, "stack", "connect", "connect or grpc")
	flag.BoolVar(&c.Bare, "bare", false, "without Weft, to compare")
	flag.BoolVar(&c.Attempts, "attempts", false, "make an attempt of each call")
	flag.StringVar(&c.Fault, "fault", "", "what to break")
	flag.StringVar(&c.Reports, "reports", "", "folder for the report")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := sut.Run(ctx, c, os.Stdin, os.Stdout); err != nil {
		log.Fatal("client under test: ", err) //nolint:gocritic // nothing is left to stop
	}
}
