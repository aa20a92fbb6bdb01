package auth_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	_ "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/auth"
	"github.com/rpcweft/weft/rpctest"
)

type user struct {
	Name  string
	Admin bool
}

const service = "weft.dummy.v1.DummyService"

var (
	ann = user{"ann", true}
	bob = user{"bob", false}
)

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func secrets() auth.Verify {
	return must(auth.Secrets(map[string]user{"ann-token": ann, "bob-token": bob, "bob:hunter2:": bob}))
}

func admins(ctx context.Context, _ *core.Call) error {
	if u, ok := auth.Identity[user](ctx); ok && u.Admin {
		return nil
	}
	return errors.New("hunter2: not an admin")
}

func whoami(ctx context.Context, _ *rpctest.Input) (string, error) {
	u, ok := auth.Identity[user](ctx)
	return fmt.Sprint(u.Name, ok), nil
}

var cases = map[string]rpctest.Case{"whoami": whoami}

// challenges returns what the caller is told to send, as its stack shows it.
func challenges(res *rpctest.Result) string {
	return strings.Join(append(res.Header.Values("www-authenticate"), res.Trailer.Values("www-authenticate")...), "; ")
}

func wantRefusal(t *testing.T, name string, res *rpctest.Result, code core.Code, message string) {
	t.Helper()
	e, ok := errors.AsType[*errors.Error](res.Err)
	if !ok || e.Code() != code || e.Message() != message {
		t.Errorf("%s: got %s, want %s: %s", name, res, code, message)
	}
	for _, bad := range []string{"hunter2", "ann-token", "bob-token", "nobody has"} {
		if strings.Contains(fmt.Sprint(res.Err, res.Metadata()), bad) {
			t.Errorf("%s: the caller was told %s: %s", name, bad, res)
		}
	}
}

func TestOnlyWhoMayPasses(t *testing.T) {
	key := must(auth.APIKey("X-Api-Key", secrets()))
	// Every method of the Dummy service has a rule of its own, so that all shapes are the same.
	guard := must(auth.New(auth.FirstOf(auth.Bearer(secrets()), auth.Basic(secrets()), key),
		[]auth.Rule{auth.Known(service)}, &auth.Options{Realm: `a "shop"`}))
	var rec rpctest.Recorder
	basic := func(pair string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(pair)) }
	o := &rpctest.Options{Server: []core.Interceptor{guard, rec.Interceptor("inside")}, Client: []core.Interceptor{guard}, Cases: cases}
	rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
		for name, test := range map[string]struct {
			client *rpctest.Client
			want   string
		}{
			"bearer":                  {c.With("authorization", "Bearer ann-token"), "anntrue"},
			"the scheme in lowercase": {c.With("Authorization", "bearer  ann-token"), "anntrue"},
			"basic":                   {c.With("authorization", basic("bob:hunter2:")), "bobtrue"},
			"an API key":              {c.With("x-api-key", "bob-token"), "bobtrue"},
			"two kinds":               {c.With("x-api-key", "bob-token").With("authorization", "Bearer ann-token"), "anntrue"},
		} {
			if res := test.client.Call(t.Context(), "whoami"); res.Err != nil || strings.Join(res.Outputs, "") != test.want {
				t.Errorf("%s: got %s, want %s", name, res, test.want)
			}
		}
		if err := rec.Wait(5 * time.Second); err != nil {
			t.Error(err)
		}
		rec.Reset()
		const realm = ` realm="a \"shop\""`
		for name, client := range map[string]*rpctest.Client{
			"nothing":        c,
			"another scheme": c.With("authorization", "Digest ann-token"),
			"only a scheme":  c.With("authorization", "ann-token"),
		} {
			res := client.Call(t.Context(), "whoami")
			wantRefusal(t, name, res, core.CodeUnauthenticated, "valid credentials are needed")
			want := "Bearer" + realm + "; Basic" + realm + `, charset="UTF-8"; ApiKey` + realm + `, header="x-api-key"`
			if got := challenges(res); got != want {
				t.Errorf("%s: got the challenge %s, want %s", name, got, want)
			}
		}
		for name, client := range map[string]*rpctest.Client{
			"a wrong token":               c.With("authorization", "Bearer ann-toke"),
			"an empty one":                c.With("authorization", "Bearer"),
			"one with a space":            c.With("authorization", "Bearer ann-token and"),
			"two headers":                 c.With("authorization", "Bearer ann-token").With("authorization", "Bearer ann-token"),
			"a wrong password":            c.With("authorization", basic("bob:hunter2")),
			"no colon":                    c.With("authorization", basic("ann-token")),
			"no base64":                   c.With("authorization", "Basic ann-token"),
			"a wrong key":                 c.With("x-api-key", "Ann-token"),
			"an empty key":                c.With("x-api-key", ""),
			"two keys":                    c.With("x-api-key", "ann-token").With("x-api-key", "bob-token"),
			"a right key, a wrong token":  c.With("x-api-key", "ann-token").With("authorization", "Bearer x"),
			"more than anyone would send": c.With("x-api-key", strings.Repeat("x", 17<<10)),
		} {
			res := client.Call(t.Context(), "whoami")
			wantRefusal(t, name, res, core.CodeUnauthenticated, "valid credentials are needed")
			if got := challenges(res); strings.Contains(got, ";") || !strings.Contains(got, realm) || strings.HasPrefix(got, "Bearer") != strings.Contains(got, `error="invalid_token"`) {
				t.Errorf("%s: got the challenge %s", name, got)
			}
		}
		if events := rec.Reset(); len(events) > 0 {
			t.Errorf("inside saw %v", events)
		}
	})
}

// A selector of a peer swallows what is wrong with a pattern and lets everybody pass. Here what no rule names is denied.
func TestAMethodThatNoRuleNamesIsDenied(t *testing.T) {
	call := func(method, token string, rules ...auth.Rule) error {
		header := map[string][]string{}
		if token != "" {
			header["authorization"] = []string{"Bearer " + token}
		}
		guard := must(auth.New(auth.Bearer(secrets()), rules, nil))
		return rpctest.Call(rpctest.Fake{Method: method, RequestHeader: header}).Run(t.Context(), guard)
	}
	const execute, stream, health = "/" + service + "/Execute", "/" + service + "/ExecuteServerStream", "/grpc.health.v1.Health/Check"
	for _, test := range []struct {
		method, token string
		rules         []auth.Rule
		want          core.Code
	}{
		{execute, "ann-token", []auth.Rule{auth.Known(stream)}, core.CodePermissionDenied},
		{execute, "", []auth.Rule{auth.Known(stream)}, core.CodeUnauthenticated},
		{execute, "", []auth.Rule{auth.Public(stream)}, core.CodeUnauthenticated},
		{health, "", []auth.Rule{auth.Known(service)}, core.CodeUnauthenticated},
		{health, "ann-token", []auth.Rule{auth.Known(service)}, core.CodePermissionDenied},
		{"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "ann-token", []auth.Rule{auth.Known(service)}, core.CodePermissionDenied},
		{health, "", []auth.Rule{auth.Public("grpc.health.v1.Health")}, core.CodeOK},
		{health, "", []auth.Rule{auth.Public(health), auth.Known(auth.Everything)}, core.CodeOK},
		{execute, "", []auth.Rule{auth.Public(health), auth.Known(auth.Everything)}, core.CodeUnauthenticated},
		{execute, "bob-token", []auth.Rule{auth.Known(auth.Everything)}, core.CodeOK},
		// The more exact name decides, wherever it stands.
		{execute, "bob-token", []auth.Rule{auth.Known(service), auth.Permit(admins, execute)}, core.CodePermissionDenied},
		{execute, "ann-token", []auth.Rule{auth.Known(service), auth.Permit(admins, execute)}, core.CodeOK},
		{stream, "bob-token", []auth.Rule{auth.Known(service), auth.Permit(admins, execute)}, core.CodeOK},
		{execute, "", []auth.Rule{auth.Permit(admins, auth.Everything), auth.Known(service), auth.Public(execute)}, core.CodeOK},
	} {
		err := call(test.method, test.token, test.rules...)
		if core.CodeOf(err) != test.want {
			t.Errorf("%s with %q: got %v, want %s", test.method, test.token, err, test.want)
		}
		if s := errors.Wire(err, nil); test.want == core.CodePermissionDenied && s.Message != "you may not do this" {
			t.Errorf("the caller reads %q", s.Message)
		}
	}
}

func TestWhoMayNotIsDeniedOnEveryStack(t *testing.T) {
	guard := must(auth.New(auth.Bearer(secrets()), []auth.Rule{auth.Permit(admins, service)}, nil))
	rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{guard}, Cases: cases}, func(t *testing.T, c *rpctest.Client) {
		res := c.With("authorization", "Bearer bob-token").Call(t.Context(), "whoami")
		wantRefusal(t, "bob", res, core.CodePermissionDenied, "you may not do this")
		if got := challenges(res); got != "" {
			t.Errorf("got the challenge %s", got)
		}
		if res := c.With("authorization", "Bearer ann-token").Call(t.Context(), "whoami"); strings.Join(res.Outputs, "") != "anntrue" {
			t.Error(res)
		}
	})
}

// Streams that skip auth, or are asked once a message, are a fault of peers.
func TestAStreamIsAuthenticatedOnceAndBeforeAnythingIsRead(t *testing.T) {
	var asked, read atomic.Int32
	authenticate := auth.Func(func(ctx context.Context, call *core.Call) (context.Context, error) {
		asked.Add(1)
		return auth.Bearer(secrets())(ctx, call)
	})
	watch := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		call.OnRequest(func(context.Context, any) error { read.Add(1); return nil })
		return next(ctx, call)
	})
	server := []core.Interceptor{watch, must(auth.New(authenticate, []auth.Rule{auth.Known(service)}, nil))}
	shapes := []core.Shape{core.ShapeClientStream, core.ShapeBidiStream}
	rpctest.Run(t, &rpctest.Options{Server: server, Shapes: shapes}, func(t *testing.T, c *rpctest.Client) {
		asked.Store(0)
		stream, err := c.With("authorization", "Bearer wrong").Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = stream.Send("hello") // the server may have answered already
		if _, err = stream.Receive(); core.CodeOf(err) != core.CodeUnauthenticated {
			t.Errorf("got %v", err)
		}
		_ = stream.Close()
		if asked.Load() != 1 || read.Load() != 0 {
			t.Errorf("asked %d times, %d messages were read", asked.Load(), read.Load())
		}
		if res := c.With("authorization", "Bearer ann-token").Call(t.Context(), "a", "b", "c"); res.Err != nil {
			t.Error(res)
		}
		if asked.Load() != 2 || read.Swap(0) != 3 {
			t.Errorf("asked %d times", asked.Load())
		}
	})
}

// What errors become: the caller's, or nobody's.
func TestWhatIsNotForTheCallerStays(t *testing.T) {
	cause := errors.New("hunter2")
	upstream := func(code core.Code) error {
		return errors.FromNative(errors.Native{Original: cause, Code: code, Message: "hunter2", Upstream: true})
	}
	for name, test := range map[string]struct {
		err      error
		known    core.Code // when the Func returns it
		may      core.Code // when the Check does
		message  string
		hasCause bool
	}{
		"without a code":           {cause, core.CodeUnauthenticated, core.CodePermissionDenied, "", true},
		"with one":                 {errors.Unavailable("later").WithCause(cause), core.CodeUnavailable, core.CodeUnavailable, "later", true},
		"unauthenticated":          {errors.Unauthenticated("later").WithCause(cause), core.CodeUnauthenticated, core.CodeUnauthenticated, "later", true},
		"wrapped":                  {fmt.Errorf("hunter2: %w", errors.Unauthenticated("later")), core.CodeUnauthenticated, core.CodeUnauthenticated, "later", false},
		"of the context":           {context.DeadlineExceeded, core.CodeDeadlineExceeded, core.CodeDeadlineExceeded, core.PublicMessage(core.CodeDeadlineExceeded), false},
		"upstream":                 {upstream(core.CodeNotFound), core.CodeUnavailable, core.CodeUnavailable, "the caller could not be checked", true},
		"upstream unauthenticated": {upstream(core.CodeUnauthenticated), core.CodeUnauthenticated, core.CodeUnavailable, "", true},
	} {
		verify := func(context.Context, string) (context.Context, error) { return nil, test.err }
		check := func(context.Context, *core.Call) error { return test.err }
		token := map[string][]string{"authorization": {"Bearer ann-token"}}
		run := func(guard core.Interceptor) error {
			return rpctest.Call(rpctest.Fake{RequestHeader: token}).Run(t.Context(), guard)
		}
		known := run(must(auth.New(auth.Bearer(verify), []auth.Rule{auth.Known(service)}, nil)))
		may := run(must(auth.New(auth.Bearer(secrets()), []auth.Rule{auth.Permit(check, service)}, nil)))
		for what, got := range map[error]core.Code{known: test.known, may: test.may} {
			wire := errors.Wire(what, nil)
			if wire.Code != got || strings.Contains(wire.Message, "hunter2") || test.message != "" && wire.Message != test.message {
				t.Errorf("%s: the wire has %s: %s, want %s: %s", name, wire.Code, wire.Message, got, test.message)
			}
			if test.hasCause && !errors.Is(what, cause) {
				t.Errorf("%s: the cause is lost: %v", name, what)
			}
		}
	}
}

func TestAFuncThatReturnsNoIdentityLetsNobodyPass(t *testing.T) {
	for name, f := range map[string]auth.Func{
		"no context":  func(context.Context, *core.Call) (context.Context, error) { return nil, nil }, //nolint:nilnil // the bug
		"no identity": func(ctx context.Context, _ *core.Call) (context.Context, error) { return ctx, nil },
	} {
		call := rpctest.Call(rpctest.Fake{})
		err := call.Run(t.Context(), must(auth.New(f, []auth.Rule{auth.Known(service)}, nil)))
		if core.CodeOf(err) != core.CodeInternal || call.Started() != 0 || !strings.Contains(err.Error(), "WithIdentity") {
			t.Errorf("%s: %v, started %d", name, err, call.Started())
		}
	}
}

func TestAFuncOfYoursTakesPart(t *testing.T) {
	certificate := func(ctx context.Context, call *core.Call) (context.Context, error) {
		if call.Peer().TLS == nil {
			return nil, fmt.Errorf("no certificate: %w", auth.ErrNone)
		}
		return auth.WithIdentity(ctx, ann), nil
	}
	guard := must(auth.New(auth.FirstOf(certificate, auth.Bearer(secrets())), []auth.Rule{auth.Known(service)}, nil))
	err := rpctest.Call(rpctest.Fake{RequestHeader: map[string][]string{"authorization": {"Bearer bob-token"}}}).Run(t.Context(), guard)
	if err != nil {
		t.Error(err)
	}
	if err := rpctest.Call(rpctest.Fake{}).Run(t.Context(), guard); core.CodeOf(err) != core.CodeUnauthenticated {
		t.Error(err)
	}
	if _, ok := auth.Identity[string](auth.WithIdentity(t.Context(), ann)); ok {
		t.Error("an identity of another type")
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	bearer := auth.Bearer(secrets())
	refused := func(err error, words ...string) {
		t.Helper()
		for _, word := range append(words, "auth: ") {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("got %v, want %q in it", err, word)
			}
		}
		if strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
	for _, test := range []struct {
		rules []auth.Rule
		words []string
	}{
		{nil, []string{"no rule", "Public"}},
		{[]auth.Rule{auth.Known()}, []string{"rule 1 of 1, Known", "no method"}},
		{[]auth.Rule{auth.Known(service), auth.Public("/weft.dummy.v1.DummyService/Execut")}, []string{"rule 2 of 2, Public", `"Execut"`}},
		{[]auth.Rule{auth.Known("weft.dummy.v1.DumyService")}, []string{"DumyService", "Unregistered"}},
		{[]auth.Rule{auth.Known("weft.dummy.v1.DummyRequest")}, []string{"not a service"}},
		{[]auth.Rule{auth.Known(service + "/Execute")}, []string{"slash before"}},
		{[]auth.Rule{auth.Known("")}, []string{"is no name"}},
		{[]auth.Rule{auth.Known("weft.*")}, []string{"weft.*"}},
		{[]auth.Rule{auth.Known("/")}, []string{`"/"`}},
		{[]auth.Rule{auth.Public(auth.Everything)}, []string{"everything cannot be public"}},
		{[]auth.Rule{auth.Known(service), auth.Permit(admins, service)}, []string{"a rule already, Known"}},
		{[]auth.Rule{auth.Public("grpc.health.v1.Health", "/grpc.health.v1.Health/Chek")}, []string{`"Chek"`}},
	} {
		_, err := auth.New(bearer, test.rules, nil)
		refused(err, test.words...)
	}
	if _, err := auth.New(bearer, []auth.Rule{auth.Known("shop.v1.Shop")}, &auth.Options{Unregistered: true}); err != nil {
		t.Error(err)
	}
	_, err := auth.New(bearer, []auth.Rule{auth.Known(service)}, &auth.Options{Realm: "a\nb"})
	refused(err, "Realm")
	_, err = auth.APIKey("grpc-status", secrets())
	refused(err, "grpc-status", "protocol")
	_, err = auth.Secrets(map[string]string{})
	refused(err, "nobody")
	_, err = auth.Secrets(map[string]string{"": "ann"})
	refused(err, "ann", "empty")
	_, err = auth.Secrets(map[string]string{"hunter2\n": "ann"})
	refused(err, "ann", "newline")

	for want, f := range map[string]func(){
		"nil authenticate": func() { _, _ = auth.New(nil, nil, nil) },
		"zero Rule":        func() { _, _ = auth.New(bearer, []auth.Rule{{}}, nil) },
		"nil check":        func() { auth.Permit(nil, service) },
		"Bearer of a nil":  func() { auth.Bearer(nil) },
		"function 2 of 2":  func() { auth.FirstOf(bearer, nil) },
		"nobody pass":      func() { auth.FirstOf() },
		"nil source":       func() { _, _ = auth.NewClient(nil, nil) },
	} {
		func() {
			defer func() {
				if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
					t.Errorf("panicked with %q, want %q", got, want)
				}
			}()
			f()
		}()
	}
}

// Whatever a caller sends, who has no secret does not pass, and the whole of a good header is one secret.
func FuzzCredentials(f *testing.F) {
	for _, seed := range []string{"", "Bearer ann-token", "bearer ann-token", "Basic Ym9iOmh1bnRlcjI6", "Bearer  x=", "Bearer a b", "Basic ====", "\x00", "Bearer \xff"} {
		f.Add(seed)
	}
	seen := ""
	verify := func(ctx context.Context, secret string) (context.Context, error) {
		seen = secret
		if secret != "ann-token" && secret != "bob:hunter2:" {
			return nil, errors.New("no")
		}
		return auth.WithIdentity(ctx, ann), nil
	}
	guard := must(auth.New(auth.FirstOf(auth.Bearer(verify), auth.Basic(verify)), []auth.Rule{auth.Known(service)}, nil))
	f.Fuzz(func(t *testing.T, value string) {
		seen = ""
		call := rpctest.Call(rpctest.Fake{RequestHeader: map[string][]string{"authorization": {value}}})
		err := call.Run(t.Context(), guard)
		good := seen == "ann-token" || seen == "bob:hunter2:"
		if (err == nil) != good || (call.Started() == 1) != good {
			t.Errorf("%q: read %q, got %v", value, seen, err)
		}
		if !good && (core.CodeOf(err) != core.CodeUnauthenticated || errors.Wire(err, nil).Message != "valid credentials are needed") {
			t.Errorf("%q: %v", value, err)
		}
		scheme, rest, _ := strings.Cut(value, " ")
		if strings.EqualFold(scheme, "Bearer") && seen != "" && seen != strings.Trim(rest, " ") {
			t.Errorf("%q: read %q", value, seen)
		}
	})
}

func TestAGoodTokenCostsLittle(t *testing.T) {
	guard := must(auth.New(auth.Bearer(secrets()), []auth.Rule{auth.Known(service)}, nil))
	header := map[string][]string{"authorization": {"Bearer ann-token"}}
	measure := func(chain *core.Chain) float64 {
		return testing.AllocsPerRun(200, func() {
			_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{RequestHeader: header}).Call)
		})
	}
	// The identity and its place in the context.
	if got := measure(core.NewChain(guard)) - measure(core.NewChain()); got > 3 {
		t.Errorf("%v allocations, want 3 at most", got)
	}
}

func BenchmarkAuth(b *testing.B) {
	guard := must(auth.New(auth.Bearer(secrets()), []auth.Rule{auth.Known(service)}, nil))
	header := map[string][]string{"authorization": {"Bearer ann-token"}}
	for name, chain := range map[string]*core.Chain{"bare": core.NewChain(), "with": core.NewChain(guard)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(rpctest.Fake{RequestHeader: header}).Call)
			}
		})
	}
}

func ExampleNew() {
	// The tokens may come from a configuration file: it is checked here.
	verify, err := auth.Secrets(map[string]user{"s3cret-of-ann": ann, "s3cret-of-bob": bob})
	if err != nil {
		fmt.Println(err)
		return
	}
	guard, err := auth.New(auth.Bearer(verify), []auth.Rule{
		auth.Known("weft.dummy.v1.DummyService"),
		auth.Permit(admins, "/weft.dummy.v1.DummyService/ExecuteClientStream"),
		auth.Public("grpc.health.v1.Health"),
	}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, token := range []string{"s3cret-of-ann", "s3cret-of-bob", "wrong"} {
		for _, method := range []string{"Execute", "ExecuteClientStream"} {
			call := rpctest.Call(rpctest.Fake{
				Method:        "/weft.dummy.v1.DummyService/" + method,
				RequestHeader: map[string][]string{"authorization": {"Bearer " + token}},
				Invoke: func(ctx context.Context, _ *core.Call) error {
					u, _ := auth.Identity[user](ctx)
					fmt.Println(u.Name, "calls", method)
					return nil
				},
			})
			if err := call.Run(context.Background(), guard); err != nil {
				fmt.Println(core.CodeOf(err))
			}
		}
	}
	// Output:
	// ann calls Execute
	// ann calls ExecuteClientStream
	// bob calls Execute
	// permission_denied
	// unauthenticated
	// unauthenticated
}

// Rules about methods that do not exist would guard nothing.
func ExampleNew_refused() {
	_, err := auth.New(auth.Bearer(secrets()), []auth.Rule{auth.Permit(admins, "/weft.dummy.v1.DummyService/Delete")}, nil)
	fmt.Println(err)
	// Output:
	// auth: rule 1 of 1, Permit: the service "weft.dummy.v1.DummyService" has no method "Delete"
}
