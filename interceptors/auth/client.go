package auth

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Token is a credential and how long it is good. It shows its value in no log.
type Token struct {
	Value string `json:"-"`
	// Expires is when servers stop taking it. The zero time means never.
	Expires time.Time
}

// String says when the token expires, and not what it is.
func (t Token) String() string {
	if t.Expires.IsZero() {
		return "token"
	}
	return "token that expires " + t.Expires.Format(time.RFC3339)
}

// Format implements [fmt.Formatter] with String, whatever the verb.
func (t Token) Format(s fmt.State, _ rune) { fmt.Fprint(s, t.String()) }

// LogValue implements [slog.LogValuer] with String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

// Source gets a token, from a file or from a server of tokens. A [Client] calls it once at a time, and keeps what it
// returns. The context has the values of the call that needed the token first, and is not canceled with it.
type Source func(ctx context.Context) (Token, error)

// StaticToken is a Source of one token that never expires.
func StaticToken(value string) Source {
	return func(context.Context) (Token, error) { return Token{Value: value}, nil }
}

// ClientOptions for [NewClient].
type ClientOptions struct {
	// Header carries the token as it is. Empty means authorization, where Scheme stands before it.
	Header string
	// Scheme is that of the authorization header. Empty means Bearer.
	Scheme string
	// Early is how long before it expires a token is replaced. Zero means 30 seconds; it is a fifth of the token's life at most.
	Early time.Duration
	// Timeout is how long the Source may take. Zero means 30 seconds.
	Timeout time.Duration
	// ConnectionIsSafe says that the connections of the client are encrypted, or that the token may be read on
	// the way (a test, a local socket). Then the interceptor sends it over any connection without asking.
	ConnectionIsSafe bool
}

// Client sends credentials with calls. It keeps a token until it expires or is refused; when a new one is wanted, one
// call of the [Source] serves all that wait, and while the old one is good nobody waits.
//
// The token goes over encrypted connections only. No interceptor can see whether a connection is, so the stack's own means take part:
//
//	http.Client{Transport: creds.Transport(nil)}   // for connect-go, beside the interceptor
//	grpc.WithPerRPCCredentials(creds)              // for grpc-go, beside the interceptor
//
// attach the token, and refuse if the connection is not encrypted. Without them nothing is sent, unless
// ClientOptions.ConnectionIsSafe says that the interceptor may send it by itself. They also work alone, but it is the interceptor that
// forgets a token which a server has refused as Unauthenticated; the call itself is not tried again. A header of the same name that
// the application has written is left alone.
//
// A Client shows its token in no log. It may be used by many goroutines.
type Client struct {
	options ClientOptions
	source  Source

	mu      sync.Mutex
	token   Token
	have    bool
	got     time.Time
	retry   time.Time // not before, after a failure
	running *flight
}

// flight is a call of the source.
type flight struct {
	done  chan struct{}
	token Token
	err   error
}

const (
	defaultEarly   = 30 * time.Second
	defaultTimeout = 30 * time.Second
	retryAfter     = time.Second
	minAge         = 5 * time.Second // of a token that is given up because it was refused
)

// NewClient returns a Client, an interceptor for clients. On servers it does nothing. Nil options are the zero ClientOptions.
//
// It returns an error if Header or Scheme cannot be sent, or a duration is negative. It panics if source is nil.
func NewClient(source Source, opts *ClientOptions) (*Client, error) {
	if source == nil {
		panic("auth: NewClient of a nil source")
	}
	c := &Client{source: source}
	if opts != nil {
		c.options = *opts
	}
	o := &c.options
	o.Header = strings.ToLower(o.Header)
	switch {
	case o.Header != "" && o.Scheme != "":
		return nil, fmt.Errorf("auth: ClientOptions: Scheme %q is for the authorization header, and Header is %q", o.Scheme, o.Header)
	case o.Header == "":
		o.Header = "authorization"
		if o.Scheme == "" {
			o.Scheme = "Bearer"
		}
	}
	if _, err := core.NewMetadata(o.Header, "token"); err != nil {
		return nil, fmt.Errorf("auth: ClientOptions.Header: %s", core.FindCoded(err, nil).Message())
	}
	if o.Scheme != "" && !isToken68(o.Scheme) {
		return nil, fmt.Errorf("auth: ClientOptions.Scheme %q is no name", o.Scheme)
	}
	for name, d := range map[string]*time.Duration{"Early": &o.Early, "Timeout": &o.Timeout} {
		if *d < 0 {
			return nil, fmt.Errorf("auth: ClientOptions.%s %v is negative", name, *d)
		}
	}
	if o.Early == 0 {
		o.Early = defaultEarly
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	return c, nil
}

// Format implements [fmt.Formatter], to show no token.
func (c *Client) Format(s fmt.State, _ rune) { fmt.Fprint(s, "auth.Client") }

// grant is the token of one call, on its way to where it is attached.
type grant struct {
	client  *Client
	own     bool // the application has written the header
	token   Token
	sent    atomic.Bool
	refused atomic.Bool // the connection is not encrypted
}

type grantKey struct{}

// Intercept implements [core.Interceptor].
func (c *Client) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	if call.Side() != core.SideClient {
		return next(ctx, call)
	}
	if len(call.RequestHeader().Values(c.options.Header)) > 0 {
		return next(context.WithValue(ctx, grantKey{}, &grant{client: c, own: true}), call)
	}
	token, err := c.get(ctx)
	if err != nil {
		return err
	}
	g := &grant{client: c, token: token}
	if c.options.ConnectionIsSafe {
		if err := call.RequestHeader().Set(c.options.Header, c.value(token)); err != nil {
			return errors.Internal("the token cannot be sent: it is not printable ASCII")
		}
		g.sent.Store(true)
	}
	err = next(context.WithValue(ctx, grantKey{}, g), call)
	switch {
	case err == nil:
	case g.refused.Load():
		return errors.FailedPrecondition("the credentials were not sent: the connection is not encrypted").WithCause(err)
	case core.CodeOf(err) != core.CodeUnauthenticated:
	case !g.sent.Load():
		return errors.Unauthenticated("the credentials were not sent: give the stack Client.Transport or grpc.WithPerRPCCredentials, " +
			"or set ClientOptions.ConnectionIsSafe").WithCause(err)
	default:
		c.forget(token)
	}
	return err
}

func (c *Client) value(t Token) string {
	if c.options.Scheme == "" {
		return t.Value
	}
	return c.options.Scheme + " " + t.Value
}

// granted returns the token of the call that ctx belongs to, or else one of the client's.
func (c *Client) granted(ctx context.Context) (*grant, error) {
	if g, ok := ctx.Value(grantKey{}).(*grant); ok && g.client == c {
		return g, nil
	}
	token, err := c.get(ctx)
	return &grant{client: c, token: token}, err
}

// RequireTransportSecurity implements credentials.PerRPCCredentials of grpc-go.
func (c *Client) RequireTransportSecurity() bool { return !c.options.ConnectionIsSafe }

// GetRequestMetadata implements credentials.PerRPCCredentials of grpc-go.
func (c *Client) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	g, err := c.granted(ctx)
	if err != nil {
		return nil, err
	}
	if g.sent.Swap(true) && c.options.ConnectionIsSafe || g.own {
		return nil, nil //nolint:nilnil // it is in the header
	}
	return map[string]string{c.options.Header: c.value(g.token)}, nil
}

// Transport returns a RoundTripper that attaches the token to requests over https, and refuses others. It
// does not attach it to what another host has redirected. Nil means [http.DefaultTransport].
func (c *Client) Transport(base http.RoundTripper) http.RoundTripper {
	if base == nil {
		base = http.DefaultTransport
	}
	return &transport{c, base}
}

type transport struct {
	client *Client
	base   http.RoundTripper
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	header := http.CanonicalHeaderKey(t.client.options.Header)
	if len(req.Header[header]) > 0 || !sameHost(req) {
		return t.base.RoundTrip(req)
	}
	g, err := t.client.granted(req.Context())
	if err == nil && req.URL.Scheme != "https" && !t.client.options.ConnectionIsSafe {
		g.refused.Store(true)
		err = fmt.Errorf("auth: credentials are not sent over %s to %s: use https, or set ClientOptions.ConnectionIsSafe", req.URL.Scheme, req.URL.Host)
	}
	if err != nil {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, err
	}
	g.sent.Store(true)
	req = req.Clone(req.Context())
	req.Header.Set(header, t.client.value(g.token))
	return t.base.RoundTrip(req)
}

// sameHost reports whether a redirected request goes where the first one went.
func sameHost(req *http.Request) bool {
	for r := req; r.Response != nil && r.Response.Request != nil; {
		if r = r.Response.Request; r.URL.Host != req.URL.Host || r.URL.Scheme != req.URL.Scheme {
			return false
		}
	}
	return true
}

// get returns a token that is good.
func (c *Client) get(ctx context.Context) (Token, error) {
	now := time.Now()
	c.mu.Lock()
	token := c.token
	good := c.have && (token.Expires.IsZero() || now.Before(token.Expires))
	if good && (token.Expires.IsZero() || now.Before(token.Expires.Add(-c.early(token))) || now.Before(c.retry)) {
		c.mu.Unlock()
		return token, nil
	}
	f := c.running
	if f == nil {
		f = &flight{done: make(chan struct{})}
		c.running = f
		go c.fetch(context.WithoutCancel(ctx), f)
	}
	c.mu.Unlock()
	if good {
		return token, nil
	}
	select {
	case <-f.done:
		return f.token, f.err
	case <-ctx.Done():
		return Token{}, ctx.Err()
	}
}

// early is how long before its end the token is replaced.
func (c *Client) early(t Token) time.Duration {
	return min(c.options.Early, max(0, t.Expires.Sub(c.got)/5))
}

// fetch calls the source.
func (c *Client) fetch(ctx context.Context, f *flight) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	err := errors.New("auth: the token source did not return")
	defer func() {
		if value := recover(); value != nil {
			err = &core.Panic{Value: value, Stack: debug.Stack()}
		}
		cancel()
		c.land(f, err)
	}()
	f.token, err = c.source(ctx)
}

// land is the end of a flight.
func (c *Client) land(f *flight, err error) {
	if err == nil && !sendable(f.token.Value) {
		err = errors.New("auth: the token source returned a token that is empty or not printable ASCII")
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.running = nil
	if err == nil {
		c.token, c.have, c.got, c.retry = f.token, true, now, time.Time{}
	} else {
		f.token, f.err, c.retry = Token{}, unavailable(err), now.Add(retryAfter)
	}
	close(f.done)
}

func sendable(value string) bool {
	_, err := core.NewMetadata("token", value)
	return err == nil && value != ""
}

// unavailable is the error of calls that have no token.
func unavailable(err error) error {
	code := core.CodeUnauthenticated
	switch core.CodeOf(err) {
	case core.CodeUnavailable, core.CodeDeadlineExceeded, core.CodeResourceExhausted:
		code = core.CodeUnavailable
	}
	return errors.Newf(code, "there are no credentials to send: the token source failed").WithCause(err)
}

// forget gives a token up that was refused, but not one that is new: a server that refuses all would
// make each call get another.
func (c *Client) forget(t Token) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.have && c.token == t && time.Since(c.got) >= minAge {
		c.have = false
	}
}
