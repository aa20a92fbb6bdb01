package errors_test

import (
	stderrors "errors"
	"fmt"
	"go/importer"
	"go/token"
	"io"
	"io/fs"
	"reflect"
	"testing"

	"github.com/rpcweft/weft/errors"
)

// What the standard package exports is exported here, with the same types.
func TestDropInForStandardPackage(t *testing.T) {
	pairs := map[string][2]any{
		"New":            {errors.New, stderrors.New},
		"Is":             {errors.Is, stderrors.Is},
		"As":             {errors.As, stderrors.As},
		"AsType":         {errors.AsType[*fs.PathError], stderrors.AsType[*fs.PathError]},
		"Join":           {errors.Join, stderrors.Join},
		"Unwrap":         {errors.Unwrap, stderrors.Unwrap},
		"ErrUnsupported": {errors.ErrUnsupported, stderrors.ErrUnsupported},
	}
	std, err := importer.ForCompiler(token.NewFileSet(), "source", nil).Import("errors")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range std.Scope().Names() {
		pair, ok := pairs[name]
		switch {
		case !token.IsExported(name):
		case !ok:
			t.Errorf("the standard package exports %s, this one does not", name)
		default:
			equal(t, name, reflect.TypeOf(pair[0]), reflect.TypeOf(pair[1]))
		}
	}
}

func TestStandardFunctionsDoTheSame(t *testing.T) {
	plain := errors.New("plain")
	equal(t, "text", plain.Error(), "plain")
	equal(t, "two of one text", errors.Is(errors.New("plain"), plain), false)
	path := &fs.PathError{Op: "open", Path: "x", Err: io.EOF}
	joined := errors.Join(nil, plain, fmt.Errorf("wrapped: %w", path))
	equal(t, "Is", errors.Is(joined, io.EOF), true)
	var found *fs.PathError
	equal(t, "As", errors.As(joined, &found) && found == path, true)
	typed, ok := errors.AsType[*fs.PathError](joined)
	equal(t, "AsType", ok && typed == path, true)
	equal(t, "Unwrap", errors.Unwrap(path), io.EOF)
	equal(t, "Unwrap of joined", errors.Unwrap(joined), nil)
	equal(t, "Join of nothing", errors.Join(nil, nil), nil)
	equal(t, "ErrUnsupported", errors.ErrUnsupported, stderrors.ErrUnsupported)
}
