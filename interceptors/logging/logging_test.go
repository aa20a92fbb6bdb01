package logging_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/logging"
	"github.com/rpcweft/weft/rpctest"
)

func must(logger *slog.Logger, opts *logging.Options) core.Interceptor {
	i, err := logging.New(logger, opts)
	if err != nil {
		panic(err)
	}
	return i
}

// capture is a handler that hands records on, as text, one at a time.
type capture struct{ records chan string }

func newCapture() *capture { return &capture{make(chan string, 1000)} }

func (c *capture) Enabled(context.Context, slog.Level) bool { return true }
func (c *capture) WithAttrs([]slog.Attr) slog.Handler       { return c }
func (c *capture) WithGroup(string) slog.Handler            { return c }
func (c *capture) Handle(ctx context.Context, r slog.Record) error {
	var out bytes.Buffer
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == "duration") {
			return slog.Attr{}
		}
		return a
	}})
	err := handler.Handle(ctx, r)
	c.records <- strings.TrimSpace(out.String())
	return err
}

// next returns a record.
func (c *capture) next(t *testing.T) string {
	t.Helper()
	select {
	case record := <-c.records:
		return record
	case <-time.After(10 * time.Second):
		t.Fatal("there is no record")
		return ""
	}
}

func (c *capture) none(t *testing.T) {
	t.Helper()
	select {
	case record := <-c.records:
		t.Errorf("there is one more record: %s", record)
	default:
	}
}

// without takes away what protocol and peer say.
func without(record string) string {
	var kept []string
	for field := range strings.SplitSeq(record, " ") {
		if !strings.HasPrefix(field, "network.peer.") && !strings.HasPrefix(field, "protocol=") && !strings.HasPrefix(field, "rpc.system.name=") {
			kept = append(kept, field)
		}
	}
	return strings.Join(kept, " ")
}

func TestTheLogsOfACallAreEqualOnEveryStack(t *testing.T) {
	server, client := newCapture(), newCapture()
	o := &rpctest.Options{
		Server: []core.Interceptor{must(slog.New(server), nil), errors.NewInterceptor(nil)},
		Client: []core.Interceptor{must(slog.New(client), nil)},
		Cases: map[string]rpctest.Case{
			"user": func(ctx context.Context, in *rpctest.Input) (string, error) {
				logging.Add(ctx, slog.String("user.id", "ann"))
				return in.Text, nil
			},
			"wrapped": rpctest.Raises(fmt.Errorf("saving: %w", errors.Aborted("again").WithCause(errors.New("locked")))),
		},
	}
	first := map[string]string{}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		for _, inputs := range [][]string{{"hi"}, {"h", "i", ""}, nil, {"user"}, {"fail:not_found"}, {"fail-after:2:internal"}, {"plain"}, {"panic"}, {"wrapped"}} {
			_ = c.Call(t.Context(), inputs...)
			for side, log := range map[string]*capture{"server": server, "client": client} {
				record := log.next(t)
				for _, want := range []string{"side=" + side, "shape=" + c.Shape.String(), "protocol=" + string(c.Path.Protocol), "rpc.method=weft.dummy.v1.DummyService/Execute"} {
					if !strings.Contains(record, want) {
						t.Errorf("%s is not in %s", want, record)
					}
				}
				key := fmt.Sprint(side, c.Shape, inputs)
				if before, ok := first[key]; !ok {
					first[key] = without(record)
					t.Log(without(record))
				} else if before != without(record) {
					t.Errorf("got  %s\nwant %s", without(record), before)
				}
				log.none(t)
			}
		}
	})
}

func run(t testing.TB, fake rpctest.Fake, opts *logging.Options, outside ...core.Interceptor) (records []string, err error) {
	log := newCapture()
	err = rpctest.Call(fake).Run(t.Context(), append(outside, must(slog.New(log), opts))...)
	close(log.records)
	for record := range log.records {
		records = append(records, record)
	}
	return records, err
}

// A peer of ours logs a raw DeadlineExceeded as Unknown, of level error, while the wire says DeadlineExceeded.
func TestTheCodeIsThatOfTheWire(t *testing.T) {
	for _, test := range []struct {
		err  error
		want []string
	}{
		{nil, []string{"level=INFO", "rpc.response.status_code=OK"}},
		{context.DeadlineExceeded, []string{"level=WARN", "status_code=DEADLINE_EXCEEDED", "error.type=DEADLINE_EXCEEDED"}},
		{fmt.Errorf("query: %w", context.Canceled), []string{"level=INFO", "status_code=CANCELLED", `error="query: context canceled"`}},
		{errors.NotFound("no such user"), []string{"level=INFO", "status_code=NOT_FOUND", `error.message="no such user"`}},
		{errors.New("disk full"), []string{"level=ERROR", "status_code=UNKNOWN", `error.message="unknown error"`, `error="disk full"`}},
		{errors.Internal("x").WithCause(errors.New("disk full")), []string{"level=ERROR", "status_code=INTERNAL", `error="internal: x: disk full"`}},
		{errors.Unavailable("x"), []string{"level=WARN"}},
		{errors.Unimplemented("x"), []string{"level=WARN"}},
		{errors.DataLoss("x"), []string{"level=ERROR"}},
		{errors.ResourceExhausted("x"), []string{"level=WARN"}},
		{errors.PermissionDenied("x"), []string{"level=INFO"}},
	} {
		records, err := run(t, rpctest.Fake{Invoke: func(context.Context, *core.Call) error { return test.err }}, nil)
		if err != test.err || len(records) != 1 { //nolint:errorlint // the same value
			t.Fatalf("%v became %v, %q", test.err, err, records)
		}
		for _, want := range test.want {
			if !strings.Contains(records[0], want) {
				t.Errorf("%v: %s is not in %s", test.err, want, records[0])
			}
		}
		if e, ok := errors.AsType[*errors.Error](test.err); ok && e.Unwrap() == nil && strings.Contains(records[0], " error=") {
			t.Errorf("the error is there twice: %s", records[0])
		}
	}
}

// A peer logs "started call" at the first message, so never for a call without one.
func TestTheStartIsLoggedAtTheStart(t *testing.T) {
	log := newCapture()
	fake := rpctest.Fake{Shape: core.ShapeBidiStream, Peer: core.Peer{Addr: "[2001:db8::1]:443"}, Invoke: func(context.Context, *core.Call) error {
		record := log.next(t)
		for _, want := range []string{`msg="rpc started"`, "shape=bidi_stream", "network.peer.address=2001:db8::1", "network.peer.port=443", "timeout=1h0m0s", "id=7"} {
			if !strings.Contains(record, want) {
				t.Errorf("%s is not in %s", want, record)
			}
		}
		if strings.Contains(record, "status_code") {
			t.Error(record)
		}
		log.none(t)
		return nil
	}}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		i := must(slog.New(log), &logging.Options{Start: true, Attrs: func(context.Context, *core.Call) []slog.Attr { return []slog.Attr{slog.Int("id", 7)} }})
		if err := rpctest.Call(fake).Run(ctx, i); err != nil {
			t.Error(err)
		}
		if record := log.next(t); !strings.Contains(record, "msg=rpc ") || !strings.Contains(record, "id=7") || !strings.Contains(record, "timeout=1h0m0s") {
			t.Error(record)
		}
	})
}

// Sends and receives run at once; a peer has a race there. And a stream that the application abandons is logged, once.
func TestAStreamIsLoggedOnceWhateverItsEnd(t *testing.T) {
	server, client := newCapture(), newCapture()
	o := &rpctest.Options{
		Server: []core.Interceptor{must(slog.New(server), &logging.Options{Start: true})}, Shapes: []core.Shape{core.ShapeBidiStream},
		Client: []core.Interceptor{must(slog.New(client), &logging.Options{Payload: &logging.Payload{}})},
	}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		stream, err := c.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		const count = 20
		var sending sync.WaitGroup
		sending.Go(func() {
			for range count {
				_ = stream.Send("x")
			}
		})
		for range count {
			if _, err := stream.Receive(); err != nil {
				t.Error(err)
			}
		}
		sending.Wait()
		stream.Cancel()
		if record := server.next(t); !strings.Contains(record, `msg="rpc started"`) {
			t.Error(record)
		}
		if record := server.next(t); !strings.Contains(record, "requests=20 responses=20") || !strings.Contains(record, "CANCELLED") {
			t.Error(record)
		}
		kinds := map[string]int{}
		for kinds["rpc"] == 0 {
			record := client.next(t)
			kinds[strings.Trim(strings.SplitN(strings.SplitN(record, "msg=", 2)[1], " rpc.", 2)[0], `"`)]++
		}
		if kinds["rpc"] != 1 || kinds["rpc request"] != count || kinds["rpc response"] != count {
			t.Error(kinds)
		}
		_, _ = stream.Receive()
		_, _ = stream.Receive()
		_ = stream.Close()
		server.none(t)
		client.none(t)
	})
}

func TestAPanicThatPassesIsLogged(t *testing.T) {
	log := newCapture()
	i := must(slog.New(log), nil)
	for name, raise := range map[string]func(){"panic": func() { panic("x") }, "goexit": runtime.Goexit} {
		var group sync.WaitGroup
		group.Go(func() {
			defer func() { _ = recover() }()
			_ = rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error { raise(); return nil }}).Run(t.Context(), i)
			t.Error("it did not pass")
		})
		group.Wait()
		if record := log.next(t); !strings.Contains(record, "level=ERROR") || !strings.Contains(record, "INTERNAL") {
			t.Errorf("%s: %s", name, record)
		}
	}
}

func TestTheHooksDecide(t *testing.T) {
	var sampled []string
	opts := &logging.Options{
		Level: func(call *core.Call, code core.Code) slog.Level { return slog.LevelWarn + slog.Level(code) },
		Sample: func(_ context.Context, call *core.Call, code core.Code, took time.Duration) bool {
			sampled = append(sampled, fmt.Sprint(code, took >= 0))
			return code != core.CodeOK
		},
	}
	if records, err := run(t, rpctest.Fake{}, opts); err != nil || len(records) != 0 {
		t.Error(records, err)
	}
	records, _ := run(t, rpctest.Fake{Invoke: func(context.Context, *core.Call) error { return errors.Canceled("x") }}, opts)
	if len(records) != 1 || !strings.Contains(records[0], "level=WARN+1") || !slices.Equal(sampled, []string{"ok true", "canceled true"}) {
		t.Error(records, sampled)
	}
}

func TestWhatIsAddedInsideIsInTheRecordOfItsCall(t *testing.T) {
	log := newCapture()
	outgoing := must(slog.New(log), nil)
	fake := rpctest.Fake{Invoke: func(ctx context.Context, _ *core.Call) error {
		logging.Add(ctx, slog.Int("served", 1))
		var group sync.WaitGroup
		for range 10 {
			group.Go(func() { logging.Add(ctx, slog.Int("n", 1)) })
		}
		group.Wait()
		further := rpctest.Fake{Side: core.SideClient, Invoke: func(ctx context.Context, _ *core.Call) error {
			logging.Add(ctx, slog.Int("called", 1))
			return nil
		}}
		return rpctest.Call(further).Run(ctx, outgoing)
	}}
	records, err := run(t, fake, nil)
	if err != nil || len(records) != 1 || !strings.Contains(records[0], "served=1") || strings.Count(records[0], "n=1") != 10 || strings.Contains(records[0], "called") {
		t.Error(records, err)
	}
	if record := log.next(t); !strings.Contains(record, "called=1") || strings.Contains(record, "served") {
		t.Error(record)
	}
	logging.Add(t.Context(), slog.Int("nobody", 1)) // does nothing
}

func TestCredentialsInMetadataAreRedactedOnEveryStack(t *testing.T) {
	log := newCapture()
	opts := &logging.Options{Metadata: true, RedactMetadata: []string{"X-Echo-Mine", "x-trailer-mine"}}
	rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{must(slog.New(log), opts)}}, func(t *testing.T, c *rpctest.Client) {
		for _, key := range []string{
			"authorization", "cookie", "x-api-key", "x-echo-token", "X-Echo-Session-Id", "proxy-authorization", "x-echo-mine",
			"x-client-secret", "x-echo-jwt", "x-amz-signature", "x-user-password",
		} {
			c = c.With(key, "hunter2")
		}
		res := c.With("x-echo-a", "1").With("x-echo-a", "2").With("x-echo-b-bin", "\x00hunter2").Call(t.Context(), "metadata")
		if res.Err != nil {
			t.Fatal(res)
		}
		record := log.next(t)
		if strings.Contains(record, "hunter2") || strings.Contains(record, "aHVudGVy") {
			t.Errorf("the log shows a secret: %s", record)
		}
		for _, want := range []string{
			"rpc.request.metadata.authorization=[REDACTED]", "rpc.request.metadata.x-echo-mine=[REDACTED]", `rpc.request.metadata.x-echo-a="1, 2"`,
			`rpc.request.metadata.x-echo-b-bin="[1 values]"`, `rpc.response.metadata.x-echo-a="1, 2"`, "rpc.response.metadata.x-echo-token=[REDACTED]",
		} {
			if !strings.Contains(record, want) {
				t.Errorf("%s is not in %s", want, record)
			}
		}
	})
}

// Nobody logs payloads or metadata without being asked, as a peer does.
func TestAPlainRecordShowsNoPayload(t *testing.T) {
	log := newCapture()
	o := &rpctest.Options{Server: []core.Interceptor{must(slog.New(log), nil)}, Client: []core.Interceptor{must(slog.New(log), nil)}}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		_ = c.With("x-secret", "hunter2").Call(t.Context(), "hunter2")
		for range 2 {
			if record := log.next(t); strings.Contains(record, "hunter2") || strings.Contains(record, "x-secret") || !strings.HasPrefix(record, "level=INFO msg=rpc ") {
				t.Error(record)
			}
		}
		log.none(t)
	})
}

func TestBadConfigurationIsRefused(t *testing.T) {
	logger := slog.New(slog.DiscardHandler)
	for want, o := range map[string]*logging.Options{
		`"grpc-status"`:                            {RedactMetadata: []string{"x", "grpc-status"}},
		`negative`:                                 {Payload: &logging.Payload{MaxBytes: -1}},
		`"weft.dummy.v1.DummyRequest.inptu"`:       {Payload: &logging.Payload{Redact: []string{"weft.dummy.v1.DummyRequest.inptu"}}},
		`"weft.dummy.v1.DummyRequest"`:             {Payload: &logging.Payload{Redact: []string{"weft.dummy.v1.DummyRequest"}}},
		`"weft.dummy.v1.DummyRequest.input.more"`:  {Payload: &logging.Payload{Redact: []string{"weft.dummy.v1.DummyRequest.input.more"}}},
		`2 of 2: protobuf's registry has no field`: {Payload: &logging.Payload{Redact: []string{"weft.dummy.v1.DummyRequest.input", ""}}},
	} {
		if _, err := logging.New(logger, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
	defer func() {
		if got := fmt.Sprint(recover()); !strings.Contains(got, "nil logger") {
			t.Error(got)
		}
	}()
	_, _ = logging.New(nil, nil)
}

// discard takes records and makes nothing of them, but is enabled.
type discard struct{}

func (discard) Enabled(context.Context, slog.Level) bool  { return true }
func (discard) Handle(context.Context, slog.Record) error { return nil }
func (d discard) WithAttrs([]slog.Attr) slog.Handler      { return d }
func (d discard) WithGroup(string) slog.Handler           { return d }
func chains() map[string]*core.Chain {
	count := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(nothing)
		call.OnResponse(nothing)
		return next(ctx, call)
	})
	return map[string]*core.Chain{
		"bare": core.NewChain(), "hooks": core.NewChain(count), "with": core.NewChain(must(slog.New(discard{}), nil)),
		"off": core.NewChain(must(slog.New(slog.DiscardHandler), nil)),
	}
}

func nothing(context.Context, any) error { return nil }

func BenchmarkLogging(b *testing.B) {
	for name, chain := range chains() {
		for _, shape := range []core.Shape{core.ShapeUnary, core.ShapeBidiStream} {
			fake := rpctest.Fake{Shape: shape, Peer: core.Peer{Addr: "192.0.2.1:443"}}
			b.Run(name+"/"+shape.String(), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					_ = chain.Handler()(context.Background(), &rpctest.Call(fake).Call)
				}
			})
		}
	}
}

// timeless leaves away what is not the same each time.
func timeless(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == "duration" {
		return slog.Attr{}
	}
	return a
}

func ExampleNew() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: timeless}))
	log, err := logging.New(logger, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	// On servers and clients of either stack: connectx.New(log, ...), grpcx.ServerOptions(log, ...).
	call := rpctest.Call(rpctest.Fake{Peer: core.Peer{Addr: "192.0.2.7:50312"}, Invoke: func(ctx context.Context, _ *core.Call) error {
		logging.Add(ctx, slog.String("user.id", "ann"))
		return errors.NotFound("no such thing").WithCause(errors.New("sql: no rows in result set"))
	}})
	_ = call.Run(context.Background(), log)
	// Output:
	// level=INFO msg=rpc rpc.system.name=grpc rpc.method=weft.dummy.v1.DummyService/Execute side=server shape=unary protocol=grpc network.peer.address=192.0.2.7 network.peer.port=50312 rpc.response.status_code=NOT_FOUND requests=1 responses=0 error.type=NOT_FOUND error.message="no such thing" error="not_found: no such thing: sql: no rows in result set" user.id=ann
}
