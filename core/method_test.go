package core_test

import (
	"strings"
	"testing"

	"github.com/rpcweft/weft/core"
)

func TestParseMethod(t *testing.T) {
	for name, want := range map[string][4]string{
		"/foo.bar.SearchService/Search": {"foo.bar", "SearchService", "foo.bar.SearchService", "Search"},
		"foo.bar.SearchService/Search":  {"foo.bar", "SearchService", "foo.bar.SearchService", "Search"},
		"/SearchService/Search":         {"", "SearchService", "SearchService", "Search"},
		"SearchService/Search":          {"", "SearchService", "SearchService", "Search"},
		"/a.B/C":                        {"a", "B", "a.B", "C"},
		"/a.B/C.D":                      {"a", "B", "a.B", "C.D"},
		"/päckage.Dienst/Suche":         {"päckage", "Dienst", "päckage.Dienst", "Suche"},
	} {
		m, err := core.ParseMethod(name)
		if got := [4]string{m.Package(), m.Service(), m.FullService(), m.Name()}; err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", name, got, err, want)
		}
		wantText(t, "text", m.String(), "/"+strings.TrimPrefix(name, "/"))
	}
	for name, want := range map[string]string{
		"": "no service", "/": "no service", "Search": "no service", "/Search": "no service",
		"//": "empty part", "//Search": "empty part", "/a.B/": "no method", "a.B/": "no method",
		"/a/B/C": "more than two parts", "//a.B/C": "more than two parts", "/a.B/C/": "more than two parts",
		"/.B/C": "empty part", "/a./C": "empty part", "/a..B/C": "empty part", "/./C": "empty part",
		"/a.B/C D": "space", "/a B/C": "space", "/a.B/C\n": "control", "/a.B/\x00": "control", "/a.B/C\x7f": "control",
	} {
		m, err := core.ParseMethod(name)
		if err == nil || m != (core.Method{}) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "/package.Service/Method") {
			t.Errorf("%q: got %q, %v, want an error that says %q", name, m, err, want)
		}
	}
}

func TestMethodsAreComparable(t *testing.T) {
	wantText(t, "with and without a slash", mustParse("a.B/C"), mustParse("/a.B/C"))
	if mustParse("/a.B/C") == mustParse("/a.b/C") {
		t.Error("case matters")
	}
}

func TestTheZeroMethodHasNoName(t *testing.T) {
	var m core.Method
	wantText(t, "zero", m.String()+m.Package()+m.Service()+m.FullService()+m.Name(), "")
}
