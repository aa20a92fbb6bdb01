package errors

import (
	"bytes"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
)

// typeURL is what the type URL of a message starts with.
const typeURL = "type.googleapis.com/"

// Details returns the details of the first coded error in err's tree, in order,
// nil if there are none. Errors of a stack's own type answer once they have passed a
// chain. The slice and the messages are the caller's, the bytes in them must not be changed.
func Details(err error) []*anypb.Any {
	return detailsOf(core.FindCoded(err, nil))
}

// DetailOf returns the first detail of type T of the first coded error in err's
// tree. It reports false if there is none that can be decoded. The message is the caller's. T is
// a generated type, as *errdetails.RetryInfo; DetailOf panics if it is an interface.
func DetailOf[T proto.Message](err error) (T, bool) {
	var none T
	if any(none) == nil {
		panic("errors: DetailOf wants the type of a message, not an interface")
	}
	name := none.ProtoReflect().Descriptor().FullName()
	for _, detail := range Details(err) {
		if typeName(detail.GetTypeUrl()) != string(name) {
			continue
		}
		msg := none.ProtoReflect().New().Interface()
		if proto.Unmarshal(detail.GetValue(), msg) == nil {
			return msg.(T), true
		}
	}
	return none, false
}

func detailsOf(err core.CodedError) []*anypb.Any {
	detailed, ok := err.(core.DetailedError)
	if !ok {
		return nil
	}
	var list []*anypb.Any
	for _, d := range detailed.Details() {
		list = append(list, &anypb.Any{TypeUrl: valid(d.TypeURL), Value: d.Value})
	}
	return list
}

// pack serializes a message, which may be an Any already.
func pack(msg proto.Message) (core.Detail, error) {
	if packed, ok := msg.(*anypb.Any); ok {
		return core.Detail{TypeURL: packed.GetTypeUrl(), Value: bytes.Clone(packed.GetValue())}, nil
	}
	value, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
	return core.Detail{TypeURL: typeURL + string(nameOf(msg)), Value: value}, err
}

func nameOf(msg proto.Message) protoreflect.FullName {
	return msg.ProtoReflect().Descriptor().FullName()
}

// typeName returns the name of the type in a type URL.
func typeName(url string) string { return url[strings.LastIndexByte(url, '/')+1:] }
