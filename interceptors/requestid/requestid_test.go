package requestid_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/requestid"
	"github.com/rpcweft/weft/rpctest"
)

func must(t testing.TB, opts *requestid.Options) core.Interceptor {
	t.Helper()
	i, err := requestid.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

var uuid7 = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

// ids notes the id that an interceptor at its place sees.
type ids struct {
	mu   sync.Mutex
	seen []string
}

func (i *ids) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	i.mu.Lock()
	i.seen = append(i.seen, requestid.FromContext(ctx))
	i.mu.Unlock()
	return next(ctx, call)
}

func (i *ids) take() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	seen := i.seen
	i.seen = nil
	return seen
}

func id(ctx context.Context, _ *rpctest.Input) (string, error) {
	return requestid.FromContext(ctx), nil
}

// response returns the ids in the response metadata.
func response(res *rpctest.Result) []string {
	return slices.Concat(res.Header.Values("x-request-id"), res.Trailer.Values("x-request-id"))
}

func TestAServerTakesAGoodIDAndReplacesABadOne(t *testing.T) {
	var inside ids
	server := []core.Interceptor{must(t, nil), &inside}
	rpctest.Run(t, &rpctest.Options{Server: server, Cases: map[string]rpctest.Case{"id": id}}, func(t *testing.T, c *rpctest.Client) {
		for name, test := range map[string]struct {
			sent []string
			kept bool
		}{
			"none":            {},
			"good":            {sent: []string{"abc-123_{}:/="}, kept: true},
			"the longest":     {sent: []string{strings.Repeat("x", requestid.MaxLen)}, kept: true},
			"too long":        {sent: []string{strings.Repeat("x", requestid.MaxLen+1)}},
			"with a space":    {sent: []string{"a b"}},
			"empty":           {sent: []string{""}},
			"two":             {sent: []string{"a", "b"}},
			"the same, twice": {sent: []string{"a", "a"}},
		} {
			client := c
			for _, value := range test.sent {
				client = client.With("X-Request-ID", value)
			}
			res := client.Call(t.Context(), "id")
			got := strings.Join(res.Outputs, "")
			if res.Err != nil || (test.kept && got != test.sent[0]) || (!test.kept && !uuid7.MatchString(got)) {
				t.Errorf("%s: got %s", name, res)
			}
			if sent := response(res); len(sent) != 1 || sent[0] != got {
				t.Errorf("%s: the response has %q, the context %q", name, sent, got)
			}
			if seen := inside.take(); len(seen) != 1 || seen[0] != got {
				t.Errorf("%s: inside saw %q, the handler %q", name, seen, got)
			}
		}
	})
}

func TestTheIDIsInTheResponseAlsoWhenTheCallFails(t *testing.T) {
	server := []core.Interceptor{must(t, nil), errors.NewInterceptor(&errors.Options{})}
	rpctest.Run(t, &rpctest.Options{Server: server}, func(t *testing.T, c *rpctest.Client) {
		for _, input := range []string{"fail:not_found", "plain", "panic", "fail-after:2:aborted"} {
			res := c.With("x-request-id", "r1").Call(t.Context(), input)
			if got := response(res); res.Err == nil || len(got) == 0 || slices.ContainsFunc(got, func(s string) bool { return s != "r1" }) {
				t.Errorf("%s: got %q, %s", input, got, res)
			}
		}
	})
}

func TestAClientSendsTheIDOfItsContextOrMakesOne(t *testing.T) {
	var inside ids
	o := &rpctest.Options{
		Client: []core.Interceptor{must(t, nil), &inside},
		Server: []core.Interceptor{must(t, nil)}, Cases: map[string]rpctest.Case{"id": id},
	}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		withID, err := requestid.NewContext(t.Context(), "mine")
		if err != nil {
			t.Fatal(err)
		}
		if res := c.Call(withID, "id"); strings.Join(res.Outputs, "") != "mine" || !slices.Equal(inside.take(), []string{"mine"}) {
			t.Error(res)
		}
		// What the application has put into the header goes before.
		if res := c.With("x-request-id", "theirs").Call(withID, "id"); strings.Join(res.Outputs, "") != "theirs" || !slices.Equal(inside.take(), []string{"theirs"}) {
			t.Error(res)
		}
		if res := c.With("x-request-id", "no id").Call(withID, "id"); strings.Join(res.Outputs, "") != "mine" {
			t.Error(res)
		}
		inside.take()
		res := c.Call(t.Context(), "id")
		made := strings.Join(res.Outputs, "")
		if !uuid7.MatchString(made) || !slices.Equal(inside.take(), []string{made}) {
			t.Error(res)
		}
	})
}

func TestTheEdgeIgnoresWhatTheCallerSays(t *testing.T) {
	server := []core.Interceptor{must(t, &requestid.Options{IgnoreIncoming: true})}
	rpctest.Run(t, &rpctest.Options{Server: server, Cases: map[string]rpctest.Case{"id": id}}, func(t *testing.T, c *rpctest.Client) {
		if res := c.With("x-request-id", "r1").Call(t.Context(), "id"); !uuid7.MatchString(strings.Join(res.Outputs, "")) {
			t.Error(res)
		}
	})
}

func TestErrorsTellTheIDIfAsked(t *testing.T) {
	server := []core.Interceptor{must(t, &requestid.Options{ErrorInfo: true, Header: "X-Trace"}), errors.NewInterceptor(&errors.Options{})}
	rpctest.Run(t, &rpctest.Options{Server: server}, func(t *testing.T, c *rpctest.Client) {
		for _, input := range []string{"fail:not_found", "plain", "panic", "metadata-fail:aborted"} {
			res := c.With("x-trace", "r1").With("x-echo-a", "1").Call(t.Context(), input)
			info, ok := errors.DetailOf[*errdetails.RequestInfo](res.Err)
			if !ok || info.GetRequestId() != "r1" {
				t.Errorf("%s: got %v of %s", input, info, res)
			}
			if _, ok := errors.DetailOf[*errdetails.ErrorInfo](res.Err); ok != strings.Contains(input, "fail") {
				t.Errorf("%s: the error's own detail: %v", input, ok)
			}
			if input == "plain" && core.CodeOf(res.Err) != core.CodeUnknown || strings.Contains(fmt.Sprint(res.Err), "hunter2") {
				t.Error(res)
			}
		}
	})
}

// What is in the tree of an error stays there, and what only looks like a failure is left alone.
func TestTheDetailTakesNothingFromAnError(t *testing.T) {
	i := must(t, &requestid.Options{ErrorInfo: true})
	run := func(err error) error {
		return rpctest.Call(rpctest.Fake{
			RequestHeader: map[string][]string{"x-request-id": {"r1"}},
			Invoke:        func(context.Context, *core.Call) error { return err },
		}).Run(t.Context(), i)
	}
	cause := stderrors.New("the table is locked")
	sentinel := errors.Aborted("try again").WithCause(cause).WithMetadata("x-a", "1")
	err := run(fmt.Errorf("saving: %w", sentinel))
	if !errors.Is(err, sentinel) || !errors.Is(err, cause) || !strings.Contains(err.Error(), "saving") {
		t.Errorf("lost something: %v", err)
	}
	if s := errors.Wire(err, nil); s.Message != "try again" || s.Metadata.Get("x-a") != "1" || len(s.Details) != 1 {
		t.Errorf("the wire carries %+v", s)
	}
	if got := run(cause); got != cause { //nolint:errorlint // the same value
		t.Errorf("an error without a code became %v", got)
	}
	if once := run(sentinel); len(errors.Details(run(once))) != 1 {
		t.Errorf("the detail was added twice: %v", errors.Details(run(once)))
	}
	if s := errors.Wire(run(foreign{}), nil); s.Code != core.CodeNotFound || s.Message != "not here" || len(s.Details) != 1 {
		t.Errorf("the wire carries %+v", s)
	}
	native := errors.FromNative(errors.Native{Original: cause, Code: core.CodeUnknown})
	fake := rpctest.Call(rpctest.Fake{Invoke: func(context.Context, *core.Call) error { return native }})
	fake.Init(get{fake}, fake.Method(), core.SideServer, core.ShapeUnary, core.ProtocolConnect, nil)
	if err := fake.Run(t.Context(), i); err != error(native) { //nolint:errorlint // the same value
		t.Errorf("connect's \"not modified\" became %v", err)
	}
}

// get is a call by GET.
type get struct{ *rpctest.FakeCall }

func (get) HTTPMethod() string { return "GET" }

// foreign is a coded error of another package.
type foreign struct{}

func (foreign) Error() string   { return "x" }
func (foreign) Code() core.Code { return core.CodeNotFound }
func (foreign) Message() string { return "not here" }

func TestAnInterceptorOutsideDecides(t *testing.T) {
	var inside ids
	call := rpctest.Call(rpctest.Fake{RequestHeader: map[string][]string{"x-request-id": {"sent"}}})
	ctx, err := requestid.NewContext(t.Context(), "outer")
	if err != nil {
		t.Fatal(err)
	}
	if err := call.Run(ctx, must(t, nil), must(t, &requestid.Options{IgnoreIncoming: true}), &inside); err != nil {
		t.Fatal(err)
	}
	if got := inside.take(); !slices.Equal(got, []string{"outer"}) || call.ResponseHeader().Get("x-request-id") != "outer" {
		t.Errorf("got %q, %v", got, call.ResponseHeader().Values("x-request-id"))
	}
}

func TestAGeneratorThatMisbehavesIsReplaced(t *testing.T) {
	for want, made := range map[string]string{"g-7": "g-7", "": "a\nb"} {
		var inside ids
		i := must(t, &requestid.Options{Generate: func() string { return made }})
		if err := rpctest.Call(rpctest.Fake{}).Run(t.Context(), i, &inside); err != nil {
			t.Fatal(err)
		}
		got := inside.take()[0]
		if want != "" && got != want || want == "" && !uuid7.MatchString(got) {
			t.Errorf("generated %q, got %q", made, got)
		}
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	for _, header := range []string{"x id", "grpc-status", "user-agent", ":path", "Content-Type"} {
		if _, err := requestid.New(&requestid.Options{Header: header}); err == nil || !strings.Contains(err.Error(), strings.ToLower(header)) {
			t.Errorf("%q: %v", header, err)
		}
	}
	for _, bad := range []string{"", "a b", "a\n", "ü", strings.Repeat("x", requestid.MaxLen+1)} {
		if ctx, err := requestid.NewContext(context.Background(), bad); err == nil || ctx != nil || len(err.Error()) > 256 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestIDsAreInTheOrderOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		last := ""
		for range 100 {
			id := requestid.NewID()
			if !uuid7.MatchString(id) || !requestid.Valid(id) || id <= last {
				t.Errorf("%s was made after %s", id, last)
			}
			last = id
			time.Sleep(time.Millisecond)
		}
	})
	all := map[string]bool{}
	for range 10000 {
		all[requestid.NewID()] = true
	}
	if len(all) != 10000 {
		t.Errorf("%d of 10000 are different", len(all))
	}
}

// A log that writes ids as they are cannot be given lines of the caller's making.
func FuzzAnIDIsOneWordOfAnyLog(f *testing.F) {
	for _, seed := range []string{"", "abc", "a b", "a\nlevel=ERROR", "\x00", "ü", strings.Repeat("x", 200), "a\x7f"} {
		f.Add(seed)
	}
	i, err := requestid.New(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, sent string) {
		var inside ids
		call := rpctest.Call(rpctest.Fake{RequestHeader: map[string][]string{"x-request-id": {sent}}})
		if err := call.Run(t.Context(), i, &inside); err != nil {
			t.Fatal(err)
		}
		got := inside.take()[0]
		if len(strings.Fields(got)) != 1 || len(got) > requestid.MaxLen || strings.ContainsFunc(got, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("%q became %q", sent, got)
		}
		if got != sent && !uuid7.MatchString(got) {
			t.Errorf("%q became %q", sent, got)
		}
	})
}

// newCall makes the call that benchmarks and guards run.
func newCall(header map[string][]string) *rpctest.FakeCall {
	return rpctest.Call(rpctest.Fake{RequestHeader: header})
}

func TestAnIDCostsLittle(t *testing.T) {
	handler := core.NewChain(must(t, nil)).Handler()
	bare := core.NewChain().Handler()
	for name, header := range map[string]map[string][]string{"sent": {"x-request-id": {"r1"}}, "made": nil} {
		measure := func(h core.Handler) float64 {
			return testing.AllocsPerRun(200, func() {
				call := newCall(header)
				call.ResponseHeader().Get("x") // the fake's own map
				_ = h(context.Background(), &call.Call)
			})
		}
		// The id, its place in the context and in the header.
		if got := measure(handler) - measure(bare); got > 6 {
			t.Errorf("%s: %v allocations, want 6 at most", name, got)
		}
	}
}

func BenchmarkRequestID(b *testing.B) {
	for name, chain := range map[string]*core.Chain{"bare": core.NewChain(), "with": core.NewChain(must(b, nil))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &newCall(nil).Call)
			}
		})
	}
}

func ExampleNew() {
	ids, err := requestid.New(&requestid.Options{ErrorInfo: true})
	if err != nil {
		fmt.Println(err)
		return
	}
	// On servers of either stack: connectx.New(ids, ...), grpcx.ServerOptions(ids, ...).
	call := rpctest.Call(rpctest.Fake{
		RequestHeader: map[string][]string{"x-request-id": {"r-42"}},
		Invoke: func(ctx context.Context, _ *core.Call) error {
			fmt.Println("the handler has", requestid.FromContext(ctx))
			return errors.NotFound("no such user")
		},
	})
	err = call.Run(context.Background(), ids)
	fmt.Println("the header has", call.ResponseHeader().Get("x-request-id"))
	info, _ := errors.DetailOf[*errdetails.RequestInfo](err)
	fmt.Println("the error has", info.GetRequestId())
	// Output:
	// the handler has r-42
	// the header has r-42
	// the error has r-42
}

// The id in each record of a log: see package logging for one record for each call.
func ExampleFromContext() {
	ctx, err := requestid.NewContext(context.Background(), "job-7")
	if err != nil {
		fmt.Println(err)
		return
	}
	attr := slog.String("request_id", requestid.FromContext(ctx))
	fmt.Println(attr)
	// Output: request_id=job-7
}
