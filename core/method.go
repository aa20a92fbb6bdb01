package core

import (
	"fmt"
	"strings"
)

// Method is the name of an RPC method, as on the wire: "/package.Service/Method".
// The zero Method has no name. Methods are comparable.
type Method struct {
	path string
	// dot is where the package ends (0 without a package), slash where the service ends.
	dot, slash int
}

// ParseMethod parses a full method name, "/foo.bar.SearchService/Search", with
// or without the leading slash. A method without a package is fine; an empty
// part or a further slash is an error that quotes the name.
func ParseMethod(name string) (Method, error) {
	path := name
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	slash := strings.LastIndexByte(path, '/')
	dot := strings.LastIndexByte(path[:slash], '.')
	m := Method{path: path, dot: max(dot, 0), slash: slash}
	problem := ""
	switch {
	case slash == 0:
		problem = "it has no service"
	case strings.IndexByte(path[1:slash], '/') >= 0:
		problem = "it has more than two parts"
	case m.Service() == "" || m.FullService()[0] == '.' || strings.Contains(m.FullService(), ".."):
		problem = "its service has an empty part"
	case m.Name() == "":
		problem = "it has no method"
	case strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		problem = "it has a space or a control character"
	}
	if problem != "" {
		return Method{}, fmt.Errorf("core: malformed method name %q: %s; want /package.Service/Method", name, problem)
	}
	return m, nil
}

// String returns the full name with the leading slash: "/foo.bar.SearchService/Search".
func (m Method) String() string { return m.path }

// MarshalText implements [encoding.TextMarshaler], for logs, with the full name.
func (m Method) MarshalText() ([]byte, error) { return []byte(m.path), nil }

// Package returns "foo.bar", or "" for a service without a package.
func (m Method) Package() string {
	if m.dot == 0 {
		return ""
	}
	return m.path[1:m.dot]
}

// Service returns the service without its package: "SearchService".
func (m Method) Service() string {
	if m.path == "" {
		return ""
	}
	if m.dot == 0 {
		return m.path[1:m.slash]
	}
	return m.path[m.dot+1 : m.slash]
}

// FullService returns the fully qualified service: "foo.bar.SearchService".
func (m Method) FullService() string {
	if m.path == "" {
		return ""
	}
	return m.path[1:m.slash]
}

// Name returns the method alone: "Search".
func (m Method) Name() string {
	if m.path == "" {
		return ""
	}
	return m.path[m.slash+1:]
}
