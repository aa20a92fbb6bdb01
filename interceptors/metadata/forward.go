package metadata

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Forward returns an interceptor that passes these keys, and nothing else, from a
// call that is served to the calls made while serving it. It belongs on both ends: on the server it keeps
// what the request header has of the keys in the context, on clients it adds what the context has to
// the request header, all values in order. The handler must hand its context on.
//
// An outgoing call that has a key already keeps its own values. Both ends may also have an interceptor of
// their own, with keys of their own: then a client forwards the keys that both have.
//
// What arrives under the keys but cannot be sent on, because it is not what [core.Metadata] takes or not valid
// base64 or more than 100 values of one key, is refused with InvalidArgument before the handler runs.
//
// Forward does not ask who sent a key. A server that hands on what only some callers may say (a tenant, a
// user) checks it first, in an interceptor outside of this one; and a key that holds a credential
// goes to every server that the client calls.
//
// Forward returns an error if a key cannot be sent.
func Forward(keys ...string) (core.Interceptor, error) {
	f := &forwarder{}
	for _, key := range keys {
		if err := check(key); err != nil {
			return nil, fmt.Errorf("metadata: Forward: %s", because(err))
		}
		f.keys = append(f.keys, strings.ToLower(key))
	}
	return f, nil
}

// maxValues bounds how much work a caller can make with one key: compressed, a value is one byte on the wire.
const maxValues = 100

type forwarder struct{ keys []string }

// forwarded is the key of what a context has to forward, a captured.
type forwarded struct{}

// captured is metadata on its way from server to clients. It is never changed.
type captured map[string][]string

// Intercept implements [core.Interceptor].
func (f *forwarder) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	from, _ := ctx.Value(forwarded{}).(captured)
	if call.Side() == core.SideServer {
		kept, err := f.capture(from, call.RequestHeader())
		if err != nil {
			return err
		}
		if len(kept) > 0 || len(from) > 0 {
			ctx = context.WithValue(ctx, forwarded{}, kept)
		}
	} else if err := f.send(from, call.RequestHeader()); err != nil {
		return err
	}
	return next(ctx, call)
}

// capture returns what header has of the keys, and of the other keys what an interceptor outside has captured.
func (f *forwarder) capture(before captured, header *core.Metadata) (captured, error) {
	kept := captured{}
	for key, values := range before {
		if !slices.Contains(f.keys, key) {
			kept[key] = values
		}
	}
	for _, key := range f.keys {
		values, err := header.Lookup(key)
		switch {
		case err != nil:
			return nil, err
		case len(values) == 0:
			continue
		case len(values) > maxValues:
			return nil, errors.InvalidArgument("metadata %q has more than %d values", key, maxValues)
		}
		if err := check(key, values...); err != nil {
			return nil, err
		}
		kept[key] = slices.Clone(values)
	}
	return kept, nil
}

// send adds what was captured to the header of a request.
func (f *forwarder) send(from captured, header *core.Metadata) error {
	for _, key := range f.keys {
		values := from[key]
		if len(values) == 0 {
			continue
		}
		if own, err := header.Lookup(key); len(own) > 0 || err != nil {
			continue
		}
		if err := put(header, key, values, true); err != nil {
			return err
		}
	}
	return nil
}
