// Package message copies messages, which are protobuf messages unless a custom
// codec makes them something else.
package message

import (
	"reflect"

	"google.golang.org/protobuf/proto"

	"github.com/rpcweft/weft/errors"
)

// Clone returns a deep copy of a protobuf message and its size in bytes. Of anything else, which a custom codec
// encodes, it returns a copy of what the pointer points to, and size -1: what that points to in turn is shared.
func Clone(msg any) (any, int) {
	if m, ok := msg.(proto.Message); ok {
		return proto.Clone(m), proto.Size(m)
	}
	value := reflect.ValueOf(msg)
	if value.Kind() != reflect.Pointer || value.IsNil() {
		return msg, -1
	}
	clone := reflect.New(value.Type().Elem())
	clone.Elem().Set(value.Elem())
	return clone.Interface(), -1
}

// New returns an empty message of the type of msg, a pointer.
func New(msg any) any {
	if m, ok := msg.(proto.Message); ok {
		return m.ProtoReflect().New().Interface()
	}
	return reflect.New(reflect.TypeOf(msg).Elem()).Interface()
}

// Copy makes dst equal to src. They must be pointers of the same type, or it
// returns an Internal error.
func Copy(dst, src any) error {
	if reflect.TypeOf(dst) != reflect.TypeOf(src) {
		return errors.Internal("the response set by an interceptor is a %T, the method's is a %T", src, dst)
	}
	if dst == src {
		return nil
	}
	if m, ok := dst.(proto.Message); ok {
		proto.Reset(m)
		proto.Merge(m, src.(proto.Message)) //nolint:forcetypeassert // same type
		return nil
	}
	reflect.ValueOf(dst).Elem().Set(reflect.ValueOf(src).Elem())
	return nil
}
