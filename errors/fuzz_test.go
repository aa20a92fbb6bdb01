package errors_test

import (
	"bytes"
	"fmt"
	"testing"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// fuzzError is a coded error with everything that somebody may get wrong.
type fuzzError struct {
	foreignError
	detail core.Detail
}

func (e fuzzError) Details() []core.Detail { return []core.Detail{e.detail} }

// Whatever an error says, its status can be sent, and arrives as it was sent.
func FuzzWire(f *testing.F) {
	f.Add(uint32(5), "message", "type.googleapis.com/google.rpc.RetryInfo", []byte(nil))
	f.Add(uint32(0), "\xff", "\xff/google.rpc.RetryInfo", []byte{0xff})
	f.Fuzz(func(t *testing.T, code uint32, message, url string, value []byte) {
		coded := fuzzError{foreignError{core.Code(code), message}, core.Detail{TypeURL: url, Value: value}}
		sent := errors.Wire(fmt.Errorf("private: %w", coded), convert)
		if !sent.Code.IsError() || !utf8.ValidString(sent.Message) || utf8.ValidString(message) && sent.Message != message {
			t.Fatalf("status %v %q", sent.Code, sent.Message)
		}
		raw, err := proto.Marshal(&statuspb.Status{Code: int32(sent.Code), Message: sent.Message, Details: sent.Details})
		if err != nil {
			t.Fatalf("the status cannot be sent: %v", err)
		}
		var got statuspb.Status
		if err := proto.Unmarshal(raw, &got); err != nil {
			t.Fatalf("the status cannot be received: %v", err)
		}
		received := errors.FromNative(errors.Native{
			Original: coded, Code: core.Code(got.GetCode()), Message: got.GetMessage(), Details: got.GetDetails, Upstream: true,
		})
		again := errors.Wire(received, convert)
		if again.Code != sent.Code || again.Message != sent.Message || len(again.Details) != 1 || !proto.Equal(again.Details[0], sent.Details[0]) {
			t.Fatalf("sent %v, received %v", sent, again)
		}
		_, _, _ = received.Error(), received.LogValue(), received.WithDetails().WithMetadata(message, url, url, message).Error()
		errors.DetailOf[*errdetails.RetryInfo](received)
	})
}

// A detail is read as it was written, beside whatever else is there.
func FuzzDetailRoundTrip(f *testing.F) {
	f.Add("reason", "domain", "key", "value", []byte("other"))
	f.Fuzz(func(t *testing.T, reason, domain, key, value string, other []byte) {
		info := &errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: map[string]string{key: value}}
		e := errors.Aborted("m").WithDetails(&anypb.Any{TypeUrl: reason, Value: other}, info)
		if _, err := proto.Marshal(info); err != nil {
			if len(e.Details()) != 1 || e.Error() == "aborted: m" {
				t.Fatalf("a detail that cannot be sent: %v", e)
			}
			return
		}
		got, ok := errors.DetailOf[*errdetails.ErrorInfo](fmt.Errorf("private: %w", e))
		if ok && reason == "google.rpc.ErrorInfo" {
			return // the other one
		}
		if !ok || !proto.Equal(got, info) || !bytes.Equal(errors.Details(e)[0].GetValue(), other) {
			t.Fatalf("wrote %v, read %v", info, got)
		}
	})
}
