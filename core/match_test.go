package core_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/rpcweft/weft/core"
)

func TestMatchers(t *testing.T) {
	call := &newCall(&stack{}, core.SideServer, core.ShapeUnary).Call // /foo.bar.SearchService/Search on grpc
	yes, no := core.MatchSide(core.SideServer), core.MatchSide(core.SideClient)
	for name, test := range map[string]struct {
		matcher core.Matcher
		want    bool
	}{
		"service":            {core.MatchService("foo.bar.SearchService"), true},
		"one of services":    {core.MatchService("a.B", "foo.bar.SearchService"), true},
		"other service":      {core.MatchService("foo.SearchService", "SearchService"), false},
		"method":             {core.MatchMethod("/foo.bar.SearchService/Search"), true},
		"method, no slash":   {core.MatchMethod("foo.bar.SearchService/Search"), true},
		"other method":       {core.MatchMethod("/foo.bar.SearchService/Searc", "/foo.bar.SearchService/Search2"), false},
		"shape":              {core.MatchShape(core.ShapeBidiStream, core.ShapeUnary), true},
		"other shape":        {core.MatchShape(core.ShapeBidiStream), false},
		"side":               {yes, true},
		"other side":         {no, false},
		"protocol":           {core.MatchProtocol(core.ProtocolConnect, core.ProtocolGRPC), true},
		"other protocol":     {core.MatchProtocol(core.ProtocolConnect, core.ProtocolGRPCWeb), false},
		"all":                {core.MatchAll(yes, yes), true},
		"not all":            {core.MatchAll(yes, no), false},
		"any":                {core.MatchAny(no, yes), true},
		"not any":            {core.MatchAny(no, no), false},
		"not":                {core.MatchNot(no), true},
		"twice not":          {core.MatchNot(core.MatchNot(no)), false},
		"all of any and not": {core.MatchAll(core.MatchAny(no, yes), core.MatchNot(no)), true},
	} {
		wantText(t, name, test.matcher(call), test.want)
	}
}

// A matcher that silently matches nothing would switch off what it guards.
func TestAMatcherThatCannotMatchIsRefused(t *testing.T) {
	for want, f := range map[string]func(){
		"MatchService of nothing":       func() { core.MatchService() },
		"MatchMethod of nothing":        func() { core.MatchMethod() },
		"MatchShape of nothing":         func() { core.MatchShape() },
		"MatchProtocol of nothing":      func() { core.MatchProtocol() },
		"MatchAll of nothing":           func() { core.MatchAll() },
		"MatchAny of nothing":           func() { core.MatchAny() },
		`MatchService of "/foo.Bar"`:    func() { core.MatchService("a.B", "/foo.Bar") },
		`MatchService of "foo.Bar/Baz"`: func() { core.MatchService("foo.Bar/Baz") },
		`MatchService of ""`:            func() { core.MatchService("") },
		`MatchService of "foo."`:        func() { core.MatchService("foo.") },
		`"foo.Bar"`:                     func() { core.MatchMethod("/a.B/C", "foo.Bar") },
	} {
		if got := fmt.Sprint(caught(f)); !strings.Contains(got, want) {
			t.Errorf("panicked with %q, want %q", got, want)
		}
	}
}

// A matcher does not see what its maker does with the slice afterwards.
func TestAMatcherIsCopied(t *testing.T) {
	call := &newCall(&stack{}, core.SideServer, core.ShapeUnary).Call
	no := core.MatchSide(core.SideClient)
	services, methods := []string{"foo.bar.SearchService"}, []string{"/foo.bar.SearchService/Search"}
	shapes, protocols := []core.Shape{core.ShapeUnary}, []core.Protocol{core.ProtocolGRPC}
	matchers := []core.Matcher{core.MatchNot(no)}
	all := map[string]core.Matcher{
		"service": core.MatchService(services...), "method": core.MatchMethod(methods...), "shape": core.MatchShape(shapes...),
		"protocol": core.MatchProtocol(protocols...), "all": core.MatchAll(matchers...), "any": core.MatchAny(matchers...),
	}
	services[0], methods[0], shapes[0], protocols[0], matchers[0] = "a.B", "/a.B/C", 0, "", no
	for name, m := range all {
		wantText(t, name, m(call), true)
	}
}
