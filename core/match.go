package core

import (
	"fmt"
	"slices"
)

// Matcher selects calls, for [When]. It is called by many goroutines at once,
// before the interceptor that it guards.
type Matcher func(call *Call) bool

// MatchService accepts the methods of the given fully qualified services,
// "foo.bar.SearchService". It panics at a name that cannot be one: a matcher that silently
// matches nothing would switch off what it guards.
func MatchService(services ...string) Matcher {
	services = slices.Clone(mustHave("MatchService", services))
	for _, service := range services {
		if _, err := ParseMethod("/" + service + "/M"); err != nil {
			panic(fmt.Sprintf("core: MatchService of %q: want a fully qualified service, foo.bar.SearchService", service))
		}
	}
	return func(call *Call) bool { return slices.Contains(services, call.Method().FullService()) }
}

// MatchMethod accepts the given methods, "/foo.bar.SearchService/Search" (the
// names that generated code has as constants). It panics at a malformed one.
func MatchMethod(methods ...string) Matcher {
	parsed := make([]Method, len(methods))
	for i, name := range mustHave("MatchMethod", methods) {
		m, err := ParseMethod(name)
		if err != nil {
			panic(fmt.Sprintf("core: MatchMethod: %v", err))
		}
		parsed[i] = m
	}
	return func(call *Call) bool { return slices.Contains(parsed, call.Method()) }
}

// MatchShape accepts calls of the given shapes.
func MatchShape(shapes ...Shape) Matcher {
	shapes = slices.Clone(mustHave("MatchShape", shapes))
	return func(call *Call) bool { return slices.Contains(shapes, call.Shape()) }
}

// MatchSide accepts calls on the given side.
func MatchSide(side Side) Matcher {
	return func(call *Call) bool { return call.Side() == side }
}

// MatchProtocol accepts calls of the given protocols.
func MatchProtocol(protocols ...Protocol) Matcher {
	protocols = slices.Clone(mustHave("MatchProtocol", protocols))
	return func(call *Call) bool { return slices.Contains(protocols, call.Protocol()) }
}

// MatchAll accepts what all matchers accept.
func MatchAll(matchers ...Matcher) Matcher {
	matchers = mustMatch("MatchAll", matchers)
	return func(call *Call) bool {
		return !slices.ContainsFunc(matchers, func(m Matcher) bool { return !m(call) })
	}
}

// MatchAny accepts what one of the matchers accepts.
func MatchAny(matchers ...Matcher) Matcher {
	matchers = mustMatch("MatchAny", matchers)
	return func(call *Call) bool {
		return slices.ContainsFunc(matchers, func(m Matcher) bool { return m(call) })
	}
}

// MatchNot accepts what the matcher does not.
func MatchNot(matcher Matcher) Matcher {
	matcher = mustMatch("MatchNot", []Matcher{matcher})[0]
	return func(call *Call) bool { return !matcher(call) }
}

func mustHave[T any](name string, items []T) []T {
	if len(items) == 0 {
		panic("core: " + name + " of nothing would match nothing")
	}
	return items
}

func mustMatch(name string, matchers []Matcher) []Matcher {
	for i, m := range mustHave(name, matchers) {
		if m == nil {
			panic(fmt.Sprintf("core: matcher %d of %s is nil", i+1, name))
		}
	}
	return slices.Clone(matchers)
}
