package realip_test

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/interceptors/realip"
	"github.com/rpcweft/weft/rpctest"
)

func must(trusted []string, opts *realip.Options) core.Interceptor {
	i, err := realip.New(trusted, opts)
	if err != nil {
		panic(err)
	}
	return i
}

// show returns the client's address, "unknown" if it is not known.
func show(ctx context.Context) string {
	addr, ok := realip.FromContext(ctx)
	if !ok {
		return "unknown"
	}
	return addr.String()
}

func ask(i core.Interceptor, peer, header string, lines ...string) (client string) {
	md := map[string][]string{}
	if len(lines) > 0 {
		md[header] = lines
	}
	err := rpctest.Call(rpctest.Fake{Peer: core.Peer{Addr: peer}, RequestHeader: md, Invoke: func(ctx context.Context, _ *core.Call) error {
		client = show(ctx)
		return nil
	}}).Run(context.Background(), i)
	if err != nil {
		return err.Error()
	}
	return client
}

var proxies = []string{"10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::ffff:172.16.0.0/108"}

// A peer reads the first line of the header alone, so that whoever sends one of his own is who he likes.
func TestAnAddressThatAClientHasMadeUpChangesNothing(t *testing.T) {
	i := must(proxies, nil)
	for _, lines := range [][]string{
		{"6.6.6.6", "1.2.3.4"},
		{"6.6.6.6, 1.2.3.4"},
		{"6.6.6.6", "", "1.2.3.4, 10.1.1.1", "10.1.1.2"},
		{"6.6.6.6,1.2.3.4:999,,[2001:db8::7]:80, "},
		{"6.6.6.6", "garbage", "1.2.3.4"},
		{"10.0.0.1", "1.2.3.4", "::ffff:10.1.1.1"},
		{"1.2.3.4"},
	} {
		if got := ask(i, "10.0.0.9:1234", "x-forwarded-for", lines...); got != "1.2.3.4" {
			t.Errorf("%q: got %s, want 1.2.3.4", lines, got)
		}
	}
	for _, key := range []string{"x-real-ip", "forwarded", "x-forwarded", "client-ip", "true-client-ip", "cf-connecting-ip"} {
		if got := ask(i, "10.0.0.9:1234", key, "6.6.6.6"); got != "10.0.0.9" {
			t.Errorf("%s, which no proxy writes: got %s", key, got)
		}
	}
	for _, peer := range []string{"1.2.3.4:5", "[::ffff:1.2.3.4]:5", "1.2.3.4"} {
		if got := ask(i, peer, "x-forwarded-for", "6.6.6.6"); got != "1.2.3.4" {
			t.Errorf("%s, which is not trusted: got %s", peer, got)
		}
		if got := ask(must(nil, nil), peer, "x-forwarded-for", "6.6.6.6"); got != "1.2.3.4" {
			t.Errorf("%s, when nobody is: got %s", peer, got)
		}
	}
}

// A peer does not unmap, so that a proxy that connects over IPv6 is nobody.
func TestMappedAddressesAreTheSame(t *testing.T) {
	for _, peer := range []string{"10.0.0.9:1", "[::ffff:10.0.0.9]:1", "172.16.5.5:1", "[::ffff:172.16.5.5]:1", "192.0.2.7:1", "[2001:db8::5%eth0]:1"} {
		if got := ask(must(proxies, nil), peer, "x-forwarded-for", "::ffff:1.2.3.4"); got != "1.2.3.4" {
			t.Errorf("%s: got %s", peer, got)
		}
	}
	if got := ask(must([]string{"::ffff:10.0.0.9"}, nil), "10.0.0.9:1", "x-forwarded-for", "1.2.3.4"); got != "1.2.3.4" {
		t.Error(got)
	}
}

func TestTheWayThroughTheHeader(t *testing.T) {
	for _, test := range []struct {
		header string
		lines  []string
		want   string
	}{
		{"X-Forwarded-For", nil, "10.0.0.9"},
		{"X-Forwarded-For", []string{""}, "10.0.0.9"},
		{"X-Forwarded-For", []string{"10.0.0.1, 10.0.0.2"}, "10.0.0.1"}, // a client in a trusted network
		{"X-Forwarded-For", []string{"1.2.3.4, unknown"}, "unknown"},
		{"X-Forwarded-For", []string{"1.2.3.4, 10.0.0.1, 5"}, "unknown"},
		{"X-Forwarded-For", []string{"2a00::1"}, "2a00::1"},
		{"X-Forwarded-For", []string{"[2a00::1]"}, "2a00::1"},
		{"X-Forwarded-For", []string{"[1.2.3.4]"}, "unknown"},
		{"X-Forwarded-For", []string{"1.2.3"}, "unknown"},
		{"X-Forwarded-For", []string{"01.2.3.4"}, "unknown"},
		{"X-Forwarded-For", []string{"fe80::1%eth0"}, "fe80::1"},

		{"x-real-ip", nil, "10.0.0.9"},
		{"x-real-ip", []string{" 1.2.3.4 "}, "1.2.3.4"},
		{"x-real-ip", []string{"10.0.0.1"}, "10.0.0.1"},
		{"x-real-ip", []string{"6.6.6.6", "1.2.3.4"}, "unknown"},
		{"x-real-ip", []string{"6.6.6.6, 1.2.3.4"}, "unknown"},
		{"CF-Connecting-IP", []string{"1.2.3.4"}, "1.2.3.4"},

		{"forwarded", nil, "10.0.0.9"},
		{"Forwarded", []string{"for=1.2.3.4"}, "1.2.3.4"},
		{"Forwarded", []string{`For="[2a00::1]:4711"`}, "2a00::1"},
		{"Forwarded", []string{`proto=http;FOR="1.2.3.4:80" ; by=203.0.113.43, for=10.0.0.1`}, "1.2.3.4"},
		{"Forwarded", []string{"for=6.6.6.6", "for=1.2.3.4;proto=https, ,for=10.0.0.1", ""}, "1.2.3.4"},
		{"Forwarded", []string{"for=1.2.3.4", "for=unknown"}, "unknown"},
		{"Forwarded", []string{"for=1.2.3.4", `for="_hidden"`}, "unknown"},
		{"Forwarded", []string{"for=1.2.3.4", "proto=https"}, "unknown"},
		{"Forwarded", []string{"for=6.6.6.6;for=1.2.3.4"}, "unknown"},
		{"Forwarded", []string{"1.2.3.4"}, "unknown"},
		{"Forwarded", []string{`for="1.2\.3.4"`}, "1.2.3.4"},
		{"Forwarded", []string{"for=10.0.0.1", `for="`}, "unknown"},
		// A quote that a client has opened, and what the proxy adds.
		{"Forwarded", []string{`for=6.6.6.6;x=", for=1.2.3.4`}, "unknown"},
		{"Forwarded", []string{`for=6.6.6.6;x=", for="1.2.3.4"`}, "unknown"},
		{"Forwarded", []string{`for=6.6.6.6;x="`, "for=1.2.3.4"}, "1.2.3.4"},
		{"Forwarded", []string{`for=6.6.6.6\`, `for="1.2.3.4"`}, "1.2.3.4"},
	} {
		i := must(proxies, &realip.Options{Header: test.header})
		if got := ask(i, "10.0.0.9:1234", strings.ToLower(test.header), test.lines...); got != test.want {
			t.Errorf("%s %q: got %s, want %s", test.header, test.lines, got, test.want)
		}
	}
}

func TestAPeerWithoutAnIPAddress(t *testing.T) {
	for _, peer := range []string{"", "@", "bufconn", "/run/app.sock"} {
		if got := ask(must(proxies, nil), peer, "x-forwarded-for", "1.2.3.4"); got != "unknown" {
			t.Errorf("%q: got %s", peer, got)
		}
		trusting := must(proxies, &realip.Options{TrustSockets: true})
		if got := ask(trusting, peer, "x-forwarded-for", "6.6.6.6, 1.2.3.4, 10.0.0.1"); got != "1.2.3.4" {
			t.Errorf("%q, trusted: got %s", peer, got)
		}
		if got := ask(trusting, peer, "x-forwarded-for"); got != "unknown" {
			t.Errorf("%q, trusted, no header: got %s", peer, got)
		}
	}
}

func TestTheClientIsTheSameOnEveryStack(t *testing.T) {
	cases := map[string]rpctest.Case{"ip": func(ctx context.Context, _ *rpctest.Input) (string, error) {
		return strings.ReplaceAll(show(ctx), ".", "_"), nil
	}}
	for name, test := range map[string]struct {
		trusted []string
		want    string
	}{
		"behind a proxy":    {[]string{"127.0.0.0/8", "::1", "10.0.0.0/8"}, "1_2_3_4"},
		"nobody is trusted": {nil, "127_0_0_1"},
	} {
		t.Run(name, func(t *testing.T) {
			i := must(test.trusted, nil)
			o := &rpctest.Options{Server: []core.Interceptor{i}, Client: []core.Interceptor{i}, Cases: cases, Network: rpctest.TCP}
			rpctest.Run(t, o, func(t *testing.T, c *rpctest.Client) {
				res := c.With("X-Forwarded-For", "6.6.6.6").With("x-forwarded-for", "1.2.3.4, 10.1.1.1").With("x-real-ip", "6.6.6.6").Call(t.Context(), "ip")
				if got := strings.Join(res.Outputs, ""); got != test.want {
					t.Errorf("got %s, want %s: %s", got, test.want, res)
				}
			})
		})
	}
}

func TestBadConfigurationIsRefused(t *testing.T) {
	for _, test := range []struct {
		trusted []string
		header  string
		words   []string
	}{
		{[]string{"10.0.0.0/8", "10.0.0.1/8"}, "", []string{"2 of 2", "10.0.0.0/8?"}},
		{[]string{"10.0.0"}, "", []string{`"10.0.0"`, "want a network"}},
		{[]string{""}, "", []string{`""`, "want a network"}},
		{[]string{"10.0.0.0/33"}, "", []string{`"10.0.0.0/33"`}},
		{[]string{"0.0.0.0/0"}, "", []string{"everybody"}},
		{[]string{"::/0"}, "", []string{"everybody"}},
		{[]string{"::ffff:0.0.0.0/96"}, "", []string{"everybody"}},
		{[]string{"fe80::1%eth0"}, "", []string{"malformed"}},
		{[]string{"proxy.example.com"}, "", []string{"malformed"}},
		{nil, "x forwarded", []string{`"x forwarded"`}},
		{nil, "x-ip-bin", []string{`"x-ip-bin"`}},
		{nil, "host", []string{`"host"`}},
	} {
		_, err := realip.New(test.trusted, &realip.Options{Header: test.header})
		for _, word := range append(test.words, "realip: ") {
			if err == nil || !strings.Contains(err.Error(), word) {
				t.Errorf("%v: got %v, want %q in it", test, err, word)
			}
		}
	}
}

// Whatever a client sends, behind one proxy that adds its address to it he is who he is, or nobody.
func FuzzASpoofedHeaderChangesNothing(f *testing.F) {
	for _, seed := range []string{"", "6.6.6.6", `for=6.6.6.6;x="`, `for="[::1]", for=`, ",,,", "for=10.0.0.1", `"\`, "for=6.6.6.6;for=6.6.6.6", "::ffff:10.0.0.1", "10.0.0.1, 6.6.6.6"} {
		f.Add(seed, seed)
	}
	const client = "1.2.3.4"
	list, elements := must(proxies, nil), must(proxies, &realip.Options{Header: realip.Forwarded})
	untrusted := must(nil, nil)
	f.Fuzz(func(t *testing.T, first, second string) {
		for name, got := range map[string]string{
			"a line of its own":   ask(list, "10.0.0.9:1", "x-forwarded-for", first, second, client),
			"added to the line":   ask(list, "10.0.0.9:1", "x-forwarded-for", first, second+", "+client),
			"element":             ask(elements, "10.0.0.9:1", "forwarded", first, second, "for="+client),
			"nobody is trusted":   ask(untrusted, client+":1", "x-forwarded-for", first, second),
			"not one of ours":     ask(list, client+":1", "x-forwarded-for", first, second),
			"not one of ours too": ask(elements, client+":1", "forwarded", first, second),
		} {
			if got != client {
				t.Errorf("%s: %q, %q: got %s", name, first, second, got)
			}
		}
		for _, added := range []string{", for=" + client, `, for="` + client + `"`, `,for="` + client + `:80";proto=https`} {
			if got := ask(elements, "10.0.0.9:1", "forwarded", first, second+added); got != client && got != "unknown" {
				t.Errorf("%q, %q: got %s", first, second+added, got)
			}
		}
		if got := ask(list, "10.0.0.9:1", "x-forwarded-for", first); got != "unknown" {
			if addr, err := netip.ParseAddr(got); err != nil || addr.Is4In6() || addr.Zone() != "" {
				t.Errorf("%q: got %s", first, got)
			}
		}
	})
}

func TestAnAddressCostsLittle(t *testing.T) {
	fake := rpctest.Fake{Peer: core.Peer{Addr: "10.0.0.9:1"}, RequestHeader: map[string][]string{"x-forwarded-for": {"1.2.3.4, 10.0.0.1"}}}
	measure := func(chain *core.Chain) float64 {
		return testing.AllocsPerRun(200, func() { _ = chain.Handler()(context.Background(), &rpctest.Call(fake).Call) })
	}
	if got := measure(core.NewChain(must(proxies, nil))) - measure(core.NewChain()); got > 5 {
		t.Errorf("%v allocations, want 5 at most", got)
	}
}

func BenchmarkRealIP(b *testing.B) {
	fake := rpctest.Fake{Peer: core.Peer{Addr: "10.0.0.9:1"}, RequestHeader: map[string][]string{"x-forwarded-for": {"1.2.3.4, 10.0.0.1"}}}
	for name, chain := range map[string]*core.Chain{"bare": core.NewChain(), "with": core.NewChain(must(proxies, nil))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = chain.Handler()(context.Background(), &rpctest.Call(fake).Call)
			}
		})
	}
}

func ExampleNew() {
	// The networks may come from a configuration file: they are checked here.
	client, err := realip.New([]string{"10.0.0.0/8"}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	call := rpctest.Call(rpctest.Fake{
		Peer:          core.Peer{Addr: "10.0.0.9:50312"}, // the proxy
		RequestHeader: map[string][]string{"x-forwarded-for": {"6.6.6.6", "192.0.2.7"}},
		Invoke: func(ctx context.Context, _ *core.Call) error {
			fmt.Println(realip.FromContext(ctx))
			return nil
		},
	})
	if err := call.Run(context.Background(), client); err != nil {
		fmt.Println(err)
	}
	_, err = realip.New([]string{"0.0.0.0/0"}, nil)
	fmt.Println(err)
	// Output:
	// 192.0.2.7 true
	// realip: trusted network 1 of 1: "0.0.0.0/0" is everybody: then anyone could claim any address
}
