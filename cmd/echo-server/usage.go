package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

// tokenVariable is the shell's, that holds the token in the lines to paste: the token itself is not printed.
const tokenVariable = "ECHO_TOKEN"

// section is what is printed about one server.
type section struct {
	title string
	lines []string // to paste
}

// usage returns where the servers are and how to call them. Each line works as it stands.
func (s *servers) usage() []section {
	const (
		hello   = ` -d '{"input":"hello"}' `
		unary   = dummyv1connect.DummyServiceExecuteProcedure
		stream  = dummyv1connect.DummyServiceExecuteServerStreamProcedure
		service = dummyv1connect.DummyServiceName
	)
	// Without TLS a client must be told to speak HTTP/2; with it, whom to trust.
	connect, native, web := s.scheme()+s.host, s.scheme()+s.grpcHost, s.scheme()+s.webHost
	curl, grpcurl, bufCurl := "curl", "grpcurl -plaintext", "buf curl --http2-prior-knowledge"
	if s.certFile != "" {
		curl, grpcurl, bufCurl = "curl --insecure", "grpcurl -insecure", "buf curl --insecure"
		if vouchesFor(s.cert, s.host, s.grpcHost, s.webHost) {
			file := "cacert " + quote(s.certFile)
			curl, grpcurl, bufCurl = "curl --"+file, "grpcurl -"+file, "buf curl --"+file
		}
	}
	header := ""
	if s.token != "" {
		header = ` -H "Authorization: Bearer $` + tokenVariable + `"`
	}
	return []section{
		{"connect-go (Connect, gRPC, gRPC-Web) on " + connect, []string{
			curl + header + " -H 'Content-Type: application/json'" + hello + quote(connect+unary),
			curl + header + " -i -H 'Content-Type: application/json' -H 'X-Echo-Greeting: hello' -d '{\"input\":\"metadata\"}' " + quote(connect+unary),
			curl + header + " " + quote(connect+unary+"?encoding=json&message=%7B%22input%22%3A%22hello%22%7D"),
			bufCurl + header + hello + quote(connect+stream),
			bufCurl + header + " --protocol grpcweb" + hello + quote(connect+stream),
			grpcurl + " " + quote(s.host) + " list",
			grpcurl + header + hello + quote(s.host) + " " + unary[1:],
		}},
		{"grpc-go (gRPC) on " + native, []string{
			grpcurl + " " + quote(s.grpcHost) + " describe " + service,
			grpcurl + ` -d '{"service":"` + service + `"}' ` + quote(s.grpcHost) + " grpc.health.v1.Health/Check",
			grpcurl + header + hello + quote(s.grpcHost) + " " + stream[1:],
			bufCurl + header + " --protocol grpc" + hello + quote(native+unary),
		}},
		{"grpc-go for browsers (Connect, gRPC-Web, gRPC) at " + web, []string{
			curl + header + " -H 'Content-Type: application/json'" + hello + quote(web+unary),
			bufCurl + header + " --protocol grpcweb" + hello + quote(web+stream),
		}},
	}
}

func (s *servers) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Open %s%s/ in a browser, or paste these lines.\n\n", s.scheme(), s.host)
	for _, section := range s.usage() {
		fmt.Fprintf(&b, "%s\n\n  %s\n\n", section.title, strings.Join(section.lines, "\n  "))
	}
	if s.token != "" {
		b.WriteString("The lines want the token of -auth-token in the variable " + tokenVariable + " of your shell.\n\n")
	}
	b.WriteString("Inputs that do something else: fail:CODE, fail-after:N:CODE, plain, panic, sleep:DURATION, metadata,\n" +
		"metadata-fail:CODE, deadline; for clients that try again, flaky:TIMES:CODE:KEY and lazy:TIMES:DURATION:KEY.\n")
	return b.String()
}

// vouchesFor reports whether a client that trusts a server's certificate accepts
// it as that of each host.
func vouchesFor(cert tls.Certificate, hosts ...string) bool {
	roots := x509.NewCertPool()
	for _, der := range cert.Certificate {
		if parsed, err := x509.ParseCertificate(der); err == nil {
			roots.AddCert(parsed)
		}
	}
	return !slices.ContainsFunc(hosts, func(host string) bool {
		name, _, _ := net.SplitHostPort(host)
		_, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: name})
		return err != nil
	})
}

// quote makes one word of arg for a shell.
func quote(arg string) string {
	const safe = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./:_-"
	if arg != "" && !strings.ContainsFunc(arg, func(r rune) bool { return !strings.ContainsRune(safe, r) }) {
		return arg
	}
	return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
}
