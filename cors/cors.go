// Package cors lets web pages of other origins call an RPC server, be it made with connect-go or with grpcx/web: it tells browsers
// what they may send and what the page may read.
//
//	wrap, err := cors.New(&cors.Options{
//		Origins:         []string{"https://app.example.com"},
//		RequestHeaders:  []string{"authorization"},
//		ResponseHeaders: []string{"x-request-id"},
//	})
//	server := &http.Server{Handler: wrap(mux)}
//
// What the protocols need is in: methods, headers, and the Trailer- names under which trailers of the Connect protocol
// travel. It protects nobody but the users of browsers: other clients do as they like.
package cors

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	connectcors "connectrpc.com/cors"
	"github.com/rs/cors"
	"golang.org/x/net/publicsuffix"

	"github.com/rpcweft/weft/core"
)

// Options say who may call and what with. The zero value lets no other origin in.
type Options struct {
	// Origins may call: "https://app.example.com" or "http://localhost:5173", as a browser writes them. In the place of a
	// host's first labels may be one star, "https://*.example.com", for all hosts below a domain that is no public suffix.
	// "*" alone is any origin, which excludes Credentials.
	Origins []string
	// RequestHeaders are the names of the application's own metadata that pages may send, such as "authorization". With one that is
	// not listed the preflight fails as a whole, and the browser's console blames the origin.
	RequestHeaders []string
	// ResponseHeaders are the names of the application's own metadata that pages may read, of headers and of trailers.
	ResponseHeaders []string
	// Credentials are cookies, HTTP authentication and client certificates of the server's origin, which browsers send then.
	Credentials bool
	// MaxAge is how long browsers may remember what is allowed instead of asking before each call: in whole seconds. 0 means two
	// hours, the most that Chrome does. Negative means not at all.
	MaxAge time.Duration
}

// New returns a wrapper for handlers, to be put around all others. It answers preflight requests itself; any other
// request reaches the handler, whatever its origin. The wrapper, and what it returns, may be used by any number of goroutines.
// Nil options are the zero ones.
//
// It is an error if an origin is not one, if a star lets in too many, if a name cannot be that of metadata,
// and if MaxAge is not in whole seconds.
func New(o *Options) (func(http.Handler) http.Handler, error) {
	if o == nil {
		o = &Options{}
	}
	for _, origin := range o.Origins {
		if err := check(origin, o); err != nil {
			return nil, fmt.Errorf("cors: origin %q: %w", origin, err)
		}
	}
	for _, names := range [][]string{o.RequestHeaders, o.ResponseHeaders} {
		for _, name := range names {
			if _, err := core.NewMetadata(name, ""); err != nil {
				return nil, fmt.Errorf("cors: %w", err)
			}
		}
	}
	maxAge := cmp.Or(o.MaxAge, 2*time.Hour)
	if maxAge%time.Second != 0 {
		return nil, fmt.Errorf("cors: MaxAge is %v, want whole seconds", maxAge)
	}
	exposed := connectcors.ExposedHeaders()
	for _, name := range o.ResponseHeaders {
		exposed = append(exposed, name, "Trailer-"+name)
	}
	options := cors.Options{
		AllowedOrigins:   o.Origins,
		AllowedMethods:   connectcors.AllowedMethods(),
		AllowedHeaders:   append(connectcors.AllowedHeaders(), o.RequestHeaders...),
		ExposedHeaders:   exposed,
		AllowCredentials: o.Credentials,
		MaxAge:           int(maxAge / time.Second),
	}
	if len(o.Origins) == 0 {
		options.AllowOriginFunc = func(string) bool { return false } // an empty list would be all
	}
	return cors.New(options).Handler, nil
}

// check tells what is wrong with an origin. Browsers compare whole strings.
func check(origin string, o *Options) error {
	if origin == "*" {
		if o.Credentials {
			return errors.New("any origin cannot go with Credentials: every page could act as its visitor")
		}
		if len(o.Origins) > 1 {
			return errors.New("any origin cannot stand beside others")
		}
		return nil
	}
	u, err := url.Parse(origin)
	if err != nil {
		return err
	}
	switch port := u.Port(); {
	case !strings.EqualFold(origin, u.Scheme+"://"+u.Host) || u.Hostname() == "" || strings.HasSuffix(u.Host, ":"):
		return errors.New("want scheme://host or scheme://host:port and no more, not even a slash at the end")
	case u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80":
		return errors.New("browsers leave out the port that goes without saying")
	case port != "" && !isPort(port):
		return errors.New("the port is not one from 1 to 65535 as browsers write it")
	case strings.ContainsFunc(u.Host, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' || r == ',' }):
		return errors.New("browsers write hosts in ASCII (punycode)")
	}
	domain, below := strings.CutPrefix(u.Hostname(), "*.")
	if strings.Contains(domain, "*") {
		return errors.New("a star stands for the first labels of a host, as in https://*.example.com")
	}
	if !below {
		return nil
	}
	domain = strings.TrimSuffix(strings.ToLower(domain), ".") // a dot at the end makes it no other domain
	if suffix, _ := publicsuffix.PublicSuffix(domain); suffix == domain {
		return errors.New("anybody can have a host below a public suffix")
	}
	return nil
}

func isPort(port string) bool {
	n, err := strconv.ParseUint(port, 10, 16)
	return err == nil && n != 0 && port[0] != '0'
}
