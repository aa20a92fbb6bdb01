package main

import (
	"crypto/subtle"
	"embed"
	"encoding/json"
	"io/fs"
	"net"
	"net/http"
	"strings"
)

//go:embed page/index.html page/style.css page/app.js page/favicon.svg page/NOTICES
var pageFiles embed.FS

// The metadata that a page of another origin may send, and read: what the metadata inputs make of it included.
var (
	sentByPages = []string{"Authorization", "X-Request-Id", "X-Echo-Greeting", "X-Echo-Data-Bin"}
	readByPages = []string{"Www-Authenticate", "X-Request-Id", "X-Echo-Greeting", "X-Echo-Data-Bin", "X-Trailer-Greeting", "X-Trailer-Data-Bin"}
)

// pageServer is what the page is told of a server.
type pageServer struct {
	ID  string `json:"id"`
	URL string `json:"url"` // "" is where the page itself comes from
}

// newPage serves the page. It loads nothing from elsewhere, and calls this server and the other one.
func (s *servers) newPage() (http.Handler, error) {
	files, err := fs.Sub(pageFiles, "page")
	if err != nil {
		return nil, err
	}
	native, allowed := s.scheme()+s.webHost, s.scheme()+s.webHost
	if name, port, _ := net.SplitHostPort(s.webHost); strings.Contains(name, ":") {
		allowed = s.scheme() + "*:" + port // a policy cannot name an IPv6 address: browsers would ignore it
	}
	config, err := json.Marshal(map[string]any{
		"servers": []pageServer{{ID: "connect-go"}, {ID: "grpc-go", URL: native}},
		"auth":    s.token != "",
		"trace":   s.recorder.Enabled(),
	})
	if err != nil {
		return nil, err
	}
	policy := strings.Join([]string{
		"default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data:", "connect-src 'self' " + allowed,
		"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	}, "; ")
	static := http.FileServerFS(files)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Method != http.MethodGet && req.Method != http.MethodHead { // a call of a method that there is not
			http.NotFound(w, req)
			return
		}
		header := w.Header()
		header.Set("Cache-Control", "no-cache")
		header.Set("Content-Security-Policy", policy)
		header.Set("Referrer-Policy", "no-referrer")
		header.Set("X-Content-Type-Options", "nosniff")
		if req.URL.Path == "/config.json" {
			header.Set("Content-Type", "application/json")
			_, _ = w.Write(config)
			return
		}
		static.ServeHTTP(w, req)
	}), nil
}

// newTraces gives out what the interceptors did for a call, to who knows its id, and the token if there is one.
func (s *servers) newTraces() http.Handler {
	want := []byte("Bearer " + s.token)
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if s.token != "" && subtle.ConstantTimeCompare([]byte(req.Header.Get("Authorization")), want) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="echo-server"`)
			http.Error(w, "want the token of -auth-token", http.StatusUnauthorized)
			return
		}
		s.recorder.ServeHTTP(w, req)
	})
}

// origins are where the page may come from: the address of its server, by any name that this machine has for itself.
func (s *servers) origins() []string {
	name, port, _ := net.SplitHostPort(s.host)
	names := []string{name}
	if ip := net.ParseIP(name); name == "localhost" || ip != nil && ip.IsLoopback() {
		names = []string{"localhost", "127.0.0.1", "::1"}
	}
	origins := make([]string, len(names))
	for i, name := range names {
		origins[i] = s.scheme() + net.JoinHostPort(name, port)
		if s.certFile == "" && port == "80" || s.certFile != "" && port == "443" { // browsers leave it out
			origins[i] = strings.TrimSuffix(origins[i], ":"+port)
		}
	}
	return origins
}

// scheme is that of both servers' URLs.
func (s *servers) scheme() string {
	if s.certFile != "" {
		return "https://"
	}
	return "http://"
}
