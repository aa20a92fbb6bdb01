package metadata_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/metadata"
	"github.com/rpcweft/weft/rpctest"
)

func TestOnlyACallWithTheValuePasses(t *testing.T) {
	var rec rpctest.Recorder
	server := []core.Interceptor{
		must(metadata.Write(metadata.Set("x-server", "1"))),
		must(metadata.Require("X-Key", "hunter2 next", "hunter2")),
		must(metadata.Require("x-key-bin", "\x00 hunter2\n")),
		rec.Interceptor("inside"),
	}
	// On clients it does nothing.
	client := []core.Interceptor{must(metadata.Require("x-key", "hunter2"))}
	rpctest.Run(t, &rpctest.Options{Server: server, Client: client}, func(t *testing.T, c *rpctest.Client) {
		for name, pass := range map[string]*rpctest.Client{
			"the value":            c.With("x-key", "hunter2").With("x-key-bin", "\x00 hunter2\n"),
			"the other value":      c.With("x-key", "hunter2 next").With("x-key-bin", "\x00 hunter2\n"),
			"the key in uppercase": c.With("X-KEY", "hunter2").With("X-Key-Bin", "\x00 hunter2\n"),
		} {
			res := pass.Call(t.Context(), "hello")
			if res.Err != nil || strings.Join(res.Outputs, "") != "hello" {
				t.Errorf("%s: %s", name, res)
			}
		}
		if err := rec.Wait(5 * time.Second); err != nil {
			t.Error(err)
		}
		rec.Reset()
		binary := c.With("x-key-bin", "\x00 hunter2\n")
		for name, denied := range map[string]*rpctest.Client{
			"nothing":                 c,
			"one of two keys":         c.With("x-key", "hunter2"),
			"the other of two keys":   binary,
			"an empty value":          binary.With("x-key", ""),
			"a wrong value":           binary.With("x-key", "hunter3"),
			"its beginning":           binary.With("x-key", "hunter"),
			"more than it":            binary.With("x-key", "hunter22"),
			"another case":            binary.With("x-key", "Hunter2"),
			"the value twice":         binary.With("x-key", "hunter2").With("x-key", "hunter2"),
			"a wrong one, then it":    binary.With("x-key", "wrong").With("x-key", "hunter2"),
			"it, then a wrong one":    binary.With("x-key", "hunter2").With("x-key", "wrong"),
			"both values":             binary.With("x-key", "hunter2").With("x-key", "hunter2 next"),
			"both values in one":      binary.With("x-key", "hunter2,hunter2 next"),
			"another key":             binary.With("x-key2", "hunter2"),
			"a wrong binary value":    c.With("x-key", "hunter2").With("x-key-bin", "\x00 hunter2"),
			"two binary values":       binary.With("x-key", "hunter2").With("x-key-bin", "\x00 hunter2\n"),
			"text for a binary value": c.With("x-key", "hunter2").With("x-key-bin", "hunter2"),
		} {
			res := denied.Call(t.Context(), "hello")
			coded, ok := errors.AsType[*errors.Error](res.Err)
			if !ok || coded.Code() != core.CodeUnauthenticated || coded.Message() != "Access denied!" || len(coded.Details()) > 0 {
				t.Errorf("%s: got %s, want Access denied!", name, res)
			}
			equal(t, name+": metadata of the denial", only(res, "x-server", "x-key"), `x-server="1"`)
		}
		// Neither the handler nor what stands inside has seen anything.
		equal(t, "events inside", len(rec.Reset()), 0)
	})
}

func TestAStreamIsDeniedBeforeAnythingIsRead(t *testing.T) {
	var read atomic.Int32
	watch := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(func(context.Context, any) error {
			read.Add(1)
			return nil
		})
		return next(ctx, call)
	})
	server := []core.Interceptor{watch, must(metadata.Require("x-key", "hunter2"))}
	shapes := []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}
	rpctest.Run(t, &rpctest.Options{Server: server, Shapes: shapes}, func(t *testing.T, c *rpctest.Client) {
		stream, err := c.With("x-key", "wrong").Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send("hello") // the server may have answered already
		// The stream of requests is open while this waits; a client stream's ends here.
		if _, err = stream.Receive(); core.CodeOf(err) != core.CodeUnauthenticated {
			t.Errorf("got %v", err)
		}
		_ = stream.Close()
		equal(t, "messages read", read.Load(), 0)
	})
}

// A peer of ours swallows bad configuration and lets everybody pass.
func TestRequireRefusesBadConfiguration(t *testing.T) {
	for _, test := range []struct {
		key    string
		values []string
		words  []string
	}{
		{"", []string{"hunter2"}, []string{"key is empty"}},
		{"x key", []string{"hunter2"}, []string{`"x key"`}},
		{"Authorization:", []string{"hunter2"}, []string{`"authorization:"`}},
		{"grpc-status", []string{"hunter2"}, []string{`"grpc-status"`, "protocol"}},
		{"user-agent", []string{"hunter2"}, []string{`"user-agent"`}},
		{"X-Key", nil, []string{`"x-key"`, "no value"}},
		{"x-key", []string{""}, []string{`"x-key"`, "value 1 of 1 is empty"}},
		{"x-key", []string{"hunter2", ""}, []string{`"x-key"`, "value 2 of 2 is empty"}},
		{"x-key-bin", []string{""}, []string{`"x-key-bin"`, "value 1 of 1 is empty"}},
		{"x-key", []string{"hunter2\n"}, []string{`"x-key"`, "value 1 of 1", "newline"}},
		{"x-key", []string{"hunter2 "}, []string{`"x-key"`, "value 1 of 1", "space"}},
		{"x-key", []string{"good", " hunter2"}, []string{`"x-key"`, "value 2 of 2", "space"}},
		{"x-key", []string{" "}, []string{`"x-key"`, "value 1 of 1", "space"}},
		{"x-key", []string{"hünter2"}, []string{`"x-key"`, "value 1 of 1", "ASCII"}},
	} {
		interceptor, err := metadata.Require(test.key, test.values...)
		mustRefuse(t, interceptor, err, append(test.words, "metadata: Require")...)
		if strings.Contains(fmt.Sprint(err), "ü") || strings.Contains(fmt.Sprint(err), "0x") {
			t.Errorf("the error %q shows a part of the value", err)
		}
	}
}

func TestRequireShowsItsValueNowhere(t *testing.T) {
	interceptor := must(metadata.Require("x-key", "hunter2"))
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		text := fmt.Sprintf(format, interceptor)
		// f52fbd32...: its digest.
		if strings.Contains(text, "hunter2") || strings.Contains(text, "f52fbd32") || strings.Contains(text, "245 47 189") {
			t.Errorf("%s shows %s", format, text)
		}
	}
}
