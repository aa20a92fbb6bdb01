// Package auth lets calls pass only if they may, and sends credentials.
//
// On servers, [New] takes a [Func] that finds out who calls and [Rule]s that say who may call what. It fails
// closed: a method that no rule names is denied to everybody, health checks and reflection included. [Bearer], [Basic]
// and [APIKey] read credentials, [Secrets] knows some, [FirstOf] takes one kind or another.
//
// On clients, a [Client] sends what a [Source] gives, over encrypted connections only unless told otherwise.
package auth

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Func finds out who calls. It returns a context with the identity, made by [WithIdentity], or an error: then the
// call fails, as Unauthenticated unless the error has a code. It is called by many goroutines at once, once for
// each call, streams too, before anything of their messages is handed on.
type Func func(ctx context.Context, call *core.Call) (context.Context, error)

// Check says whether the caller, whose identity is in the context, may make the call. An error means no: the call fails,
// as PermissionDenied unless the error has a code. It is called by many goroutines at once.
type Check func(ctx context.Context, call *core.Call) error

type identityKey struct{}

// WithIdentity returns a context with who calls, of a type of yours.
func WithIdentity[T any](ctx context.Context, identity T) context.Context {
	return context.WithValue(ctx, identityKey{}, any(identity))
}

// Identity returns who calls. It reports false if nobody is known, as in public methods, or the identity is of another type.
func Identity[T any](ctx context.Context) (T, bool) {
	identity, ok := ctx.Value(identityKey{}).(T)
	return identity, ok
}

// Everything stands, in a rule, for all methods that no other rule names.
const Everything = "*"

// Rule says who may call some methods. [Public], [Known] and [Permit] make one.
//
// A method is named as "/shop.v1.ShopService/Buy" or by its service, "shop.v1.ShopService"; [Everything] is the rest. The rule
// that names the method goes before the one that names its service, and that before the rest.
type Rule struct {
	kind    string
	methods []string
	check   Check
}

// Public lets anyone call the methods. Who calls is not looked at, and there is no identity.
func Public(methods ...string) Rule { return Rule{kind: "Public", methods: methods} }

// Known lets those call the methods who are somebody.
func Known(methods ...string) Rule { return Rule{kind: "Known", methods: methods} }

// Permit lets those call the methods who are somebody and whom check lets pass. It panics if check is nil.
func Permit(check Check, methods ...string) Rule {
	if check == nil {
		panic("auth: Permit of a nil check")
	}
	return Rule{kind: "Permit", methods: methods, check: check}
}

// Options for [New].
type Options struct {
	// Realm names what is guarded, to the caller. Empty means "rpc".
	Realm string
	// Unregistered allows rules about services that are not in protobuf's registry, so that a misspelled
	// name cannot be noticed.
	Unregistered bool
}

// New returns an interceptor that, on servers, lets pass those calls that the rules allow. All other calls
// fail before the handler runs and before anything is read from a stream: as Unauthenticated if nobody is
// known, and as PermissionDenied if somebody is and may not. On clients it does nothing. Nil options are the zero
// Options.
//
// What authenticate and checks return without a code is for the logs; the caller reads a fixed text. With a code it is the
// caller's: errors.Unavailable("...") is right if a database does not answer. An error that was received from a further
// server is hidden, as Unavailable, unless it is Unauthenticated. A Func that returns no identity is a bug, and nobody passes.
//
// With an Unauthenticated error the response header tells, under www-authenticate, what credentials are wanted. In the
// Connect protocol that is what HTTP asks for beside 401.
//
// New returns an error if there is no rule, if a rule names no method or one that cannot be or does not exist,
// if two rules name the same, and if Public is to be everything. It panics if authenticate is nil or a Rule is the zero Rule.
func New(authenticate Func, rules []Rule, opts *Options) (core.Interceptor, error) {
	if authenticate == nil {
		panic("auth: New of a nil authenticate")
	}
	g := &guard{authenticate: authenticate, rules: map[string]Rule{}}
	var o Options
	if opts != nil {
		o = *opts
	}
	if o.Realm == "" {
		o.Realm = "rpc"
	}
	if _, err := core.NewMetadata("realm", o.Realm); err != nil {
		return nil, fmt.Errorf("auth: Options.Realm %q must be printable ASCII without a space at its ends", o.Realm)
	}
	g.realm = "realm=" + quote(o.Realm)
	if len(rules) == 0 {
		return nil, fmt.Errorf("auth: there is no rule, so that nobody could call anything: name the methods by Public, Known or Permit")
	}
	for i, rule := range rules {
		if rule.kind == "" {
			panic(fmt.Sprintf("auth: rule %d of %d is the zero Rule: make it by Public, Known or Permit", i+1, len(rules)))
		}
		where := fmt.Sprintf("auth: rule %d of %d, %s", i+1, len(rules), rule.kind)
		if len(rule.methods) == 0 {
			return nil, fmt.Errorf("%s: it names no method", where)
		}
		for _, name := range rule.methods {
			if err := exists(name, o.Unregistered); err != nil {
				return nil, fmt.Errorf("%s: %w", where, err)
			}
			if name == Everything && rule.kind == "Public" {
				return nil, fmt.Errorf("%s: everything cannot be public: name the services", where)
			}
			if other, twice := g.rules[name]; twice {
				return nil, fmt.Errorf("%s: %q has a rule already, %s", where, name, other.kind)
			}
			g.rules[name] = rule
		}
	}
	return g, nil
}

// wellKnown are services that a server may have without their definitions in the registry.
var wellKnown = map[string]bool{
	"grpc.health.v1.Health":                    true,
	"grpc.reflection.v1.ServerReflection":      true,
	"grpc.reflection.v1alpha.ServerReflection": true,
}

// exists returns what is wrong with the name in a rule.
func exists(name string, unregistered bool) error {
	if name == Everything {
		return nil
	}
	service, method := name, ""
	if strings.HasPrefix(name, "/") {
		m, err := core.ParseMethod(name)
		if err != nil {
			return err
		}
		service, method = m.FullService(), m.Name()
	} else if _, err := core.ParseMethod("/" + name + "/M"); err != nil {
		return fmt.Errorf("%q is no name: want a service, shop.v1.ShopService, or a method with a slash before it, /shop.v1.ShopService/Buy", name)
	}
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	if err != nil {
		if unregistered || wellKnown[service] {
			return nil
		}
		return fmt.Errorf("there is no service %q in protobuf's registry; if it is right, set Options.Unregistered", service)
	}
	descriptor, ok := found.(protoreflect.ServiceDescriptor)
	if !ok {
		return fmt.Errorf("%q is not a service", service)
	}
	if method != "" && descriptor.Methods().ByName(protoreflect.Name(method)) == nil {
		return fmt.Errorf("the service %q has no method %q", service, method)
	}
	return nil
}

type guard struct {
	authenticate Func
	rules        map[string]Rule
	realm        string
}

// Intercept implements [core.Interceptor].
func (g *guard) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	if call.Side() != core.SideServer {
		return next(ctx, call)
	}
	rule := g.rule(call.Method())
	if rule.kind == "Public" {
		return next(ctx, call)
	}
	known, err := g.authenticate(ctx, call)
	if err != nil {
		return g.refuse(call, call.Normalize(err))
	}
	if known == nil || known.Value(identityKey{}) == nil {
		return errors.Internal("%s", core.PublicMessage(core.CodeInternal)).
			WithCause(errors.New("auth: the Func returned neither an error nor a context made by WithIdentity"))
	}
	switch rule.kind {
	case "Known":
	case "Permit":
		if err := rule.check(known, call); err != nil {
			return forbid(call.Normalize(err))
		}
	default:
		return errors.PermissionDenied(denied).WithCause(errors.New("auth: no rule names " + call.Method().String()))
	}
	return next(known, call)
}

// rule returns the zero Rule for methods that none names.
func (g *guard) rule(m core.Method) Rule {
	for _, name := range [...]string{m.String(), m.FullService(), Everything} {
		if rule, ok := g.rules[name]; ok {
			return rule
		}
	}
	return Rule{}
}

const (
	needed    = "valid credentials are needed"
	denied    = "you may not do this"
	unchecked = "the caller could not be checked"
)

// refuse makes of the error of a Func the one that the caller gets.
func (g *guard) refuse(call *core.Call, err error) error {
	coded, code := core.FindCoded(err, nil), core.CodeOf(err)
	var e *errors.Error
	switch {
	case coded == nil && code != core.CodeUnknown:
		return err // of the context
	case coded == nil || upstream(coded) && code == core.CodeUnauthenticated:
		e = errors.Unauthenticated(needed).WithCause(err)
	case upstream(coded):
		return errors.Unavailable(unchecked).WithCause(err)
	case code != core.CodeUnauthenticated:
		return err
	default:
		own, ok := coded.(*errors.Error)
		if !ok {
			own = errors.Unauthenticated("%s", coded.Message())
		}
		if e = own; error(coded) != err { //nolint:errorlint // what wraps it is for the logs
			e = own.WithCause(err)
		}
	}
	if r, ok := errors.AsType[*refusal](err); ok {
		for _, c := range r.challenges {
			// In the header: net/http lets nobody send this key in a trailer. It is good, and not sent yet.
			_ = call.ResponseHeader().Add("www-authenticate", c.scheme+" "+g.realm+c.more)
		}
	}
	return e
}

// forbid makes of the error of a Check the one that the caller gets.
func forbid(err error) error {
	coded := core.FindCoded(err, nil)
	switch {
	case coded == nil && core.CodeOf(err) != core.CodeUnknown:
		return err // of the context
	case coded == nil:
		return errors.PermissionDenied(denied).WithCause(err)
	case !upstream(coded):
		return err
	case core.CodeOf(err) == core.CodePermissionDenied:
		return errors.PermissionDenied(denied).WithCause(err)
	}
	return errors.Unavailable(unchecked).WithCause(err)
}

func upstream(err core.CodedError) bool {
	u, ok := err.(core.UpstreamError)
	return ok && u.Upstream()
}

// quote makes a quoted-string of RFC 9110.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}
