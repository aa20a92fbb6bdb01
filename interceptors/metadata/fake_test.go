package metadata_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/metadata"
	"github.com/rpcweft/weft/rpctest"
)

// fakeTransport is the stack of a call that never leaves the test.
type fakeTransport struct {
	core.Call
	header http.Header // of the request
}

func (*fakeTransport) Invoke(context.Context, *core.Call) error { return nil }
func (f *fakeTransport) Metadata(kind core.MetadataKind) core.RawMetadata {
	if kind == core.KindRequestHeader {
		return core.RawMetadata{Map: f.header, HTTP: true}
	}
	return core.RawMetadata{}
}
func (*fakeTransport) Peer() (p core.Peer)              { return p }
func (*fakeTransport) Describe() (d core.Description)   { return d }
func (*fakeTransport) HTTPMethod() string               { return "POST" }
func (*fakeTransport) NewAttempt(*core.Call) *core.Call { return nil }
func (*fakeTransport) Clone(msg any) (any, int)         { return msg, 0 }
func (*fakeTransport) Normalize(err error) error        { return err }

func newCall(side core.Side, header http.Header) *core.Call {
	method, err := core.ParseMethod("/things.v1.ThingService/GetThing")
	if err != nil {
		panic(err)
	}
	t := &fakeTransport{header: header}
	t.Init(t, method, side, core.ShapeUnary, core.ProtocolConnect, nil)
	return &t.Call
}

// must returns an interceptor whose configuration is good.
func must(interceptor core.Interceptor, err error) core.Interceptor {
	if err != nil {
		panic(err)
	}
	return interceptor
}

func mustPanic(t *testing.T, want string, f func()) {
	t.Helper()
	defer func() {
		t.Helper()
		if got := fmt.Sprint(recover()); !strings.Contains(got, want) {
			t.Errorf("panicked with %q, want %q in it", got, want)
		}
	}()
	f()
}

// mustRefuse wants an error that has all of the words and no secret.
func mustRefuse(t *testing.T, interceptor core.Interceptor, err error, words ...string) {
	t.Helper()
	if interceptor != nil || err == nil {
		t.Errorf("got %v, %v, want an error about %q", interceptor, err, words)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error %q does not say %q", err, word)
		}
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error %q shows the value", err)
	}
}

// values computes the same values for each call.
func values(values ...string) metadata.ValuesFunc {
	return func(context.Context, *core.Call) ([]string, error) { return values, nil }
}

// only leaves of the result's metadata what has one of the prefixes.
func only(res *rpctest.Result, prefixes ...string) string {
	var kept []string
	for _, pair := range res.Metadata() {
		for _, prefix := range prefixes {
			if strings.HasPrefix(pair, prefix) {
				kept = append(kept, pair)
			}
		}
	}
	return strings.Join(kept, " ")
}

func wantCode(t *testing.T, res *rpctest.Result, want core.Code) {
	t.Helper()
	if got := core.CodeOf(res.Err); got != want {
		t.Errorf("got code %s, want %s: %s", got, want, res)
	}
}

func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// hidden is what a client reads of a failure that is none of its business.
func hidden(t *testing.T, res *rpctest.Result, code core.Code) {
	t.Helper()
	wantCode(t, res, code)
	if coded, ok := errors.AsType[*errors.Error](res.Err); !ok || coded.Message() != core.PublicMessage(code) {
		t.Errorf("the client was told %v, want the fixed text alone", res.Err)
	}
}
