// Package realip finds the address of the client behind proxies that are trusted.
//
// Whoever connects to a server is known by the connection. If that is a proxy, the address of its client is in a
// header, together with whatever the client has made up. [New] reads the header from the right, where the nearest
// proxy has written, and goes no further than the trusted networks do: what a client has made up changes nothing.
package realip

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/rpcweft/weft/core"
)

// The headers that proxies write. Any other key is taken for one like XRealIP, with one address.
const (
	// XForwardedFor is a list, to which each proxy adds who has connected to it.
	XForwardedFor = "x-forwarded-for"
	// Forwarded is the same by RFC 7239, where the addresses are the parameters named for.
	Forwarded = "forwarded"
	// XRealIP is the one address that the nearest proxy has found out.
	XRealIP = "x-real-ip"
)

// Options for [New].
type Options struct {
	// Header is the one that the trusted proxies write. They must write it in each request, and remove or add to what the
	// client has sent of it. Only this one is read. Empty means [XForwardedFor].
	Header string
	// TrustSockets says that a peer without an IP address, as on a Unix socket, is a trusted proxy.
	TrustSockets bool
}

// New returns an interceptor that, on servers, puts the address of the client into the context, for
// [FromContext]. On clients it does nothing. Trusted lists the networks of proxies, "10.0.0.0/8", or their addresses, "192.0.2.7".
// With none the client is whoever has connected. Nil options are the zero Options.
//
//   - A peer outside of the trusted networks is the client, whatever it sends.
//   - Behind a trusted peer the client is the last address in the header that is not trusted itself, or the
//     first one if all are. All lines of the header count, in order.
//   - If a trusted peer has sent no such header it is the client.
//   - If what is to be read is malformed, or says "unknown" or the like, the client is not known: there is
//     no address in the context. So it is if the peer has no IP address, but for Options.TrustSockets.
//
// IPv4 addresses that are mapped into IPv6 are the same as IPv4 ones; zones and ports are left out.
//
// New returns an error if a network is malformed or has bits beyond its length, or is the whole of the
// internet, whom nobody can trust; and if the header cannot be one.
func New(trusted []string, opts *Options) (core.Interceptor, error) {
	r := &realIP{header: XForwardedFor}
	if opts != nil {
		r.sockets = opts.TrustSockets
		if opts.Header != "" {
			r.header = strings.ToLower(opts.Header)
		}
	}
	if _, err := core.NewMetadata(r.header, ""); err != nil || strings.HasSuffix(r.header, "-bin") {
		return nil, fmt.Errorf("realip: Options.Header: %q is no header with an address", r.header)
	}
	for i, text := range trusted {
		network, err := parseNetwork(text)
		if err != nil {
			return nil, fmt.Errorf("realip: trusted network %d of %d: %w", i+1, len(trusted), err)
		}
		r.trusted = append(r.trusted, network)
	}
	return r, nil
}

// parseNetwork takes "10.0.0.0/8" and "192.0.2.7".
func parseNetwork(text string) (netip.Prefix, error) {
	const want = "want a network, 10.0.0.0/8, or an address, 192.0.2.7"
	if !strings.Contains(text, "/") {
		addr, err := netip.ParseAddr(text)
		if err != nil || addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q is malformed: %s", text, want)
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	network, err := netip.ParsePrefix(text)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is malformed: %s", text, want)
	}
	if mapped := network.Addr(); mapped.Is4In6() && network.Bits() >= 96 {
		network = netip.PrefixFrom(mapped.Unmap(), network.Bits()-96)
	}
	switch {
	case network.Bits() == 0:
		return netip.Prefix{}, fmt.Errorf("%q is everybody: then anyone could claim any address", text)
	case network != network.Masked():
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its length: do you mean %s?", text, network.Masked())
	}
	return network, nil
}

type key struct{}

// FromContext returns the address of the client. It reports false if it is not known.
func FromContext(ctx context.Context) (netip.Addr, bool) {
	addr, ok := ctx.Value(key{}).(netip.Addr)
	return addr, ok && addr.IsValid()
}

type realIP struct {
	header  string
	trusted []netip.Prefix
	sockets bool
}

// Intercept implements [core.Interceptor].
func (r *realIP) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	if call.Side() == core.SideServer {
		// What is not known hides what something outside may have found, too.
		ctx = context.WithValue(ctx, key{}, r.find(call))
	}
	return next(ctx, call)
}

// find returns the address of the client, the zero Addr if it is not known.
func (r *realIP) find(call *core.Call) netip.Addr {
	peer, ok := parseAddr(call.Peer().Addr)
	if ok && !r.trusts(peer) || !ok && !r.sockets {
		return peer
	}
	lines := call.RequestHeader().Values(r.header)
	switch r.header {
	case XForwardedFor:
		return r.walk(peer, lines, forwardedFor)
	case Forwarded:
		return r.walk(peer, lines, forwarded)
	}
	switch len(lines) {
	case 0:
		return peer
	case 1:
		addr, _ := parseAddr(strings.TrimSpace(lines[0]))
		return addr
	}
	return netip.Addr{}
}

func (r *realIP) trusts(addr netip.Addr) bool {
	return slices.ContainsFunc(r.trusted, func(network netip.Prefix) bool { return network.Contains(addr) })
}

// walk goes through the lines from the right. Each yields its addresses from the right, the zero Addr for what is none.
func (r *realIP) walk(client netip.Addr, lines []string, addrs func(line string, yield func(netip.Addr) bool)) netip.Addr {
	for _, line := range slices.Backward(lines) {
		on := true
		addrs(line, func(addr netip.Addr) bool {
			client = addr
			on = addr.IsValid() && r.trusts(addr)
			return on
		})
		if !on {
			break
		}
	}
	return client
}

// forwardedFor is the addresses of a line of X-Forwarded-For.
func forwardedFor(line string, yield func(netip.Addr) bool) {
	for more := true; more; {
		comma := strings.LastIndexByte(line, ',')
		more = comma >= 0
		item := strings.TrimSpace(line[comma+1:])
		line = line[:max(comma, 0)]
		if item == "" {
			continue // as in any list of HTTP
		}
		addr, _ := parseAddr(item)
		if !yield(addr) {
			return
		}
	}
}

// forwarded is the addresses of a line of Forwarded. A line that is malformed anywhere has none: a quote that a
// client has opened may go on into what the proxy has added.
func forwarded(line string, yield func(netip.Addr) bool) {
	elements, ok := parseForwarded(line)
	if !ok {
		yield(netip.Addr{})
		return
	}
	for _, node := range slices.Backward(elements) {
		addr, _ := parseAddr(node)
		if !yield(addr) {
			return
		}
	}
}

// parseForwarded returns the parameter named for of each element, "" if it has none.
func parseForwarded(line string) (nodes []string, ok bool) {
	node, found, empty := "", false, true // of the element
	for {
		line = strings.TrimLeft(line, " \t")
		name := line[:tokenLen(line)]
		line = line[len(name):]
		if name != "" {
			value, rest, ok := parameter(line)
			if !ok {
				return nil, false
			}
			line, empty = strings.TrimLeft(rest, " \t"), false
			if strings.EqualFold(name, "for") {
				if found {
					return nil, false
				}
				node, found = value, true
			}
		}
		switch {
		case line != "" && line[0] == ';':
			line = line[1:]
			continue
		case line != "" && line[0] != ',':
			return nil, false
		}
		if !empty {
			nodes = append(nodes, node)
		}
		if line == "" {
			return nodes, true
		}
		line, node, found, empty = line[1:], "", false, true
	}
}

// parameter reads "=value", where the value is a token or a quoted string.
func parameter(line string) (value, rest string, ok bool) {
	if line == "" || line[0] != '=' {
		return "", "", false
	}
	line = line[1:]
	if line == "" || line[0] != '"' {
		// Not all proxies quote colons and brackets, as they should.
		n := strings.IndexAny(line, ";, \t\"")
		if n < 0 {
			n = len(line)
		}
		return line[:n], line[n:], n > 0
	}
	var b strings.Builder
	for i := 1; i < len(line); i++ {
		switch line[i] {
		case '"':
			return b.String(), line[i+1:], true
		case '\\':
			if i++; i == len(line) {
				return "", "", false
			}
		}
		b.WriteByte(line[i])
	}
	return "", "", false
}

// tokenLen is the length of the token that s begins with.
func tokenLen(s string) int {
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return i
		}
	}
	return len(s)
}

// parseAddr takes an address with and without port, brackets and zone.
func parseAddr(text string) (addr netip.Addr, ok bool) {
	inner, bracketed := strings.CutPrefix(text, "[")
	inner, closed := strings.CutSuffix(inner, "]")
	var err error
	switch {
	case bracketed && closed:
		if addr, err = netip.ParseAddr(inner); addr.Is4() {
			return netip.Addr{}, false
		}
	case bracketed || strings.Count(text, ":") == 1:
		var with netip.AddrPort
		with, err = netip.ParseAddrPort(text)
		addr = with.Addr()
	default:
		addr, err = netip.ParseAddr(text)
	}
	return addr.WithZone("").Unmap(), err == nil
}
