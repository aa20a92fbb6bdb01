package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Verify finds out whose secret this is. It returns a context with the identity, made by
// [WithIdentity], or an error, as [Func] does. [Secrets] makes one for secrets that are known beforehand.
type Verify func(ctx context.Context, secret string) (context.Context, error)

// maxSecret bounds how much work a caller can make.
const maxSecret = 16 << 10

// Bearer reads a bearer token (RFC 6750) from the authorization header. It panics if verify is nil.
func Bearer(verify Verify) Func {
	return authorization("Bearer", "", verify, func(credentials string) (string, bool) {
		return credentials, isToken68(credentials)
	})
}

// Basic reads a name and a password (RFC 7617) from the authorization header, and hands "name:password" to
// verify. It panics if verify is nil.
func Basic(verify Verify) Func {
	return authorization("Basic", `, charset="UTF-8"`, verify, func(credentials string) (string, bool) {
		pair, err := base64.StdEncoding.DecodeString(credentials)
		return string(pair), err == nil && strings.Contains(string(pair), ":")
	})
}

// APIKey reads a key from a header of this name. It returns an error if metadata cannot have that
// name, and panics if verify is nil.
func APIKey(header string, verify Verify) (Func, error) {
	header = strings.ToLower(header)
	if _, err := core.NewMetadata(header, "key"); err != nil {
		return nil, fmt.Errorf("auth: APIKey: %s", core.FindCoded(err, nil).Message())
	}
	s := newScheme("ApiKey", ", header="+quote(header), verify)
	return func(ctx context.Context, call *core.Call) (context.Context, error) {
		values, err := call.RequestHeader().Lookup(header)
		switch {
		case err == nil && len(values) == 0:
			return nil, s.missing()
		case err != nil || len(values) > 1 || values[0] == "" || len(values[0]) > maxSecret:
			return nil, s.malformed()
		}
		return s.verify(ctx, values[0])
	}, nil
}

// FirstOf asks each Func in turn for as long as the caller has sent no credentials of that kind. The first kind that was sent
// decides: wrong credentials are not passed over for right ones of another kind. A Func of your own
// that wants to be passed over returns [ErrNone]. It panics if there is no Func or one is nil.
func FirstOf(funcs ...Func) Func {
	if len(funcs) == 0 {
		panic("auth: FirstOf of nothing would let nobody pass")
	}
	for i, f := range funcs {
		if f == nil {
			panic(fmt.Sprintf("auth: FirstOf: function %d of %d is nil", i+1, len(funcs)))
		}
	}
	funcs = append([]Func(nil), funcs...)
	return func(ctx context.Context, call *core.Call) (context.Context, error) {
		all := &refusal{none: true, problem: "no credentials of any kind were sent"}
		for _, f := range funcs {
			known, err := f(ctx, call)
			r, refused := errors.AsType[*refusal](err)
			if err == nil || !errors.Is(err, ErrNone) {
				return known, err
			}
			if refused {
				all.challenges = append(all.challenges, r.challenges...)
			}
		}
		return nil, all
	}
}

// ErrNone is what a [Func] returns, perhaps wrapped, if the caller has sent no credentials of its kind. See [FirstOf].
var ErrNone = errors.New("auth: no credentials were sent")

// Secrets returns a Verify that knows whose secret each is: for [Bearer] and [APIKey] the token or the key, for [Basic]
// "name:password". It keeps digests alone, and compares in a time that tells nothing about the secrets. Several
// secrets may have the same identity, for the time in which one is replaced by another.
//
// Secrets must be long and random: passwords that people choose want a slow hash, in a Verify of your own.
//
// It returns an error, without a secret in it, if there is none, one is empty, or one begins or ends with a space or a newline.
func Secrets[T any](identities map[string]T) (Verify, error) {
	if len(identities) == 0 {
		return nil, fmt.Errorf("auth: Secrets: none is given, so that nobody could pass")
	}
	type known struct {
		digest   [sha256.Size]byte
		identity T
	}
	list := make([]known, 0, len(identities))
	for secret, identity := range identities {
		switch {
		case secret == "":
			return nil, fmt.Errorf("auth: Secrets: the secret of %v is empty", identity)
		case strings.TrimSpace(secret) != secret:
			return nil, fmt.Errorf("auth: Secrets: the secret of %v begins or ends with a space or a newline", identity)
		}
		list = append(list, known{sha256.Sum256([]byte(secret)), identity})
	}
	return func(ctx context.Context, secret string) (context.Context, error) {
		digest := sha256.Sum256([]byte(secret))
		match := -1
		for i := range list {
			match = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(digest[:], list[i].digest[:]), i, match)
		}
		if match < 0 {
			return nil, errors.New("auth: nobody has this secret")
		}
		return WithIdentity(ctx, list[match].identity), nil
	}, nil
}

// refusal is an error of a Func of this package.
type refusal struct {
	challenges []challenge
	none       bool // no credentials of this kind were sent
	problem    string
	cause      error
}

// challenge is what www-authenticate says, around the realm.
type challenge struct{ scheme, more string }

func (r *refusal) Error() string {
	if r.cause != nil {
		return r.problem + ": " + r.cause.Error()
	}
	return r.problem
}
func (r *refusal) Unwrap() error        { return r.cause }
func (r *refusal) Is(target error) bool { return r.none && target == ErrNone }

// scheme is a kind of credentials.
type scheme struct {
	challenge
	check Verify
}

func newScheme(name, more string, verify Verify) *scheme {
	if verify == nil {
		panic("auth: " + name + " of a nil verify")
	}
	return &scheme{challenge{name, more}, verify}
}

func (s *scheme) missing() error {
	return &refusal{challenges: []challenge{s.challenge}, none: true, problem: "no " + s.scheme + " credentials were sent"}
}

func (s *scheme) malformed() error { return s.wrong("malformed "+s.scheme+" credentials", nil) }

func (s *scheme) wrong(problem string, cause error) error {
	c := s.challenge
	if c.scheme == "Bearer" {
		c.more += `, error="invalid_token"`
	}
	return &refusal{challenges: []challenge{c}, problem: problem, cause: cause}
}

func (s *scheme) verify(ctx context.Context, secret string) (context.Context, error) {
	known, err := s.check(ctx, secret)
	if err != nil {
		return nil, s.wrong("wrong "+s.scheme+" credentials", err)
	}
	return known, nil
}

// authorization returns a Func that reads the authorization header.
func authorization(name, more string, verify Verify, decode func(credentials string) (secret string, ok bool)) Func {
	s := newScheme(name, more, verify)
	return func(ctx context.Context, call *core.Call) (context.Context, error) {
		values := call.RequestHeader().Values("authorization")
		switch {
		case len(values) == 0:
			return nil, s.missing()
		case len(values) > 1 || len(values[0]) > maxSecret:
			return nil, s.malformed()
		}
		credentials, ok := cutScheme(values[0], s.scheme)
		if !ok {
			return nil, s.missing()
		}
		secret, ok := decode(credentials)
		if !ok {
			return nil, s.malformed()
		}
		return s.verify(ctx, secret)
	}
}

// cutScheme returns what follows the scheme, whose case does not matter, and the spaces after it. It reports whether the
// value has this scheme.
func cutScheme(value, scheme string) (string, bool) {
	name, rest, _ := strings.Cut(value, " ")
	return strings.Trim(rest, " "), strings.EqualFold(name, scheme)
}

// isToken68 reports whether s is what RFC 9110 lets a token be.
func isToken68(s string) bool {
	s = strings.TrimRight(s, "=")
	for i := range len(s) {
		c := s[i]
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune("-._~+/", rune(c)) {
			return false
		}
	}
	return s != ""
}
