package metadata_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/interceptors/metadata"
	"github.com/rpcweft/weft/rpctest"
)

// seen answers with the metadata x-* that has arrived.
func seen(_ context.Context, in *rpctest.Input) (string, error) {
	var pairs []string
	for key, values := range in.RequestMetadata() {
		if strings.HasPrefix(key, "x-") && key != "x-user-agent" { // which gRPC-Web clients send
			pairs = append(pairs, fmt.Sprintf("%s=%q", key, values))
		}
	}
	slices.Sort(pairs)
	return strings.Join(pairs, " "), nil
}

func TestForwardPassesItsKeysAndNothingElse(t *testing.T) {
	forward := must(metadata.Forward("X-Tenant", "x-trace-bin", "x-absent", "x-own", "x-tenant"))
	both := []core.Interceptor{forward}
	back := rpctest.NewServers(t, &rpctest.Options{Server: both, Client: both, Cases: map[string]rpctest.Case{"seen": seen}})
	var clients []*rpctest.Client // on every path and in every shape
	for _, path := range rpctest.Paths() {
		for _, shape := range rpctest.Shapes() {
			if path.Can(shape) {
				clients = append(clients, back.Client(path, shape))
			}
		}
	}
	// The service in front calls the one at the back.
	relay := func(ctx context.Context, in *rpctest.Input) (string, error) {
		i, err := strconv.Atoi(in.Arg)
		if err != nil {
			return "", err
		}
		res := clients[i].With("x-own", "mine").Call(ctx, "seen")
		return strings.Join(res.Outputs, ""), res.Err
	}
	rpctest.Run(t, &rpctest.Options{Server: both, Cases: map[string]rpctest.Case{"relay:": relay}}, func(t *testing.T, c *rpctest.Client) {
		with := c.With("x-tenant", "a").With("x-tenant", "b, c").With("x-trace-bin", "\x00\xff").With("x-trace-bin", ",").
			With("x-own", "theirs").With("x-secret", "hunter2").With("authorization", "hunter2").With("x-tenant-2", "hunter2")
		for i, client := range clients {
			if client.Shape != c.Shape {
				continue
			}
			name := fmt.Sprintf("behind it %s/%s", client.Path, client.Shape)
			res := with.Call(t.Context(), fmt.Sprint("relay:", i))
			wantCode(t, res, core.CodeOK)
			equal(t, name, strings.Join(res.Outputs, ""), `x-own=["mine"] x-tenant=["a" "b, c"] x-trace-bin=["\x00\xff" ","]`)
			res = c.Call(t.Context(), fmt.Sprint("relay:", i))
			wantCode(t, res, core.CodeOK)
			equal(t, name+": nothing to forward", strings.Join(res.Outputs, ""), `x-own=["mine"]`)
		}
	})
}

func TestWhatArrivesButCannotBeSentOnIsRefused(t *testing.T) {
	forward := must(metadata.Forward("x-key", "x-key-bin"))
	many := make([]string, 101)
	for name, header := range map[string]http.Header{
		"not ASCII":       {"X-Key": {"good", "hünter2"}},
		"not base64":      {"X-Key-Bin": {"AAAA", "hunter2!"}},
		"too many values": {"X-Key": many},
	} {
		err := forward.Intercept(t.Context(), newCall(core.SideServer, header), func(context.Context, *core.Call) error {
			t.Errorf("%s: the handler was called", name)
			return nil
		})
		if text := fmt.Sprint(err); core.CodeOf(err) != core.CodeInvalidArgument || !strings.Contains(text, `"x-key`) || strings.Contains(text, "nter2") {
			t.Errorf("%s: got %s", name, text)
		}
	}
	// Other keys are none of its business.
	err := forward.Intercept(t.Context(), newCall(core.SideServer, http.Header{"X-Other": many, "X-Key": many[:100]}),
		func(context.Context, *core.Call) error { return nil })
	if err != nil {
		t.Error(err)
	}
}

// relayed returns what a client's header has after a call was served with header.
func relayed(t *testing.T, server, client core.Interceptor, header http.Header) http.Header {
	t.Helper()
	out := http.Header{}
	err := server.Intercept(t.Context(), newCall(core.SideServer, header), func(ctx context.Context, _ *core.Call) error {
		// What the handler does to the header of its request stays with it.
		for _, values := range header {
			values[0] = "changed"
		}
		return client.Intercept(ctx, newCall(core.SideClient, out), func(context.Context, *core.Call) error { return nil })
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestAClientForwardsTheKeysThatBothEndsHave(t *testing.T) {
	header := func() http.Header { return http.Header{"X-A": {"1", "2"}, "X-B": {"3"}, "X-C": {"4"}} }
	ab, bc := must(metadata.Forward("x-a", "x-b")), must(metadata.Forward("X-B", "X-C"))
	equal(t, "one on each end", fmt.Sprint(relayed(t, ab, bc, header())), "map[X-B:[3]]")
	equal(t, "two on each end", fmt.Sprint(relayed(t, core.NewChain(ab, bc), core.NewChain(bc, ab), header())), "map[X-A:[1 2] X-B:[3] X-C:[4]]")
	equal(t, "none on the client", fmt.Sprint(relayed(t, ab, core.NewChain(), header())), "map[]")
	equal(t, "none on the server", fmt.Sprint(relayed(t, core.NewChain(), ab, header())), "map[]")
}

func TestWhatIsForwardedIsThatOfTheInnermostServer(t *testing.T) {
	forward := must(metadata.Forward("x-a", "x-b"))
	// A server that is called in the same process, with the context of its caller.
	for want, header := range map[string]http.Header{"map[X-B:[new]]": {"X-B": {"new"}}, "map[]": {}} {
		server := core.InterceptorFunc(func(ctx context.Context, _ *core.Call, next core.Handler) error {
			return forward.Intercept(ctx, newCall(core.SideServer, header), next)
		})
		got := relayed(t, core.NewChain(forward, server), forward, http.Header{"X-A": {"old"}, "X-B": {"old"}})
		equal(t, "forwarded", fmt.Sprint(got), want)
	}
}

func TestForwardRefusesBadConfiguration(t *testing.T) {
	for key, word := range map[string]string{
		"": "empty", "x *": `"x *"`, "*": `"*"`, "Host": `"host"`, ":authority": "protocol", "user-agent": "protocol", "x-\u212aey": "character",
	} {
		i, err := metadata.Forward("x-good", key)
		mustRefuse(t, i, err, "metadata: Forward: ", word)
	}
}

func FuzzForwardPassesAValueAsItIsOrRefusesIt(f *testing.F) {
	for _, seed := range []string{"", "a", "a,b", "\x00", "é", " a ", "\n", "AA==", "AA,AA", "=", "\x7f"} {
		f.Add(seed)
	}
	forward := must(metadata.Forward("x-a", "x-a-bin"))
	serve := func(header http.Header) (http.Header, error) {
		out := http.Header{}
		err := forward.Intercept(context.Background(), newCall(core.SideServer, header), func(ctx context.Context, _ *core.Call) error {
			return forward.Intercept(ctx, newCall(core.SideClient, out), func(context.Context, *core.Call) error { return nil })
		})
		return out, err
	}
	f.Fuzz(func(t *testing.T, value string) {
		out, err := serve(http.Header{"X-A": {value}})
		if err == nil && !slices.Equal(out["X-A"], []string{value}) || err != nil && core.CodeOf(err) != core.CodeInvalidArgument {
			t.Errorf("%q became %q, %v", value, out, err)
		}
		_, _ = serve(http.Header{"X-A-Bin": {value}})
		encoded := base64.RawStdEncoding.EncodeToString([]byte(value))
		if out, err = serve(http.Header{"X-A-Bin": {encoded}}); err != nil || !slices.Equal(out["X-A-Bin"], []string{encoded}) {
			t.Errorf("%q became %q, %v", encoded, out, err)
		}
	})
}

func FuzzRequireLetsNothingElsePass(f *testing.F) {
	for _, seed := range []string{"", "hunter2", "hunter2 ", "hunter2,hunter2", "\x00", "aHVudGVyMg"} {
		f.Add("x-key", seed)
		f.Add("x-key-bin", seed)
	}
	text, binary := must(metadata.Require("x-key", "hunter2")), must(metadata.Require("x-key-bin", "hunter2"))
	f.Fuzz(func(t *testing.T, key, value string) {
		header := http.Header{http.CanonicalHeaderKey(key): {value}}
		served := func(require core.Interceptor) bool {
			err := require.Intercept(context.Background(), newCall(core.SideServer, header), func(context.Context, *core.Call) error { return nil })
			if err != nil && core.CodeOf(err) != core.CodeUnauthenticated {
				t.Errorf("got %v", err)
			}
			return err == nil
		}
		if served(text) != (http.CanonicalHeaderKey(key) == "X-Key" && value == "hunter2") {
			t.Errorf("%q: %q passed, or did not", key, value)
		}
		if served(binary) && (http.CanonicalHeaderKey(key) != "X-Key-Bin" || !strings.Contains(value, "aHVudGVyM")) {
			t.Errorf("%q: %q passed", key, value)
		}
	})
}
