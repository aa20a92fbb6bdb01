package connectx

import (
	"reflect"
	"sync"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/errors"
)

// RegisterResponse tells connectx how to make a response of T for a client: one
// line for each response type that an interceptor may answer a unary call with ([core.Call.SetResponse]) before
// any such response was received. connect-go wants exactly *connect.Response[T], which nobody can make of a message
// alone. It may be called at any time, by many goroutines.
//
//	connectx.RegisterResponse[userv1.GetUserResponse]()
func RegisterResponse[T any]() {
	responses.Store(reflect.TypeFor[*T](), reflect.TypeFor[connect.Response[T]]())
}

// responses maps the type of a message to connect's response type around it.
var responses sync.Map

// learn registers the type of a response that was received.
func learn(res connect.AnyResponse) {
	key := reflect.TypeOf(res.Any())
	if _, known := responses.Load(key); known {
		return
	}
	if value := reflect.TypeOf(res); value.Kind() == reflect.Pointer && isResponseOf(value.Elem(), key) {
		responses.Store(key, value.Elem())
	}
}

func isResponseOf(res, msg reflect.Type) bool {
	if res.Kind() != reflect.Struct {
		return false
	}
	field, ok := res.FieldByName("Msg")
	return ok && field.Type == msg && res.PkgPath() == reflect.TypeFor[connect.Response[struct{}]]().PkgPath()
}

// newResponse makes the response that connect's client wants of a message.
func newResponse(msg any) (connect.AnyResponse, error) {
	known, ok := responses.Load(reflect.TypeOf(msg))
	if !ok {
		name := reflect.TypeOf(msg).String()
		if len(name) > 0 && name[0] == '*' {
			name = name[1:]
		}
		return nil, errors.Internal("an interceptor answered with a %T, which no call has received yet: "+
			"tell connectx of it, once, with connectx.RegisterResponse[%s]()", msg, name)
	}
	res := reflect.New(known.(reflect.Type)) //nolint:forcetypeassert // only we store
	res.Elem().FieldByName("Msg").Set(reflect.ValueOf(msg))
	return res.Interface().(connect.AnyResponse), nil //nolint:forcetypeassert // of that type
}
