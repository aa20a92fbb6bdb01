//go:build stubs

// Package sut has the programs under test: a server and a client of the suite's
// service, on each stack, with a chain installed.
package sut

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"strings"

	"connectrpc.com/connect"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/connectx"
	suite "github.com/rpcweft/weft/test/conformance/gen/connectrpc/conformance/v1"
	"github.com/rpcweft/weft/test/conformance/internal/chain"
)

// Config says what to run.
type Config struct {
	Stack string // connect or grpc
	Bare  bool   // without Weft
	Fault string // see package chain
	// Attempts has a client make an attempt of each call.
	Attempts bool
	Reports  string // the folder for the chain's report
}

const (
	grpcStack = "grpc"
	webStack  = "web"
)

// connectOption installs the chain on either side of connect-go.
func (c *Config) connectOption(installed *chain.Chain) connect.Option {
	switch {
	case c.Bare:
		return connect.WithInterceptors()
	case c.Fault != "":
		return connect.WithInterceptors(chain.Connect(c.Fault), connectx.New(installed.Interceptors...))
	}
	return connect.WithInterceptors(connectx.New(installed.Interceptors...))
}

// readMessage reads a message as the suite writes it: a length of four bytes, then the bytes.
func readMessage(r io.Reader, msg proto.Message) error {
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		return err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	return proto.Unmarshal(data, msg)
}

func writeMessage(w io.Writer, msg proto.Message) error {
	data, err := proto.Marshal(msg)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(data))), data...)) //nolint:gosec // far less
	return err
}

// loadTLS returns a configuration with a certificate of one's own, if any, and the peer's, if any.
func loadTLS(cert, key, peer []byte) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(cert) > 0 {
		own, err := tls.X509KeyPair(cert, key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	if len(peer) > 0 {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(peer) {
			return nil, errors.New("malformed certificate of the peer")
		}
		config.RootCAs, config.ClientCAs = pool, pool
	}
	return config, nil
}

// addHeaders adds to metadata of either stack that is keyed and encoded as HTTP's.
func addHeaders(headers []*suite.Header, add func(key, value string)) {
	for _, h := range headers {
		for _, value := range h.GetValue() {
			add(h.GetName(), value)
		}
	}
}

// toHeaders converts HTTP headers and query parameters.
func toHeaders(from map[string][]string) (headers []*suite.Header) {
	for key, values := range from {
		headers = append(headers, &suite.Header{Name: key, Value: values})
	}
	return headers
}

func isBinary(key string) bool { return strings.HasSuffix(strings.ToLower(key), "-bin") }

// toMD converts to grpc's metadata, whose binary values are raw.
func toMD(headers []*suite.Header) metadata.MD {
	md := metadata.MD{}
	addHeaders(headers, func(key, value string) {
		if isBinary(key) {
			if data, err := connect.DecodeBinaryHeader(value); err == nil {
				value = string(data)
			}
		}
		md.Append(key, value)
	})
	return md
}

func fromMD(md metadata.MD) (headers []*suite.Header) {
	for key, values := range md {
		header := &suite.Header{Name: key}
		for _, value := range values {
			if isBinary(key) {
				value = connect.EncodeBinaryHeader([]byte(value))
			}
			header.Value = append(header.Value, value)
		}
		headers = append(headers, header)
	}
	return headers
}

func toConnectError(e *suite.Error) error {
	err := connect.NewError(connect.Code(e.GetCode()), errors.New(e.GetMessage())) //nolint:gosec // a code
	for _, detail := range e.GetDetails() {
		d, problem := connect.NewErrorDetail(detail)
		if problem != nil {
			return problem
		}
		err.AddDetail(d)
	}
	return err
}

func fromConnectError(err error) *suite.Error {
	if err == nil {
		return nil
	}
	native := new(connect.Error)
	if !errors.As(err, &native) {
		return &suite.Error{Code: suite.Code_CODE_UNKNOWN, Message: new("not a *connect.Error: " + err.Error())}
	}
	e := &suite.Error{Code: suite.Code(native.Code()), Message: new(native.Message())} //nolint:gosec // a code
	for _, d := range native.Details() {
		e.Details = append(e.Details, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type(), Value: d.Bytes()})
	}
	return e
}

func toGRPCError(e *suite.Error) error {
	return status.ErrorProto(&statuspb.Status{Code: int32(e.GetCode()), Message: e.GetMessage(), Details: e.GetDetails()})
}

func fromGRPCError(err error) *suite.Error {
	if err == nil {
		return nil
	}
	s := status.Convert(err).Proto()
	return &suite.Error{Code: suite.Code(s.GetCode()), Message: new(s.GetMessage()), Details: s.GetDetails()}
}
