package core_test

import (
	"encoding/base64"
	"maps"
	"net/http"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rpcweft/weft/core"
)

var (
	goodKey   = regexp.MustCompile(`^[0-9a-zA-Z_.-]+$`)
	goodValue = regexp.MustCompile(`^([!-~]([ -~]*[!-~])?)?$`)
)

// What can be written is read as it was, whichever way the stack keeps it; what cannot be written is not stored.
func FuzzMetadata(f *testing.F) {
	for _, pair := range [][2]string{
		{"x-key", "value"}, {"X-Key-Bin", "\x00\xff"}, {"x-bin", ""}, {"x-bin", "a,b="}, {"-bin", "x"}, {"content-type", "text/plain"},
		{"Connect-Timeout-Ms", "1"}, {":path", "/"}, {"k", "a\r\nb"}, {"k\n", "v"}, {"", ""}, {"\u212aey", "v"}, {"K\u0130", "v"}, {"k", " padded "}, {"grpc-x", "~"},
	} {
		f.Add(pair[0], pair[1])
	}
	f.Fuzz(func(t *testing.T, key, value string) {
		binary := strings.HasSuffix(strings.ToLower(key), "-bin")
		valid := goodKey.MatchString(key) && !core.IsReserved(key) && (binary || goodValue.MatchString(value))
		for _, encoded := range []bool{true, false} {
			md, raw := header(encoded)
			err := md.Set(key, value)
			if (err == nil) != valid {
				t.Fatalf("Set(%q, %q): %v", key, value, err)
			}
			if err != nil {
				if core.CodeOf(err) != core.CodeInvalidArgument || len(raw) != 0 || md.Len() != 0 || md.Add(key, value) == nil {
					t.Fatalf("Set(%q, %q): %v leaves %q", key, value, err, raw)
				}
				continue
			}
			must(t, md.Add(strings.ToUpper(key), value))
			want := []string{value, value}
			if got, err := md.Lookup(strings.ToLower(key)); err != nil || !slices.Equal(got, want) {
				t.Fatalf("wrote %q, read %q, %v", want, got, err)
			}
			for stored, values := range raw {
				if encoded && (stored != http.CanonicalHeaderKey(stored) || !goodValue.MatchString(values[0])) || !encoded && stored != strings.ToLower(stored) {
					t.Fatalf("the stack has %q", raw)
				}
			}
			// To the other stack, and back.
			back := http.Header{}
			md.EachRaw(true, back.Add)
			received := core.WrapMetadata(core.RawMetadata{Map: back, HTTP: true})
			lower := map[string][]string{}
			received.EachRaw(false, func(k, v string) { lower[k] = append(lower[k], v) })
			if !reflect.DeepEqual(lower, map[string][]string{strings.ToLower(key): want}) {
				t.Fatalf("wrote %q, the other stack has %q", want, lower)
			}
			must(t, md.Delete(key))
			if len(raw) != 0 {
				t.Fatalf("left after Delete: %q", raw)
			}
		}
	})
}

// What a peer sends under a binary key is decoded with and without padding, joined and apart, or named as bad.
func FuzzPeerBinary(f *testing.F) {
	for _, value := range []string{"", "/w", "/w==", "AA,AQ", " AA , AQ== ", "!", "AA,!", ",", "=", "AA=", "A", "_w", "A\nA", "\xff"} {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		md := core.WrapMetadata(core.RawMetadata{Map: map[string][]string{"K-Bin": {value}}, HTTP: true})
		got, err := md.Lookup("k-bin")
		parts := strings.Split(value, ",")
		if err == nil && len(got) != len(parts) || err != nil && len(got) >= len(parts) {
			t.Fatalf("%q: %q, %v", value, got, err)
		}
		if err != nil && core.CodeOf(err) != core.CodeInvalidArgument {
			t.Fatal(err)
		}
		for i, encode := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
			again := make([]string, 0, len(got))
			for _, g := range got {
				again = append(again, encode.EncodeToString([]byte(g)))
			}
			forms := [][]string{again, {strings.Join(again, ",")}}
			if len(got) == 0 {
				forms = forms[:1]
			}
			for _, values := range forms {
				md := core.WrapMetadata(core.RawMetadata{Map: map[string][]string{"k-bin": values}, HTTP: true})
				if decoded, err := md.Lookup("K-BIN"); err != nil || !slices.Equal(decoded, got) {
					t.Fatalf("encoding %d of %q as %q gives %q, %v", i, got, values, decoded, err)
				}
			}
		}
		_ = maps.Collect(md.All())
		_ = md.String()
		_ = md.Len()
	})
}

// A method is made of its parts, and its text gives the same method again.
func FuzzParseMethod(f *testing.F) {
	for _, name := range []string{"/foo.bar.SearchService/Search", "S/M", "", "/", "//", "/a..b/c", "/.a/b", "/a./b", "/a/b/c", "/a.b/c.d", "a b/c", "/\xff.\xff/\xff", "/a/\u2028"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		m, err := core.ParseMethod(name)
		if err != nil {
			if m != (core.Method{}) || len(err.Error()) > 200+8*len(name) {
				t.Fatalf("%q: %v, %v", name, m, err)
			}
			return
		}
		full := m.Service()
		if m.Package() != "" {
			full = m.Package() + "." + full
		}
		if full != m.FullService() || m.String() != "/"+full+"/"+m.Name() || strings.Trim(m.String(), "/") != strings.TrimPrefix(name, "/") ||
			strings.ContainsAny(m.Service(), "./") || strings.Contains(m.Name(), "/") || m.Name() == "" || m.Service() == "" {
			t.Fatalf("%q: package %q, service %q, name %q", name, m.Package(), m.Service(), m.Name())
		}
		if again, err := core.ParseMethod(m.String()); err != nil || again != m {
			t.Fatalf("%q comes back as %q, %v", m, again, err)
		}
		if !core.MatchMethod(name)(named(m)) || !core.MatchService(m.FullService())(named(m)) {
			t.Fatalf("%q is not matched by its own name", m)
		}
	})
}

func named(m core.Method) *core.Call {
	call := newCall(&stack{}, core.SideServer, core.ShapeUnary)
	call.Init(call, m, core.SideServer, core.ShapeUnary, core.ProtocolGRPC, nil)
	return &call.Call
}

// A name of a code is read as it was written, and nothing else is a name.
func FuzzParseCode(f *testing.F) {
	f.Add("not_found")
	f.Add("code_17")
	f.Fuzz(func(t *testing.T, name string) {
		if code, err := core.ParseCode(name); (err == nil) != (name == code.String() && code <= core.CodeUnauthenticated) && (err == nil || name != "ok") {
			t.Fatalf("%q: %v, %v", name, code, err)
		}
	})
}
