package metadata

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Op is one thing that [Write] or [WriteTrailer] does. [Set], [Add], [Remove],
// [SetFunc] and [AddFunc] make one.
type Op struct {
	name    string // of its constructor
	key     string
	values  []string
	compute ValuesFunc
	adds    bool // what the key has stays
}

// ValuesFunc computes the values of a key for one call. No values and no error
// mean that there is nothing to send. The context is that of the interceptor. It is called by
// many goroutines at once.
type ValuesFunc func(ctx context.Context, call *core.Call) ([]string, error)

// Set gives key these values, in place of those that it has.
func Set(key string, values ...string) Op {
	return Op{name: "Set", key: key, values: slices.Clone(values)}
}

// Add adds values to those that key has.
func Add(key string, values ...string) Op {
	return Op{name: "Add", key: key, values: slices.Clone(values), adds: true}
}

// Remove takes key away with all of its values.
func Remove(key string) Op { return Op{name: "Remove", key: key} }

// SetFunc gives key the computed values, in place of those that it has. With none
// it takes the key away. It panics if values is nil.
func SetFunc(key string, values ValuesFunc) Op {
	if values == nil {
		panic(fmt.Sprintf("metadata: SetFunc of %q: values is nil", key))
	}
	return Op{name: "SetFunc", key: key, compute: values}
}

// AddFunc adds the computed values to those that key has. It panics if values is nil.
func AddFunc(key string, values ValuesFunc) Op {
	if values == nil {
		panic(fmt.Sprintf("metadata: AddFunc of %q: values is nil", key))
	}
	return Op{name: "AddFunc", key: key, compute: values, adds: true}
}

// Write returns an interceptor that does the ops, in order, to the header that its
// side sends: on clients that of the request, on servers that of the response. It does so
// before next, so that the header is there whatever becomes of the call.
//
// On servers a key that the ops set or remove is looked at again when the header is about to be sent,
// and made to be what the ops made it: whatever the handler and interceptors inside have written, the
// client gets this. Values computed are those from before next. Two things are out of reach: a header that the
// handler sends ahead of any message (by grpc's SendHeader or connect's Send(nil)) goes out as it is then, and
// the metadata of an error as it is.
//
// A ValuesFunc that fails is the end of the call, which fails with that error. So is a computed value that
// cannot be sent: on clients the call fails with the InvalidArgument error of [core.Metadata], on
// servers, where it is not the caller's fault, with an Internal error that has it as its cause.
//
// Write returns an error if a key or a fixed value cannot be sent, or a Set or Add has no
// value. It panics if an Op is the zero Op.
func Write(ops ...Op) (core.Interceptor, error) {
	w, err := newWriter("Write", ops)
	if err != nil {
		return nil, err
	}
	return core.InterceptorFunc(w.header), nil
}

// WriteTrailer returns an interceptor that, on servers, does the ops, in order, to
// the trailer of the response after next, when the handler has had its say: also if the call failed or
// panicked. On clients, which send no trailer, it does nothing.
//
// A ValuesFunc that fails, and a computed value that cannot be sent, make a failure of a success, as with
// [Write]; the error of a call that has failed already stays. WriteTrailer returns errors and panics as Write does.
func WriteTrailer(ops ...Op) (core.Interceptor, error) {
	w, err := newWriter("WriteTrailer", ops)
	if err != nil {
		return nil, err
	}
	return core.InterceptorFunc(w.trailer), nil
}

type writer struct {
	ops      []Op
	computes bool                // one of the ops does
	fixed    map[string][]string // if none does: see fixedBy
}

func newWriter(name string, ops []Op) (*writer, error) {
	w := &writer{ops: slices.Clone(ops)}
	for i, op := range ops {
		if op.name == "" {
			panic(fmt.Sprintf("metadata: op %d of %d of %s is the zero Op: make it by Set, Add, Remove, SetFunc or AddFunc", i+1, len(ops), name))
		}
		problem := ""
		if err := check(op.key, op.values...); err != nil {
			problem = because(err)
		} else if len(op.values) == 0 && (op.name == "Set" || op.name == "Add") {
			problem = fmt.Sprintf("metadata %q has no value; Remove takes a key away", op.key)
		}
		if problem != "" {
			return nil, fmt.Errorf("metadata: op %d of %d of %s, %s: %s", i+1, len(ops), name, op.name, problem)
		}
		w.ops[i].key = strings.ToLower(op.key)
		w.computes = w.computes || op.compute != nil
	}
	w.fixed = fixedBy(w.ops)
	return w, nil
}

// fixedBy returns the keys that the ops set or remove, with the values that they have after the last op. All
// values must have been computed.
func fixedBy(ops []Op) map[string][]string {
	fixed := map[string][]string{}
	for _, op := range ops {
		if values, ok := fixed[op.key]; !op.adds {
			fixed[op.key] = op.values
		} else if ok {
			fixed[op.key] = slices.Concat(values, op.values)
		}
	}
	return fixed
}

// header is the interceptor of Write.
func (w *writer) header(ctx context.Context, call *core.Call, next core.Handler) error {
	md := call.RequestHeader()
	if call.Side() == core.SideServer {
		md = call.ResponseHeader()
	}
	ops, err := w.resolve(ctx, call)
	if err != nil {
		return err
	}
	if err := write(call, md, ops); err != nil {
		return err
	}
	fixed := w.fixed
	if w.computes {
		fixed = fixedBy(ops)
	}
	if call.Side() != core.SideServer || len(fixed) == 0 {
		return next(ctx, call)
	}
	if call.Shape() != core.ShapeUnary {
		sent := false
		call.OnResponse(func(context.Context, any) error {
			if !sent { // the first message sends the header
				sent = true
				restore(md, fixed)
			}
			return nil
		})
	}
	defer restore(md, fixed) // also when the handler panics
	return next(ctx, call)
}

// trailer is the interceptor of WriteTrailer.
func (w *writer) trailer(ctx context.Context, call *core.Call, next core.Handler) (err error) {
	if call.Side() != core.SideServer {
		return next(ctx, call)
	}
	defer func() { // also when the handler panics
		ops, problem := w.resolve(ctx, call)
		if problem == nil {
			problem = write(call, call.ResponseTrailer(), ops)
		}
		if err == nil {
			err = problem
		}
	}()
	return next(ctx, call)
}

// resolve returns the ops with all values computed.
func (w *writer) resolve(ctx context.Context, call *core.Call) ([]Op, error) {
	if !w.computes {
		return w.ops, nil
	}
	ops := slices.Clone(w.ops)
	for i := range ops {
		if ops[i].compute == nil {
			continue
		}
		values, err := ops[i].compute(ctx, call)
		if err != nil {
			return nil, err
		}
		ops[i].values = values
	}
	return ops, nil
}

// write does the ops.
func write(call *core.Call, md *core.Metadata, ops []Op) error {
	for i := range ops {
		op := &ops[i]
		err := put(md, op.key, op.values, op.adds)
		if err != nil && call.Side() == core.SideServer {
			err = errors.Internal("%s", core.PublicMessage(core.CodeInternal)).WithCause(err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// put adds values to a key, or gives it these alone.
func put(md *core.Metadata, key string, values []string, add bool) error {
	if !add && len(values) == 0 {
		return md.Delete(key)
	}
	for i, value := range values {
		var err error
		if add || i > 0 {
			err = md.Add(key, value)
		} else {
			err = md.Set(key, value)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// restore makes the fixed keys what they must be. It does nothing to a header that was sent.
func restore(md *core.Metadata, fixed map[string][]string) {
	for key, want := range fixed {
		if values, err := md.Lookup(key); err != nil || !slices.Equal(values, want) {
			_ = put(md, key, want, false) // the values are good; it fails once the header was sent
		}
	}
}
