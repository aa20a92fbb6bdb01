// Package jwtauth verifies JSON Web Tokens for package auth: [New] makes an [auth.Verify] for [auth.Bearer], and a
// [KeySet] gets the keys of an issuer and follows their rotation. Signatures and claims are checked by
// go-jose (https://github.com/go-jose/go-jose).
package jwtauth

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/auth"
)

// Keys gives the keys by which tokens are verified. It is called by many goroutines at once.
type Keys interface {
	// Key returns the key with this id, which comes from a token and may be anything. An error without a code means that
	// there is no such key; errors.Unavailable says that it could not be found out.
	Key(ctx context.Context, id string) (*jose.JSONWebKey, error)
}

// Config says which tokens are good.
type Config struct {
	// Issuer must be the token's iss. It is required.
	Issuer string
	// Audience must be among the token's aud. It is required: a token for another service is not one for this.
	Audience string
	// Algorithms are those of signatures. Nil means RS256, ES256 and EdDSA. They must be asymmetric.
	Algorithms []jose.SignatureAlgorithm
	// Leeway is how much clocks may differ. Zero means none, more than five minutes is refused.
	Leeway time.Duration
}

// Identify returns a context with the identity, made by auth.WithIdentity, or an error. The claims are verified; decode
// reads more of them than the standard ones into a struct with json tags.
type Identify func(ctx context.Context, claims jwt.Claims, decode func(into any) error) (context.Context, error)

const maxLeeway = 5 * time.Minute

var asymmetric = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// New returns a Verify for [auth.Bearer] that takes tokens with a good signature, issuer and audience, which have
// begun and not expired. A token that never expires is not taken. It returns an error if the configuration is not right, and
// panics if keys or identify is nil.
func New(keys Keys, c Config, identify Identify) (auth.Verify, error) {
	if keys == nil {
		panic("jwtauth: New of nil keys")
	}
	if identify == nil {
		panic("jwtauth: New of a nil identify")
	}
	algorithms := slices.Clone(c.Algorithms)
	if algorithms == nil {
		algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA}
	}
	switch {
	case c.Issuer == "":
		return nil, fmt.Errorf("jwtauth: Config.Issuer is empty: anybody's tokens would be good")
	case c.Audience == "":
		return nil, fmt.Errorf("jwtauth: Config.Audience is empty: tokens for other services would be good")
	case c.Leeway < 0 || c.Leeway > maxLeeway:
		return nil, fmt.Errorf("jwtauth: Config.Leeway %v is out of range 0 to %v", c.Leeway, maxLeeway)
	case len(algorithms) == 0:
		return nil, fmt.Errorf("jwtauth: Config.Algorithms is empty: no token could be good")
	}
	for _, algorithm := range algorithms {
		if !slices.Contains(asymmetric, algorithm) {
			return nil, fmt.Errorf("jwtauth: Config.Algorithms: %q is not one of %v", algorithm, asymmetric)
		}
	}
	return func(ctx context.Context, text string) (context.Context, error) {
		token, err := jwt.ParseSigned(text, algorithms)
		if err != nil {
			return nil, err
		}
		if len(token.Headers) != 1 {
			return nil, fmt.Errorf("jwtauth: the token has %d signatures", len(token.Headers))
		}
		header := token.Headers[0]
		key, err := keys.Key(ctx, header.KeyID)
		if err != nil {
			return nil, err
		}
		if key.Algorithm != "" && key.Algorithm != header.Algorithm || key.Use != "" && key.Use != "sig" {
			return nil, errors.New("jwtauth: the key is for another use")
		}
		var claims jwt.Claims
		if err := token.Claims(key, &claims); err != nil {
			return nil, err
		}
		if claims.Expiry == nil {
			return nil, errors.New("jwtauth: the token never expires")
		}
		expected := jwt.Expected{Issuer: c.Issuer, AnyAudience: jwt.Audience{c.Audience}, Time: time.Now()}
		if err := claims.ValidateWithLeeway(expected, c.Leeway); err != nil {
			return nil, err
		}
		return identify(ctx, claims, func(into any) error { return token.Claims(key, into) })
	}, nil
}

// Fixed is Keys that never change, for tests and for one's own tokens.
type Fixed []jose.JSONWebKey

// Key implements [Keys].
func (f Fixed) Key(_ context.Context, id string) (*jose.JSONWebKey, error) {
	for i := range f {
		if f[i].KeyID == id {
			return public(f[i])
		}
	}
	return nil, fmt.Errorf("jwtauth: there is no key %.64q", id)
}

// public returns the key without its private half, and nothing for a symmetric key, which signs as well.
func public(key jose.JSONWebKey) (*jose.JSONWebKey, error) {
	if key = key.Public(); !key.Valid() {
		return nil, fmt.Errorf("jwtauth: the key %.64q is not the public key of an asymmetric one", key.KeyID)
	}
	return &key, nil
}

// isSecure reports whether keys from this URL come from whom they should.
func isSecure(url string) bool { return strings.HasPrefix(url, "https://") }
