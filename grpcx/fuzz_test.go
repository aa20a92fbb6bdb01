package grpcx_test

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/grpcx"
)

const procedure = "/weft.test.v1.TestService/Test"

// through sends an error through the edge of a server or of a client. seen is what the chain inside got.
func through(client bool, err error) (native, seen error) {
	watch := core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		seen = next(ctx, call)
		return seen
	})
	if client {
		native = grpcx.UnaryClientInterceptor(watch)(context.Background(), procedure, nil, wrapperspb.String(""), nil,
			func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return err })
	} else {
		_, native = grpcx.UnaryServerInterceptor(watch)(context.Background(), wrapperspb.String(""), &grpc.UnaryServerInfo{FullMethod: procedure},
			func(context.Context, any) (any, error) { return nil, err })
	}
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

// wantStatus checks the same of grpc's own error, which grpc finds without looking for it.
func wantStatus(t *testing.T, where string, err error, code core.Code, message string, details ...*anypb.Any) {
	t.Helper()
	native, ok := err.(interface{ GRPCStatus() *status.Status })
	if !ok {
		t.Fatalf("%s: %T is no status error", where, err)
	}
	want := &spb.Status{Code: int32(code), Message: message, Details: details}
	if got := native.GRPCStatus().Proto(); !proto.Equal(got, want) || status.Convert(err).Message() != message {
		t.Fatalf("%s: got %v, want %v", where, got, want)
	}
}

// An error goes to grpc and back without loss, on servers and on clients; grpc's own too, whatever its code.
func FuzzErrorConversion(f *testing.F) {
	f.Add(uint32(5), "thing is missing", "type.googleapis.com/google.rpc.RetryInfo", []byte{10, 2, 8, 1})
	f.Add(uint32(16), "", "", []byte(nil))
	f.Add(uint32(0), "code OK", "example.com/x", []byte("x"))
	f.Add(uint32(17), "\xff\x00 \u00e9 %41", "\xff", []byte{0xff})
	f.Fuzz(func(t *testing.T, number uint32, message, url string, value []byte) {
		detail := &anypb.Any{TypeUrl: strings.ToValidUTF8(url, "\uFFFD"), Value: value}
		valid := strings.ToValidUTF8(message, "\uFFFD")
		code := core.Code(number)
		if code.IsError() {
			weft := errors.Newf(code, "%s", message).WithDetails(detail)
			for where, client := range map[string]bool{"server": false, "client": true} {
				native, seen := through(client, errors.Join(errors.New("private"), weft))
				wantError(t, where+" inside", seen, code, message, detail)
				wantStatus(t, where+" edge", native, code, valid, detail)
				_, back := through(client, native)
				wantError(t, where+" and back", back, code, valid, detail)
			}
		}
		wire := code
		if !code.IsError() {
			wire = core.CodeInternal
		}
		own := status.FromProto(&spb.Status{Code: int32(number), Message: message, Details: []*anypb.Any{detail}})
		for where, client := range map[string]bool{"server": false, "client": true} {
			err := own.Err()
			if err == nil {
				err = okError{own} // somebody's own type
			}
			native, seen := through(client, err)
			wantError(t, where+" inside, of grpc", seen, wire, message, detail)
			wantStatus(t, where+" edge, of grpc", native, wire, valid, detail)
			if kept := native == err; !client && kept != (code.IsError() && utf8.ValidString(message)) { //nolint:errorlint // identity is the point
				t.Fatalf("passed as the same value: %v", kept)
			}
			if !errors.Is(seen, err) || client && !errors.Is(native, err) {
				t.Fatalf("%s: %v does not unwrap to grpc's", where, seen)
			}
		}
	})
}

// okError has a status, but none of an error.
type okError struct{ status *status.Status }

func (okError) Error() string                { return "not OK" }
func (e okError) GRPCStatus() *status.Status { return e.status }

// An error with its metadata arrives as it was written.
func FuzzErrorOverTheWire(f *testing.F) {
	f.Add(uint8(5), "thing is missing", "type.googleapis.com/google.rpc.RetryInfo", []byte{10, 2, 8, 1}, "retry-after", "1")
	f.Add(uint8(1), "100% \u00e9\n\xff", "example.com/a.B", []byte(nil), "x-bin", "\x00\xff")
	f.Add(uint8(16), "", "", []byte("\xff"), "grpc-timeout", "bad key")
	var sent *errors.Error
	fail := core.InterceptorFunc(func(context.Context, *core.Call, core.Handler) error { return sent })
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(append(grpcx.ServerOptions(fail), grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return nil }))...)
	f.Cleanup(server.Stop)
	go func() { _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///test", append(grpcx.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))...)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = conn.Close() })
	f.Fuzz(func(t *testing.T, number uint8, message, url string, value []byte, key, text string) {
		if len(message)+len(url)+len(value)+len(key)+len(text) > 4<<10 {
			return // more than a header takes
		}
		code := core.Code(number%16) + 1
		detail := &anypb.Any{TypeUrl: strings.ToValidUTF8(url, "\uFFFD"), Value: value}
		sent = errors.Newf(code, "%s", message).WithDetails(detail).WithMetadata(key, text)
		err := conn.Invoke(context.Background(), procedure, wrapperspb.String(""), wrapperspb.String(""))
		wantError(t, "client", err, code, strings.ToValidUTF8(message, "\uFFFD"), detail)
		wantStatus(t, "client", err, code, strings.ToValidUTF8(message, "\uFFFD"), detail)
		got := core.FindCoded(err, nil).(*errors.Error).Metadata().Values(key)
		if sent.Metadata().Len() > 0 && !slices.Contains(got, text) {
			t.Fatalf("metadata %q is %q, want %q", key, got, text)
		}
	})
}
