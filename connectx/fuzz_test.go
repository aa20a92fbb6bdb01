package connectx_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/connectx"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

const procedure = "/weft.test.v1.TestService/Test"

// specOf is a method of the given shape.
func specOf(client bool, stream connect.StreamType) connect.Spec {
	return connect.Spec{Procedure: procedure, IsClient: client, StreamType: stream}
}

// request is a request with a spec, which connect keeps to itself.
type request struct {
	connect.AnyRequest
	spec connect.Spec
}

func (r *request) Spec() connect.Spec { return r.spec }

// through sends an error through the edge of a server or of a client. seen is what the chain inside got.
func through(client bool, err error) (native *connect.Error, seen error) {
	watch := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		seen = next(ctx, call)
		return seen
	})
	_, edge := connectx.New(watch).WrapUnary(func(context.Context, connect.AnyRequest) (connect.AnyResponse, error) {
		return nil, err
	})(context.Background(), &request{connect.NewRequest(wrapperspb.String("")), specOf(client, connect.StreamTypeUnary)})
	native, _ = edge.(*connect.Error) //nolint:errorlint // the edge gives it bare
	return native, seen
}

// wantError checks code, message and details of a coded error.
func wantError(t *testing.T, where string, err error, code core.Code, message string, details ...*anypb.Any) {
	t.Helper()
	coded := core.FindCoded(err, nil)
	if coded == nil || core.CodeOf(err) != code || coded.Message() != message {
		t.Fatalf("%s: got %v, want %s: %q", where, err, code, message)
	}
	got := errors.Details(err)
	for i, d := range details {
		if len(got) != len(details) || got[i].GetTypeUrl() != d.GetTypeUrl() || !bytes.Equal(got[i].GetValue(), d.GetValue()) {
			t.Fatalf("%s: details %v, want %v", where, got, details)
		}
	}
}

// wantNative checks the same of connect's own error.
func wantNative(t *testing.T, where string, native *connect.Error, code core.Code, message string, details ...*anypb.Any) {
	t.Helper()
	if native == nil || core.Code(native.Code()) != code || native.Message() != message || len(native.Details()) != len(details) {
		t.Fatalf("%s: got %v, want %s: %q", where, native, code, message)
	}
	for i, d := range native.Details() {
		if "type.googleapis.com/"+d.Type() != details[i].GetTypeUrl() || !bytes.Equal(d.Bytes(), details[i].GetValue()) {
			t.Fatalf("%s: detail %q %x, want %v", where, d.Type(), d.Bytes(), details[i])
		}
	}
}

// detailOf is a detail whose type connect can tell: it shows the name alone.
func detailOf(name string, value []byte) *anypb.Any {
	name = strings.ToValidUTF8(name, "\uFFFD")
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + name[strings.LastIndexByte(name, '/')+1:], Value: value}
}

// An error goes to connect and back without loss, on servers and on clients; connect's own too, whatever its code.
func FuzzErrorConversion(f *testing.F) {
	f.Add(uint32(5), "thing is missing", "google.rpc.RetryInfo", []byte{10, 2, 8, 1})
	f.Add(uint32(16), "", "", []byte(nil))
	f.Add(uint32(0), "code OK", "x", []byte("x"))
	f.Add(uint32(17), "\xff\x00 \u00e9 %41", "\xff", []byte{0xff})
	f.Fuzz(func(t *testing.T, number uint32, message, name string, value []byte) {
		detail := detailOf(name, value)
		valid := strings.ToValidUTF8(message, "\uFFFD")
		code := core.Code(number)
		if code.IsError() {
			weft := errors.Newf(code, "%s", message).WithDetails(detail)
			for where, client := range map[string]bool{"server": false, "client": true} {
				native, seen := through(client, errors.Join(errors.New("private"), weft))
				wantError(t, where+" inside", seen, code, message, detail)
				wantNative(t, where+" edge", native, code, valid, detail)
				_, back := through(client, native)
				wantError(t, where+" and back", back, code, valid, detail)
			}
		}
		wire := code
		if !code.IsError() {
			wire = core.CodeInternal
		}
		for _, construct := range []func(connect.Code, error) *connect.Error{connect.NewError, connect.NewWireError} {
			own := construct(connect.Code(number), errors.New(message))
			if d, err := connect.NewErrorDetail(detail); err == nil {
				own.AddDetail(d)
			}
			for where, client := range map[string]bool{"server": false, "client": true} {
				native, seen := through(client, own)
				wantError(t, where+" inside, of connect", seen, wire, message, detail)
				wantNative(t, where+" edge, of connect", native, wire, valid, detail)
				if kept := native == own; !client && kept != (code.IsError() && utf8.ValidString(message) && !connect.IsWireError(own)) {
					t.Fatalf("passed as the same value: %v", kept)
				}
				if !errors.Is(seen, own) || client && !errors.Is(native, own) {
					t.Fatalf("%s: %v does not unwrap to connect's", where, seen)
				}
			}
		}
	})
}

// inProcess is an HTTP client whose server is a handler beside it.
type inProcess struct{ handler http.Handler }

func (p inProcess) Do(req *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	served := req.Clone(req.Context())
	served.RequestURI, served.ProtoMajor, served.ProtoMinor = req.URL.Path, 2, 0
	p.handler.ServeHTTP(rec, served)
	res := rec.Result()
	res.ProtoMajor, res.Request = 2, req
	return res, nil
}

// protocols are the ways in which a connect client speaks.
var protocols = map[string]connect.ClientOption{"connect": connect.WithClientOptions(), "grpc": connect.WithGRPC(), "grpcweb": connect.WithGRPCWeb()}

var goodKey = regexp.MustCompile(`^[0-9a-zA-Z_.-]+$`)

// An error with its metadata arrives as it was written, over each protocol.
func FuzzErrorOverTheWire(f *testing.F) {
	f.Add(uint8(5), "thing is missing", "google.rpc.RetryInfo", []byte{10, 2, 8, 1}, "retry-after", "1")
	f.Add(uint8(1), "100% \u00e9\n\xff", "a.B", []byte(nil), "x-bin", "\x00\xff")
	f.Add(uint8(16), "", "a.B", []byte("\xff"), "Connect-Timeout-Ms", "bad key")
	f.Fuzz(func(t *testing.T, number uint8, message, name string, value []byte, key, text string) {
		code := core.Code(number%16) + 1
		if name = strings.Trim(name, "/."); !goodKey.MatchString(name) {
			name = "a.B"
		}
		detail := detailOf(name, value)
		sent := errors.Newf(code, "%s", message).WithDetails(detail).WithMetadata(key, text)
		handler := connect.NewUnaryHandler(procedure, func(context.Context, *connect.Request[wrapperspb.StringValue]) (*connect.Response[wrapperspb.StringValue], error) {
			return nil, sent
		}, connect.WithInterceptors(connectx.New()))
		for protocol, option := range protocols {
			client := connect.NewClient[wrapperspb.StringValue, wrapperspb.StringValue](inProcess{handler}, "http://test"+procedure,
				option, connect.WithInterceptors(connectx.New()))
			_, err := client.CallUnary(context.Background(), connect.NewRequest(wrapperspb.String("")))
			wantError(t, protocol, err, code, strings.ToValidUTF8(message, "\uFFFD"), detail)
			got := core.FindCoded(err, nil).(*errors.Error).Metadata().Values(key)
			if sent.Metadata().Len() > 0 && !slices.Contains(got, text) {
				t.Fatalf("%s: metadata %q is %q, want %q", protocol, key, got, text)
			}
		}
	})
}

// Weft and connect agree on what a peer's binary metadata says.
func FuzzPeerBinary(f *testing.F) {
	for _, value := range []string{"", "/w", "/w==", "AA,AQ", "!", "AA=", "A\nA", "_w"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		md := core.WrapMetadata(core.RawMetadata{Map: http.Header{"K-Bin": {value}}, HTTP: true})
		got, err := md.Lookup("k-bin")
		if strings.ContainsAny(value, ", \t\r\n") {
			return // several values, which connect leaves to its user, or none that HTTP lets pass
		}
		native, nativeErr := connect.DecodeBinaryHeader(value)
		if nativeErr == nil && (err != nil || len(got) != 1 || got[0] != string(native)) {
			t.Fatalf("%q: got %q, %v, connect says %q", value, got, err, native)
		}
		encoded := connect.EncodeBinaryHeader([]byte(value))
		md = core.WrapMetadata(core.RawMetadata{Map: http.Header{"K-Bin": {encoded, base64.StdEncoding.EncodeToString([]byte(value))}}, HTTP: true})
		if got, err := md.Lookup("k-bin"); err != nil || len(got) != 2 || got[0] != value || got[1] != value {
			t.Fatalf("connect sends %q as %q, read as %q, %v", value, encoded, got, err)
		}
	})
}
