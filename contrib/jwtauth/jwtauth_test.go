package jwtauth_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/rpcweft/weft/contrib/jwtauth"
	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
	"github.com/rpcweft/weft/interceptors/auth"
	"github.com/rpcweft/weft/rpctest"
)

const (
	issuer   = "https://issuer.example.com"
	audience = "dummy"
	keysURL  = issuer + "/keys"
)

type user struct {
	ID    string
	Admin bool
}

// issuerOf publishes keys and signs tokens.
type issuing struct {
	mu    sync.Mutex
	keys  map[string]*ecdsa.PrivateKey
	down  bool
	looks atomic.Int32
	takes time.Duration
}

func newIssuer(ids ...string) *issuing {
	i := &issuing{}
	i.rotate(ids...)
	return i
}

func (i *issuing) rotate(ids ...string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	old := i.keys
	i.keys = map[string]*ecdsa.PrivateKey{}
	for _, id := range ids {
		if i.keys[id] = old[id]; old[id] == nil {
			i.keys[id], _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		}
	}
}

// RoundTrip is the issuer's server.
func (i *issuing) RoundTrip(req *http.Request) (*http.Response, error) {
	i.looks.Add(1)
	if i.takes > 0 {
		time.Sleep(i.takes)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.down || req.URL.String() != keysURL {
		return &http.Response{StatusCode: http.StatusBadGateway, Status: "502", Body: http.NoBody, Request: req}, nil
	}
	set := jose.JSONWebKeySet{}
	for id, key := range i.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: key.Public(), KeyID: id, Algorithm: "ES256", Use: "sig"})
	}
	set.Keys = append(set.Keys, jose.JSONWebKey{Key: []byte("a symmetric key of at least 32 bytes"), KeyID: "symmetric"})
	body, err := json.Marshal(set)
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(body)), Request: req}, err
}

func (i *issuing) sign(id string, claims map[string]any) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return sign(jose.ES256, i.keys[id], id, claims)
}

func sign(algorithm jose.SignatureAlgorithm, key any, id string, claims map[string]any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", id))
	if err != nil {
		panic(err)
	}
	text, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		panic(err)
	}
	return text
}

// claims returns good ones, with changes.
func claims(changes ...any) map[string]any {
	c := map[string]any{"iss": issuer, "aud": []string{"other", audience}, "sub": "ann", "exp": time.Now().Add(time.Hour).Unix(), "admin": true}
	for i := 0; i < len(changes); i += 2 {
		if c[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
			delete(c, changes[i].(string))
		}
	}
	return c
}

func identify(ctx context.Context, claims jwt.Claims, decode func(any) error) (context.Context, error) {
	var more struct {
		Admin bool `json:"admin"`
	}
	if err := decode(&more); err != nil {
		return nil, err
	}
	return auth.WithIdentity(ctx, user{claims.Subject, more.Admin}), nil
}

func newGuard(t testing.TB, i *issuing) core.Interceptor {
	keys, err := jwtauth.NewKeySet(keysURL, &jwtauth.KeySetOptions{Client: &http.Client{Transport: i}})
	if err != nil {
		t.Fatal(err)
	}
	verify, err := jwtauth.New(keys, jwtauth.Config{Issuer: issuer, Audience: audience}, identify)
	if err != nil {
		t.Fatal(err)
	}
	guard, err := auth.New(auth.Bearer(verify), []auth.Rule{auth.Known("weft.dummy.v1.DummyService")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return guard
}

func ask(guard core.Interceptor, token string) (got user, err error) {
	err = rpctest.Call(rpctest.Fake{
		RequestHeader: map[string][]string{"authorization": {"Bearer " + token}},
		Invoke: func(ctx context.Context, _ *core.Call) error {
			got, _ = auth.Identity[user](ctx)
			return nil
		},
	}).Run(context.Background(), guard)
	return got, err
}

func TestGoodTokensPassOnEveryStack(t *testing.T) {
	i := newIssuer("k1")
	cases := map[string]rpctest.Case{"who": func(ctx context.Context, _ *rpctest.Input) (string, error) {
		u, _ := auth.Identity[user](ctx)
		return fmt.Sprint(u), nil
	}}
	rpctest.Run(t, &rpctest.Options{Server: []core.Interceptor{newGuard(t, i)}, Cases: cases}, func(t *testing.T, c *rpctest.Client) {
		res := c.With("authorization", "Bearer "+i.sign("k1", claims())).Call(t.Context(), "who")
		if strings.Join(res.Outputs, "") != "{ann true}" {
			t.Error(res)
		}
		res = c.With("authorization", "Bearer "+i.sign("k1", claims("aud", "other"))).Call(t.Context(), "who")
		if core.CodeOf(res.Err) != core.CodeUnauthenticated {
			t.Error(res)
		}
	})
	if i.looks.Load() != 1 {
		t.Errorf("%d looks at the keys", i.looks.Load())
	}
}

func TestBadTokensDoNotPass(t *testing.T) {
	i := newIssuer("k1")
	guard := newGuard(t, i)
	good := i.sign("k1", claims())
	parts := strings.Split(good, ".")
	stranger, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	hour := time.Hour
	for name, token := range map[string]string{
		"expired":             i.sign("k1", claims("exp", time.Now().Add(-hour).Unix())),
		"never expires":       i.sign("k1", claims("exp", nil)),
		"not begun":           i.sign("k1", claims("nbf", time.Now().Add(hour).Unix())),
		"issued later":        i.sign("k1", claims("iat", time.Now().Add(hour).Unix())),
		"another issuer":      i.sign("k1", claims("iss", "https://evil.example.com")),
		"no issuer":           i.sign("k1", claims("iss", nil)),
		"no audience":         i.sign("k1", claims("aud", nil)),
		"another key":         sign(jose.ES256, stranger, "k1", claims()),
		"an unknown key":      sign(jose.ES256, stranger, "k2", claims()),
		"a symmetric key":     sign(jose.HS256, []byte("a symmetric key of at least 32 bytes"), "symmetric", claims()),
		"no signature":        parts[0] + "." + parts[1] + ".",
		"none":                "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"a changed signature": parts[0] + "." + parts[1] + "." + strings.Repeat("A", len(parts[2])),
		"no token":            "x",
		"strange claims":      i.sign("k1", claims("admin", "yes")),
	} {
		if u, err := ask(guard, token); core.CodeOf(err) != core.CodeUnauthenticated || u != (user{}) {
			t.Errorf("%s: %v, %v", name, u, err)
		}
	}
	if u, err := ask(guard, good); err != nil || u.ID != "ann" {
		t.Error(u, err)
	}
}

func TestTheKeysFollowTheIssuersRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer("k1")
		guard := newGuard(t, i)
		check := func(key string, want core.Code, looks int32) {
			t.Helper()
			_, err := ask(guard, i.sign(key, claims()))
			synctest.Wait()
			if core.CodeOf(err) != want || i.looks.Load() != looks {
				t.Errorf("got %v, want %s; %d looks, want %d", err, want, i.looks.Load(), looks)
			}
		}
		old := i.sign("k1", claims("exp", time.Now().Add(100*time.Hour).Unix()))
		check("k1", core.CodeOK, 1)
		i.rotate("k1", "k2")
		time.Sleep(time.Minute)
		check("k2", core.CodeOK, 2)
		check("k1", core.CodeOK, 2)
		// A flood of made-up keys does not become one of requests.
		stranger, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		time.Sleep(time.Minute)
		for n := range 100 {
			if _, err := ask(guard, sign(jose.ES256, stranger, fmt.Sprint("x", n), claims())); core.CodeOf(err) != core.CodeUnauthenticated {
				t.Error(err)
			}
		}
		check("k1", core.CodeOK, 3)
		// A key that was taken back is refused after a while.
		i.rotate("k2")
		time.Sleep(11 * time.Minute)
		check("k2", core.CodeOK, 4)
		if _, err := ask(guard, old); core.CodeOf(err) != core.CodeUnauthenticated {
			t.Errorf("a key that was taken back: %v", err)
		}
		// An issuer that is down takes nothing away.
		i.down = true
		time.Sleep(24 * time.Hour)
		check("k2", core.CodeOK, 5)
		time.Sleep(time.Minute)
		if _, err := ask(guard, sign(jose.ES256, stranger, "k9", claims())); core.CodeOf(err) != core.CodeUnavailable || strings.Contains(errors.Wire(err, nil).Message, "502") {
			t.Errorf("an unknown key while the issuer is down: %v", err)
		}
	})
}

func TestOneLookServesAllThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer("k1")
		i.takes = time.Second
		guard := newGuard(t, i)
		token := i.sign("k1", claims())
		var group sync.WaitGroup
		for range 50 {
			group.Go(func() {
				if _, err := ask(guard, token); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		if i.looks.Load() != 1 {
			t.Errorf("%d looks", i.looks.Load())
		}
	})
}

func TestBadConfigurationIsRefused(t *testing.T) {
	for want, c := range map[string]jwtauth.Config{
		"Issuer is empty":     {Audience: "a"},
		"Audience is empty":   {Issuer: "i"},
		"Leeway":              {Issuer: "i", Audience: "a", Leeway: time.Hour},
		`"HS256" is not one`:  {Issuer: "i", Audience: "a", Algorithms: []jose.SignatureAlgorithm{jose.HS256}},
		"Algorithms is empty": {Issuer: "i", Audience: "a", Algorithms: []jose.SignatureAlgorithm{}},
	} {
		if _, err := jwtauth.New(jwtauth.Fixed{}, c, identify); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s in it", err, want)
		}
	}
	for url, opts := range map[string]*jwtauth.KeySetOptions{
		"http://issuer.example.com/keys": nil,
		"https://issuer.example.com":     {MaxAge: -1},
		"https://\x00":                   nil,
		"":                               nil,
	} {
		if _, err := jwtauth.NewKeySet(url, opts); err == nil {
			t.Errorf("%q is taken", url)
		}
	}
}

// Whatever a caller sends as a token, who has no key does not pass.
func FuzzToken(f *testing.F) {
	i := newIssuer("k1")
	guard := newGuard(f, i)
	good := i.sign("k1", claims())
	f.Add(good)
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.e30.")
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := ask(guard, token); err == nil && strings.Trim(token, " ") != good {
			t.Errorf("%q passed", token)
		}
	})
}

func ExampleNew() {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	// Elsewhere: jwtauth.NewKeySet("https://issuer.example.com/keys", nil)
	keys := jwtauth.Fixed{{Key: key.Public(), KeyID: "k1"}}
	verify, err := jwtauth.New(keys, jwtauth.Config{Issuer: "https://issuer.example.com", Audience: "shop"},
		func(ctx context.Context, claims jwt.Claims, _ func(any) error) (context.Context, error) {
			return auth.WithIdentity(ctx, user{ID: claims.Subject}), nil
		})
	if err != nil {
		fmt.Println(err)
		return
	}
	guard, err := auth.New(auth.Bearer(verify), []auth.Rule{auth.Known("weft.dummy.v1.DummyService")}, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(ask(guard, sign(jose.ES256, key, "k1", claims("aud", "shop"))))
	_, err = ask(guard, sign(jose.ES256, key, "k1", claims("aud", "another service")))
	fmt.Println(core.CodeOf(err))
	// Output:
	// {ann false} <nil>
	// unauthenticated
}
