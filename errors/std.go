package errors

import stderrors "errors"

// ErrUnsupported is the standard package's value of that name.
var ErrUnsupported = stderrors.ErrUnsupported

// New is the standard package's. The peer does not see its text: an error for
// the peer has a code, as [NotFound] gives it.
func New(text string) error { return stderrors.New(text) }

// Is is the standard package's.
func Is(err, target error) bool { return stderrors.Is(err, target) }

// As is the standard package's. [AsType] is the better choice.
func As(err error, target any) bool { return stderrors.As(err, target) }

// AsType is the standard package's.
func AsType[E error](err error) (E, bool) { return stderrors.AsType[E](err) }

// Join is the standard package's.
func Join(errs ...error) error { return stderrors.Join(errs...) }

// Unwrap is the standard package's.
func Unwrap(err error) error { return stderrors.Unwrap(err) }
