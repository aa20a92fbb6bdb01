package metadata

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"strings"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Require returns an interceptor that, on servers, lets only those calls pass whose
// request header has key with exactly one value, and that value is one of values. All other
// calls fail with Unauthenticated and the message "Access denied!", whatever was wrong, before the handler runs
// and before anything is read from a stream. On clients it does nothing: [Write] with [Set] sends the value.
//
// Several values are for the time in which a secret is replaced by another. They are compared in a time
// that tells nothing about them, and appear in no error and no log.
//
// The secret is the same for all callers and goes over the wire as it is, so that it needs TLS. Methods
// that anyone may call are left out by [core.When]:
//
//	core.When(core.MatchNot(core.MatchService("grpc.health.v1.Health")), require)
//
// Require returns an error if the key cannot be sent, if there is no value, and if a value is empty or
// cannot arrive as it is: it must be printable ASCII (but see "-bin") without a space at its ends, which HTTP cuts off.
func Require(key string, values ...string) (core.Interceptor, error) {
	if err := check(key); err != nil {
		return nil, fmt.Errorf("metadata: Require: %s", because(err))
	}
	key = strings.ToLower(key)
	if len(values) == 0 {
		return nil, fmt.Errorf("metadata: Require of %q: no value is given, so that nobody could pass", key)
	}
	accepted := make([][sha256.Size]byte, len(values))
	for i, value := range values {
		switch {
		case value == "":
			return nil, fmt.Errorf("metadata: Require of %q: value %d of %d is empty", key, i+1, len(values))
		case check(key, value) != nil:
			return nil, fmt.Errorf("metadata: Require of %q: value %d of %d cannot arrive as it is: "+
				"it must be printable ASCII without a space or a newline at its ends", key, i+1, len(values))
		}
		accepted[i] = sha256.Sum256([]byte(value))
	}
	return core.InterceptorFunc(func(ctx context.Context, call *core.Call, next core.Handler) error {
		if call.Side() == core.SideServer && !passes(call.RequestHeader(), key, accepted) {
			return errors.Unauthenticated("Access denied!")
		}
		return next(ctx, call)
	}), nil
}

// passes compares digests, so that not even the length of a value shows, and always all of them.
func passes(header *core.Metadata, key string, accepted [][sha256.Size]byte) bool {
	given, err := header.Lookup(key)
	if err != nil || len(given) != 1 {
		return false
	}
	digest := sha256.Sum256([]byte(given[0]))
	match := 0
	for i := range accepted {
		match |= subtle.ConstantTimeCompare(digest[:], accepted[i][:])
	}
	return match == 1
}
