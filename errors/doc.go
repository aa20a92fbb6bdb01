// Package errors is the standard package errors with codes. It takes the place of
// the standard one: what that exports is here, and does the same.
//
// A handler returns an error with a code; its message is for the peer, its cause is not:
//
//	if errors.Is(err, sql.ErrNoRows) {
//		return errors.NotFound("thing %q does not exist", id).WithCause(err)
//	}
//
// What the peer gets to know of an error is the same on every stack ([Wire] decides
// it): of the first coded error in the tree, in the order of [As], its code, message, details and
// metadata. Of an error without a code nothing but Unknown and a fixed text; of context errors their code and
// a fixed text. Text that wraps a coded error, as by [fmt.Errorf] with %w, is for logs.
//
// A client reads the code with [CodeOf], the message with AsType[*errors.Error](err), and
// details with [DetailOf].
//
// [NewInterceptor] returns the interceptor that gives codes to errors of your own and turns
// panics into errors. Adapters use [FromNative] and [Wire].
package errors
