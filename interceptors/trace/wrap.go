package trace

import (
	"context"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/rpcweft/weft/core"
)

// Wrap returns the chain with recording between its interceptors, which stay what they are. It takes a whole chain, at one place: what is
// innermost in it is taken for the handler or the RPC. It may be called for several chains, of servers and of clients.
//
// A composite ([core.NewChain], [core.When]) is one span. To look inside, wrap what it is made of, too, with the same recorder:
//
//	rec.Wrap(ids, core.When(public, core.NewChain(rec.Wrap(limit, cache)...)))
//
// A call costs no allocation while recording is off, and next to no time. With a nil recorder the chain comes back as it is. An
// interceptor that hands on a context which does not come of its own hides what it is around.
//
// Wrap panics, naming the position, if an interceptor is nil, and if one was returned by Wrap.
func (r *Recorder) Wrap(chain ...core.Interceptor) []core.Interceptor {
	core.NewChain(chain...) // which panics for nil ones
	wrapped := make([]core.Interceptor, 0, 2*len(chain)+1)
	var before *marker
	mark := func(name string) {
		before = &marker{r, name, before}
		wrapped = append(wrapped, before)
	}
	for position, interceptor := range chain {
		var name string
		switch i := interceptor.(type) {
		case *marker:
			panic(fmt.Sprintf("trace: interceptor %d of %d was returned by Wrap", position+1, len(chain)))
		case *named:
			name, interceptor = i.name, i.Interceptor // core takes composites apart that it sees
		default:
			name = nameOf(interceptor)
		}
		if r != nil {
			mark(name)
		}
		wrapped = append(wrapped, interceptor)
	}
	if r != nil {
		mark("")
	}
	return wrapped
}

// Named gives an interceptor the name that its span has. Without it, the name is made from the Go type: that of its package
// ("logging") if the type is not exported, with the type if it is ("auth.Client"), or the name of the function ("main.timing").
//
// It panics if the name is empty or the interceptor nil.
func Named(name string, interceptor core.Interceptor) core.Interceptor {
	if name == "" {
		panic("trace: Named without a name")
	}
	core.NewChain(interceptor) // which panics for a nil one
	return &named{interceptor, name}
}

type named struct {
	core.Interceptor

	name string
}

// literal takes the name of a function literal apart: package, functions that the one that has it was inlined into, that one.
var literal = regexp.MustCompile(`^([^.]+)\..*?([^.]+)(\.func\d+|\.\d+|-range\d+|\[\.\.\.\])+$`)

func nameOf(interceptor core.Interceptor) string {
	v := reflect.ValueOf(interceptor)
	if v.Kind() == reflect.Func {
		name := strings.TrimSuffix(path.Base(runtime.FuncForPC(v.Pointer()).Name()), "-fm") // of a method
		return literal.ReplaceAllString(name, "$1.$2")
	}
	full := strings.TrimLeft(v.Type().String(), "*")
	pkg, name, _ := strings.Cut(full, ".")
	if first, _ := utf8.DecodeRuneInString(name); pkg == "main" || pkg == "core" || unicode.IsUpper(first) {
		return full
	}
	return pkg
}

// marker stands before an interceptor and records what that does: it is entered just before it, and
// left just after.
type marker struct {
	recorder *Recorder
	name     string  // of the interceptor, "" for the handler or the RPC
	before   *marker // of the same Wrap, nil for the first
}

// position is where a call is: between a marker and what it stands before. It is in the context, under the recorder.
type position struct {
	record *record
	marker *marker
	span   int
	nested bool      // in a Wrap inside of another
	outer  *position // of the same record
}

// Intercept implements [core.Interceptor].
func (m *marker) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	if !m.recorder.on.Load() {
		return next(ctx, call)
	}
	at := m.enter(ctx, call)
	if at == nil {
		return next(ctx, call)
	}
	return at.run(ctx, call, next)
}

// enter returns where the call is now, or nil if that is not recorded.
func (m *marker) enter(ctx context.Context, call *core.Call) *position {
	outer, _ := ctx.Value(m.recorder).(*position)
	at := &position{marker: m, outer: outer}
	now := time.Now()
	switch {
	case m.before != nil:
		from := outer
		for from != nil && from.marker != m.before {
			from = from.outer
		}
		if from == nil || m.name == "" && from.nested {
			return nil
		}
		at.record, at.nested = outer.record, from.nested
	case outer != nil && outer.marker.name != "" && outer.record.same(call):
		at.record, at.nested = outer.record, true
	default: // a call of its own, perhaps made by the handler or an interceptor of another
		at.record, at.outer = begin(call, now), nil
	}
	s := Span{Name: m.name, Parent: -1, Attempt: call.Attempt(), Entered: now.Sub(at.record.start), Running: true}
	if s.Name == "" {
		if s.Name = "rpc"; call.Side() == core.SideServer {
			s.Name = "handler"
		}
	}
	if at.outer != nil {
		s.Parent = at.outer.span
	}
	if at.span = at.record.enter(s, m.recorder.options.ID(ctx, call)); at.span < 0 {
		return nil
	}
	if at.outer == nil {
		m.recorder.keep(at.record)
	}
	return at
}

func (at *position) run(ctx context.Context, call *core.Call, next core.Handler) (err error) {
	at.watch(call)
	returned := false
	defer func() { // without recover, so that panics and Goexit go on as they are
		code, httpMethod := "", ""
		if returned {
			code = core.CodeOf(err).String()
		}
		if at.marker.name == "" { // what has sent it, so that nothing else does
			httpMethod = call.HTTPMethod()
		}
		at.record.leave(at.span, code, httpMethod)
	}()
	err = next(context.WithValue(ctx, at.marker.recorder, at), call)
	returned = true
	return err
}

// watch asks for the messages.
func (at *position) watch(call *core.Call) {
	// It is too late if an interceptor calls next twice with one call, which core refuses further inside.
	defer func() { _ = recover() }()
	call.OnRequest(func(context.Context, any) error {
		at.record.message(at.span, true)
		return nil
	})
	call.OnResponse(func(context.Context, any) error {
		at.record.message(at.span, false)
		return nil
	})
}
