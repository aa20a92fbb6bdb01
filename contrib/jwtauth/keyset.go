package jwtauth

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/rpcweft/weft/errors"
)

// KeySetOptions for [NewKeySet].
type KeySetOptions struct {
	// Client gets the keys. Nil means one with a timeout of ten seconds.
	Client *http.Client
	// MaxAge is how long keys are taken without looking again, in the background. Zero means ten minutes.
	MaxAge time.Duration
	// MinInterval is the least time between two looks, however many tokens with unknown keys come. Zero means ten seconds.
	MinInterval time.Duration
	// Insecure allows a URL without https, for tests.
	Insecure bool
}

const (
	defaultMaxAge      = 10 * time.Minute
	defaultMinInterval = 10 * time.Second
	defaultTimeout     = 10 * time.Second
	maxBody            = 1 << 20
)

// KeySet is the keys that an issuer publishes as a JSON Web Key Set. It follows their rotation: a token that is signed by a
// key not seen before makes it look again, at most once in KeySetOptions.MinInterval, and once for all that wait. If the
// issuer does not answer, the keys that there are stay good. A key that the issuer has taken back is good until the next look.
type KeySet struct {
	url     string
	options KeySetOptions

	mu      sync.Mutex
	keys    map[string]*jose.JSONWebKey
	looked  time.Time // when the last look began
	got     time.Time // when keys came
	running chan struct{}
	err     error // of the last look
}

// NewKeySet returns the keys at a URL, which the issuer's configuration names as jwks_uri. It does not look yet. It returns an
// error if the URL is not one of https, or a duration is negative. Nil options are the zero KeySetOptions.
func NewKeySet(url string, opts *KeySetOptions) (*KeySet, error) {
	s := &KeySet{url: url}
	if opts != nil {
		s.options = *opts
	}
	o := &s.options
	if !isSecure(url) && !o.Insecure {
		return nil, fmt.Errorf("jwtauth: keys from %q could be anybody's: want https", url)
	}
	if _, err := http.NewRequest(http.MethodGet, url, http.NoBody); err != nil { //nolint:noctx // it is not sent
		return nil, fmt.Errorf("jwtauth: %w", err)
	}
	if o.MaxAge < 0 || o.MinInterval < 0 {
		return nil, fmt.Errorf("jwtauth: KeySetOptions: MaxAge %v or MinInterval %v is negative", o.MaxAge, o.MinInterval)
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: defaultTimeout}
	}
	if o.MaxAge == 0 {
		o.MaxAge = defaultMaxAge
	}
	if o.MinInterval == 0 {
		o.MinInterval = defaultMinInterval
	}
	return s, nil
}

// Key implements [Keys].
func (s *KeySet) Key(ctx context.Context, id string) (*jose.JSONWebKey, error) {
	now := time.Now()
	s.mu.Lock()
	key := s.keys[id]
	look := s.looked.IsZero() || now.Sub(s.looked) >= s.options.MinInterval
	if key != nil && now.Sub(s.got) < s.options.MaxAge {
		look = false
	}
	if look && s.running == nil {
		s.looked, s.running = now, make(chan struct{})
		go s.look(context.WithoutCancel(ctx))
	}
	running := s.running
	s.mu.Unlock()
	if key == nil && running != nil {
		select {
		case <-running:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if key == nil {
		key = s.keys[id]
	}
	switch {
	case key != nil:
		return key, nil
	case s.err != nil:
		return nil, errors.Unavailable("the caller could not be checked").WithCause(s.err)
	}
	return nil, fmt.Errorf("jwtauth: the issuer has no key %.64q", id)
}

// look gets the keys.
func (s *KeySet) look(ctx context.Context) {
	keys, err := s.get(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err = err; err == nil {
		s.keys, s.got = keys, time.Now()
	}
	close(s.running)
	s.running = nil
}

func (s *KeySet) get(ctx context.Context) (map[string]*jose.JSONWebKey, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, http.NoBody)
	if err != nil {
		return nil, err
	}
	res, err := s.options.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("jwtauth: %s answers %s", s.url, res.Status)
	}
	var set jose.JSONWebKeySet
	if err := json.NewDecoder(io.LimitReader(res.Body, maxBody)).Decode(&set); err != nil {
		return nil, fmt.Errorf("jwtauth: %s: %w", s.url, err)
	}
	keys := map[string]*jose.JSONWebKey{}
	for _, one := range set.Keys {
		if key, err := public(one); err == nil {
			keys[key.KeyID] = key
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("jwtauth: %s has no key", s.url)
	}
	return keys, nil
}
