package core_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rpcweft/weft/core"
)

// both runs f for each way in which a stack keeps metadata.
func both(t *testing.T, f func(t *testing.T, http bool)) {
	t.Helper()
	for name, http := range map[string]bool{"http": true, "grpc": false} {
		t.Run(name, func(t *testing.T) { f(t, http) })
	}
}

// header returns writable metadata that belongs to a call, and the stack's map behind it.
func header(http bool) (*core.Metadata, map[string][]string) {
	call := newCall(&stack{http: http}, core.SideClient, core.ShapeUnary)
	return call.RequestHeader(), call.maps[core.KindRequestHeader]
}

func wantAll(t *testing.T, md *core.Metadata, want string) {
	t.Helper()
	var got []string
	for key, values := range md.All() {
		got = append(got, fmt.Sprintf("%s=%q", key, values))
	}
	wantText(t, "metadata", strings.Join(got, " "), want)
	wantText(t, "length", md.Len(), len(got))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func TestMetadataIsReadAsItWasWritten(t *testing.T) {
	both(t, func(t *testing.T, http bool) {
		md, raw := header(http)
		must(t, md.Set("X-Key", "1"))
		must(t, md.Add("x-key", "2"))
		must(t, md.Add("b-bin", "\x00\xff"))
		must(t, md.Add("B-Bin", ""))
		must(t, md.Set("empty", ""))
		must(t, md.Set("0a_.-z", "~ !"))
		wantAll(t, md, `0a_.-z=["~ !"] b-bin=["\x00\xff" ""] empty=[""] x-key=["1" "2"]`)
		wantText(t, "Get", md.Get("X-KEY"), "1")
		wantText(t, "Get of none", md.Get("none"), "")
		wantText(t, "Values of none", md.Values("none") == nil, true)
		must(t, md.Set("x-KEY", "3"))
		must(t, md.Delete("B-BIN"))
		must(t, md.Delete("none"))
		wantAll(t, md, `0a_.-z=["~ !"] empty=[""] x-key=["3"]`)
		wantText(t, "the map is the stack's own", len(raw), 3)
		wantText(t, "the kind of the map", md.Raw().HTTP, http)
		wantText(t, "text", md.String(), "metadata[0a_.-z empty x-key]")
	})
	md, raw := header(true)
	must(t, md.Set("x-key-bin", "\xff"))
	wantText(t, "http keeps canonical keys and base64", fmt.Sprint(raw), "map[X-Key-Bin:[/w]]")
	md, raw = header(false)
	must(t, md.Set("X-Key-Bin", "\xff"))
	wantText(t, "grpc keeps lower-case keys and bytes", fmt.Sprintf("%q", raw), `map["x-key-bin":["\xff"]]`)
}

// What a stack or a peer left in the map is read whatever its dress.
func TestMetadataThatAStackHas(t *testing.T) {
	md := core.WrapMetadata(core.RawMetadata{HTTP: true, Agent: true, Map: http.Header{
		"x-lower": {"1"}, "X-Lower": {"2"}, "Padded-Bin": {"/w==", " AA , AQ==", ""}, "Bad-Bin": {"AA", "!", "AQ"},
		"User-Agent": {"agent"}, "Content-Type": {"text"}, "Connect-Anything": {"c"}, "Trailer-Thing": {"t"}, "grpc-timeout": {"1S"}, "Host": {"h"}, ":path": {"/"},
		"Grpc-Other": {"o"}, "Empty": {},
	}})
	wantAll(t, md, `bad-bin=["\x00" "\x01"] grpc-other=["o"] padded-bin=["\xff" "\x00" "\x01" ""] user-agent=["agent"] x-lower=["1" "2"]`)
	values, err := md.Lookup("BAD-bin")
	wantText(t, "what is good of a bad value", fmt.Sprintf("%q", values), `["\x00" "\x01"]`)
	wantCode(t, "bad base64", err, core.CodeInvalidArgument, "bad-bin", "base64")
	if strings.Contains(err.Error(), "!") {
		t.Errorf("%v shows the value", err)
	}
	for _, key := range []string{"content-type", "Content-Type", "connect-anything", "trailer-thing", "grpc-timeout", "host", ":path", ""} {
		values, err := md.Lookup(key)
		if values != nil || err != nil {
			t.Errorf("%q: %q, %v", key, values, err)
		}
	}
	wantText(t, "the deliberate way around", len(md.Raw().Map), 13)
	wantCode(t, "received metadata", md.Set("k", "v"), core.CodeFailedPrecondition, "k", "received")
	own := core.WrapMetadata(core.RawMetadata{Map: map[string][]string{"user-agent": {"ours"}}})
	wantText(t, "an agent of our own is hidden", own.Get("User-Agent"), "")
	wantText(t, "length", own.Len(), 0)
}

// Writing replaces a key in whatever spelling it is there.
func TestSetReplacesEachSpellingOfAKey(t *testing.T) {
	md, raw := header(true)
	raw["x-key"], raw["X-Key"] = []string{"1"}, []string{"2"}
	must(t, md.Add("x-key", "3"))
	wantAll(t, md, `x-key=["1" "2" "3"]`)
	must(t, md.Set("X-KEY", "4"))
	wantAll(t, md, `x-key=["4"]`)
	raw["x-key"] = []string{"1"}
	must(t, md.Delete("x-key"))
	wantAll(t, md, "")
}

func TestNilMetadataIsEmpty(t *testing.T) {
	var md *core.Metadata
	values, err := md.Lookup("k")
	wantText(t, "nil", values == nil && err == nil && md.Get("k") == "" && md.Values("k") == nil && md.Len() == 0 && md.Raw().Map == nil, true)
	wantText(t, "text", md.String(), "metadata[]")
	md.EachRaw(true, func(string, string) { t.Error("a pair") })
}

// A bad key or value, and what belongs to the protocols, is refused and changes nothing.
func TestBadMetadataIsRefused(t *testing.T) {
	reserved := []string{
		":path", "Connect-Timeout-Ms", "connect-", "trailer-x", "content-type", "content-length", "content-encoding", "accept", "accept-encoding", "te", "trailer",
		"transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade", "host", "date", "grpc-encoding", "grpc-accept-encoding", "grpc-timeout",
		"grpc-status", "grpc-message", "grpc-message-type", "grpc-status-details-bin", "user-agent", "User-Agent",
	}
	both(t, func(t *testing.T, http bool) {
		md, raw := header(http)
		must(t, md.Set("k", "before"))
		for _, key := range reserved {
			wantCode(t, key, md.Set(key, "v"), core.CodeInvalidArgument, strings.ToLower(key), "protocol")
			wantCode(t, key, md.Add(key, "v"), core.CodeInvalidArgument)
			wantCode(t, key, md.Delete(key), core.CodeInvalidArgument)
			wantText(t, "IsReserved of "+key, core.IsReserved(key), true)
		}
		for _, key := range []string{"", "a b", "a\n", "ä", "a:b", "a/b", "a\x00", "(a)", "\u212aey"} {
			wantCode(t, fmt.Sprintf("key %q", key), md.Set(key, "v"), core.CodeInvalidArgument, "key")
			wantText(t, "IsReserved of "+key, core.IsReserved(key), false)
		}
		for _, value := range []string{"a\n", "\r", "\x00", "ä", "\x7f", "\xff", "\t", " "} {
			err := md.Set("k", "secret"+value)
			wantCode(t, fmt.Sprintf("value %q", value), err, core.CodeInvalidArgument, `"k"`)
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%v shows the value", err)
			}
			must(t, md.Set("k-bin", value))
			must(t, md.Delete("k-bin"))
		}
		wantAll(t, md, `k=["before"]`)
		wantText(t, "keys", fmt.Sprint(slices.Sorted(maps.Keys(raw))), map[bool]string{true: "[K]", false: "[k]"}[http])
	})
	for _, key := range []string{"grpc-other", "x-connect-y", "dates", "authorization", "cookie"} {
		wantText(t, "IsReserved of "+key, core.IsReserved(key), false)
	}
}

func TestMetadataThatWasSentOrReceivedCannotBeWritten(t *testing.T) {
	var kept *core.Metadata
	_, err := run(&stack{}, core.SideClient, core.ShapeUnary, core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		kept = call.RequestHeader()
		must(t, kept.Set("k", "v"))
		for _, md := range []*core.Metadata{call.ResponseHeader(), call.ResponseTrailer(), call.ResponseMetadata()} {
			wantCode(t, "response metadata on a client", md.Set("k", "v"), core.CodeFailedPrecondition, `"k"`)
			wantCode(t, "response metadata on a client", md.Delete("k"), core.CodeFailedPrecondition)
		}
		err := next(ctx, call)
		wantCode(t, "after next", kept.Add("k", "w"), core.CodeFailedPrecondition, `"k"`)
		return err
	}))
	must(t, err)
	wantAll(t, kept, `k=["v"]`)

	_, err = run(&stack{}, core.SideServer, core.ShapeUnary, core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		err := next(ctx, call)
		must(t, call.ResponseHeader().Set("k", "h"))
		must(t, call.ResponseTrailer().Set("k", "t"))
		must(t, call.ResponseTrailer().Set("l", "t"))
		wantAll(t, call.ResponseMetadata(), `k=["h" "t"] l=["t"]`)
		call.ResponseHeader().Seal("it was sent")
		call.ResponseHeader().Seal("a later reason")
		wantCode(t, "after it was sent", call.ResponseHeader().Set("k", "v"), core.CodeFailedPrecondition, "it was sent")
		// What is wrong with a pair is said first: it is not a matter of time.
		wantCode(t, "after it was sent", call.ResponseHeader().Set("te", "v"), core.CodeInvalidArgument)
		return err
	}))
	must(t, err)
}

func TestNewMetadata(t *testing.T) {
	md, err := core.NewMetadata("K", "1", "k", "2", "b-bin", "\xff")
	must(t, err)
	wantAll(t, md, `b-bin=["\xff"] k=["1" "2"]`)
	md, err = core.NewMetadata()
	must(t, err)
	must(t, md.Set("k", "v"))
	wantAll(t, md, `k=["v"]`)
	md, err = core.NewMetadata("k", "v", "te", "x")
	wantCode(t, "a bad pair", err, core.CodeInvalidArgument, `"te"`)
	wantText(t, "nothing", md == nil, true)
	odd := []string{"k"}
	if got := fmt.Sprint(caught(func() { _, _ = core.NewMetadata(odd...) })); !strings.Contains(got, "pairs") {
		t.Errorf("panicked with %q", got)
	}
}

// A map that belongs to others too is copied by the first write.
func TestASharedMapIsNotWritten(t *testing.T) {
	shared := map[string][]string{"k": {"1"}}
	call := &sharing{transport{stack: &stack{}}, shared}
	call.Init(call, searchMethod, core.SideClient, core.ShapeUnary, core.ProtocolGRPC, nil)
	md := call.RequestHeader()
	must(t, md.Add("k", "2"))
	must(t, md.Set("l", "3"))
	must(t, md.Add("k", "4"))
	wantAll(t, md, `k=["1" "2" "4"] l=["3"]`)
	wantText(t, "shared", fmt.Sprint(shared), "map[k:[1]]")
}

type sharing struct {
	transport
	shared map[string][]string
}

func (s *sharing) Metadata(core.MetadataKind) core.RawMetadata {
	return core.RawMetadata{Map: s.shared, Shared: true}
}

// All yields what was there when the iteration began.
func TestTheLoopOverAllMayWrite(t *testing.T) {
	both(t, func(t *testing.T, http bool) {
		md, _ := header(http)
		for _, key := range []string{"a", "b", "c"} {
			must(t, md.Set(key, "old"))
		}
		var got []string
		for key, values := range md.All() {
			got = append(got, key+"="+strings.Join(values, ","))
			must(t, md.Set("b", "new"))
			must(t, md.Add("c", "new"))
			must(t, md.Set("d", "new"))
			must(t, md.Delete("a"))
		}
		wantText(t, "yielded", strings.Join(got, " "), "a=old b=old c=old")
		for range md.All() {
			break
		}
	})
}

func TestEachRawIsEncodedForTheOtherStack(t *testing.T) {
	both(t, func(t *testing.T, from bool) {
		md, _ := header(from)
		must(t, md.Set("k", "v"))
		must(t, md.Add("k", "w"))
		must(t, md.Set("b-bin", "\xff"))
		for to, encoded := range map[bool]string{true: base64.RawStdEncoding.EncodeToString([]byte("\xff")), false: "\xff"} {
			var got []string
			md.EachRaw(to, func(key, value string) { got = append(got, key+"="+value) })
			wantText(t, "pairs", strings.Join(got, " "), "b-bin="+encoded+" k=v k=w")
		}
	})
	// What a peer sent and cannot be sent on is left out.
	odd := core.WrapMetadata(core.RawMetadata{Agent: true, Map: map[string][]string{"user-agent": {"a"}, "te": {"t"}, "ä": {"x"}, "k": {"v"}, "l": {"caf\xe9", "a\nb"}}})
	var got []string
	odd.EachRaw(true, func(key, value string) { got = append(got, key+"="+value) })
	wantText(t, "pairs", strings.Join(got, " "), "k=v")
}

// A transport is asked for its map once, and only when somebody wants it.
func TestMetadataIsBoundWhenItIsWanted(t *testing.T) {
	call := newCall(&stack{}, core.SideClient, core.ShapeUnary)
	for _, md := range []*core.Metadata{call.RequestHeader(), call.ResponseHeader(), call.ResponseTrailer()} {
		wantText(t, "touched", md.Touched(), false)
	}
	wantText(t, "header", call.ResponseHeader().Get("k"), "")
	wantText(t, "touched", call.ResponseHeader().Touched(), true)
	wantText(t, "touched", call.ResponseTrailer().Touched(), false)
	call.maps[core.KindResponseHeader] = map[string][]string{"k": {"v"}}
	wantText(t, "header", call.ResponseHeader().Get("k"), "")
	call.Received()
	wantText(t, "header", call.ResponseHeader().Get("k"), "v")
}

func TestMetadataMayBeUsedByManyGoroutines(t *testing.T) {
	both(t, func(t *testing.T, http bool) {
		md, _ := header(http)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 50 {
					_ = md.Add("k", fmt.Sprint(i))
					_ = md.Set(fmt.Sprint("k", i), "v")
					_, _ = md.Values("k"), md.Len()
					_ = md.Delete(fmt.Sprint("k", i))
					md.Rebind()
				}
			})
		}
		wg.Wait()
		wantText(t, "values", len(md.Values("k")), 400)
	})
}

// net/http drops these from a trailer without a word, so that they would reach some clients and not others.
func TestATrailerRefusesWhatHTTPDoesNotCarryThere(t *testing.T) {
	for _, key := range []string{"WWW-Authenticate", "if-match", "authorization", "cache-control"} {
		if _, err := core.NewTrailer(key, "x"); core.CodeOf(err) != core.CodeInvalidArgument {
			t.Errorf("NewTrailer of %q: %v", key, err)
		}
		md, err := core.NewTrailer("k", "v")
		if err != nil {
			t.Fatal(err)
		}
		if err := md.Add(key, "x"); core.CodeOf(err) != core.CodeInvalidArgument || md.Len() != 1 {
			t.Errorf("Add of %q: %v", key, err)
		}
		must(t, md.Delete(key))
		if _, err := core.NewMetadata(key, "x"); err != nil {
			t.Errorf("a header with %q: %v", key, err)
		}
	}
}
