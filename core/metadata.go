package core

import (
	"encoding/base64"
	"fmt"
	"iter"
	"net/textproto"
	"slices"
	"strings"
	"sync"
)

// Metadata is the header or the trailer of a call, the same on every stack. Keys
// are case-insensitive and read in lower case; the value of a key that ends in
// "-bin" is raw bytes, any other printable ASCII, as the gRPC specification has
// it (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md). A key may
// have several values.
//
// What belongs to the protocols (keys that start with ":", "connect-" or "trailer-",
// content-type, te, grpc-timeout, ...) is neither shown nor taken: writing it is an
// InvalidArgument error. The user-agent can be read on servers and written nowhere.
// Writing what was sent, or what this side only receives, is a FailedPrecondition
// error. A trailer refuses the keys that HTTP allows in headers only. A write that fails changes nothing.
//
// Metadata reads the stack's own map in place. It may be used by several
// goroutines. The methods that read work on a nil *Metadata, which is empty.
type Metadata struct {
	mu    sync.Mutex
	raw   RawMetadata
	bound bool // raw is there
	// written says that raw is not what the adapter gave.
	written bool
	fixed   string // why it cannot be written, or ""
	call    *Call  // asked for raw when it is wanted
	kind    MetadataKind
}

// MetadataKind tells the three metadata of a call apart.
type MetadataKind uint8

// The metadata of a call.
const (
	KindRequestHeader MetadataKind = iota + 1
	KindResponseHeader
	KindResponseTrailer
)

// RawMetadata is the stack's own map behind a [Metadata].
type RawMetadata struct {
	// Map is the stack's own. It may be nil.
	Map map[string][]string
	// HTTP says how Map is keyed and encoded: with canonical MIME keys and base64
	// under "-bin" as in [net/http.Header], or else in lower case and raw, as in grpc-go's MD.
	HTTP bool
	// Shared says that Map belongs to others too, so that the first write copies it.
	Shared bool
	// Agent says that user-agent is the peer's, not ours, and may be read.
	Agent bool
}

// NewMetadata returns metadata of its own, apart from any call, from pairs of
// key and value. It returns an InvalidArgument error that names a pair that
// cannot be sent, and panics if the number of strings is odd.
func NewMetadata(pairs ...string) (*Metadata, error) { return newMetadata(0, pairs) }

func newMetadata(kind MetadataKind, pairs []string) (*Metadata, error) {
	if len(pairs)%2 != 0 {
		panic("core: NewMetadata wants pairs of key and value, got an odd number of strings")
	}
	m := &Metadata{bound: true, kind: kind}
	for i := 0; i < len(pairs); i += 2 {
		if err := m.Add(pairs[i], pairs[i+1]); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// NewTrailer is [NewMetadata] for what travels in a trailer, which refuses what HTTP does not carry there:
// authorization, cache-control, www-authenticate and their like (RFC 9110, section 6.5.1).
func NewTrailer(pairs ...string) (*Metadata, error) { return newMetadata(KindResponseTrailer, pairs) }

// WrapMetadata returns a read-only view of a stack's own map, for adapters.
func WrapMetadata(raw RawMetadata) *Metadata {
	return &Metadata{bound: true, raw: raw, fixed: "it was received"}
}

// Get returns the first value of key, or "". See [Metadata.Values].
func (m *Metadata) Get(key string) string {
	if values := m.Values(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// Values returns the values of key in order, nil if there is none. Values that
// are not valid base64 under a "-bin" key are left out; [Metadata.Lookup] names them. The
// slice may be shared with the stack: it must not be changed.
func (m *Metadata) Values(key string) []string {
	values, _ := m.Lookup(key)
	return values
}

// Lookup returns the values of key, as [Metadata.Values] does, and an
// InvalidArgument error if the peer sent one under a "-bin" key that is not valid base64.
func (m *Metadata) Lookup(key string) ([]string, error) {
	if m == nil {
		return nil, nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bind()
	return m.lookup(lower(key))
}

// lookup wants a key in lower case.
func (m *Metadata) lookup(key string) ([]string, error) {
	if len(m.raw.Map) == 0 || protocolOwned(key) || (key == userAgent && !m.raw.Agent) {
		return nil, nil
	}
	values := slices.Clip(m.raw.Map[key]) // whoever appends to it gets a slice of their own
	if !m.raw.HTTP {
		return values, nil
	}
	if canonical := textproto.CanonicalMIMEHeaderKey(key); canonical != key {
		if more := slices.Clip(m.raw.Map[canonical]); len(values) == 0 {
			values = more
		} else if len(more) > 0 {
			values = slices.Concat(values, more)
		}
	}
	if !strings.HasSuffix(key, binarySuffix) || len(values) == 0 {
		return values, nil
	}
	var err error
	decoded := make([]string, 0, len(values))
	for _, value := range values {
		// HTTP may have joined several values by commas.
		for part := range strings.SplitSeq(value, ",") {
			raw, problem := decodeBinary(strings.TrimSpace(part))
			if problem != nil {
				err = faultf(CodeInvalidArgument, "metadata %q is not valid base64", key)
				continue
			}
			decoded = append(decoded, raw)
		}
	}
	return decoded, err
}

// All yields each key in lower case with its values, keys in alphabetical order.
// It yields what was there when the iteration began; the loop may write.
func (m *Metadata) All() iter.Seq2[string, []string] {
	return func(yield func(string, []string) bool) {
		for _, e := range m.entries() {
			if !yield(e.key, e.values) {
				return
			}
		}
	}
}

type entry struct {
	key    string
	values []string
}

func (m *Metadata) entries() []entry {
	if m == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bind()
	entries := make([]entry, 0, len(m.raw.Map))
	for key := range m.raw.Map {
		key = lower(key)
		if values, _ := m.lookup(key); len(values) > 0 {
			entries = append(entries, entry{key, values})
		}
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.key, b.key) })
	// A map may have a key in two spellings.
	return slices.CompactFunc(entries, func(a, b entry) bool { return a.key == b.key })
}

// Len returns the number of keys.
func (m *Metadata) Len() int { return len(m.entries()) }

// Set gives key the one value.
func (m *Metadata) Set(key, value string) error { return m.write(key, &value, true) }

// Add adds a value to those that key has.
func (m *Metadata) Add(key, value string) error { return m.write(key, &value, false) }

// Delete removes all values of key. Deleting what is not there is fine.
func (m *Metadata) Delete(key string) error { return m.write(key, nil, true) }

func (m *Metadata) write(key string, value *string, replace bool) error {
	key = lower(key)
	if err := validateKey(key); err != nil {
		return err
	}
	if value != nil {
		if m.kind == KindResponseTrailer && headerOnly(key) {
			return faultf(CodeInvalidArgument, "metadata key %q belongs into a header: HTTP carries no such trailer", key)
		}
		if err := validateValue(key, *value); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fixed != "" {
		return faultf(CodeFailedPrecondition, "metadata %q cannot be written: %s", key, m.fixed)
	}
	m.bind()
	m.own()
	m.written = true
	stored := key
	if m.raw.HTTP {
		stored = textproto.CanonicalMIMEHeaderKey(key)
	}
	if replace {
		delete(m.raw.Map, key)
		delete(m.raw.Map, stored)
	}
	if value == nil {
		return nil
	}
	encoded := *value
	if m.raw.HTTP && strings.HasSuffix(key, binarySuffix) {
		encoded = base64.RawStdEncoding.EncodeToString([]byte(encoded))
	}
	m.raw.Map[stored] = append(m.raw.Map[stored], encoded)
	return nil
}

// own makes Map one that may be written.
func (m *Metadata) own() {
	switch {
	case m.raw.Map == nil:
		m.raw.Map = map[string][]string{}
	case m.raw.Shared:
		shared := m.raw.Map
		m.raw.Map = make(map[string][]string, len(shared)+1)
		for key, values := range shared {
			m.raw.Map[key] = slices.Clone(values)
		}
	}
	m.raw.Shared = false
}

// Raw returns the stack's own metadata, protocol keys included: an
// [net/http.Header] on connect, lower-case keys on grpc. It is the deliberate way
// around the rules above, without their protection. It returns the zero value on nil.
func (m *Metadata) Raw() RawMetadata {
	if m == nil {
		return RawMetadata{}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bind()
	return m.raw
}

// Seal makes writes fail from now on, for adapters: reason completes the
// sentence "cannot be written: ...".
func (m *Metadata) Seal(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fixed == "" {
		m.fixed = reason
	}
}

// Touched reports whether anyone asked for the metadata yet, for adapters: what
// nobody touched need not be looked at.
func (m *Metadata) Touched() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bound
}

// Written reports whether anyone changed the metadata, for adapters.
func (m *Metadata) Written() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.written
}

// bind asks the adapter for its map, the first time that anyone wants it.
func (m *Metadata) bind() {
	if m.bound {
		return
	}
	m.bound = true
	if m.call != nil {
		m.raw = m.call.transport.Metadata(m.kind)
	}
}

// Rebind forgets the map, for adapters that have another one now.
func (m *Metadata) Rebind() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bound = false
}

// EachRaw calls set with each key and value that may be sent, keyed and encoded
// for the other kind of stack if http says so. For adapters that copy metadata.
func (m *Metadata) EachRaw(http bool, set func(key, value string)) {
	for key, values := range m.All() {
		if key == userAgent || validateKey(key) != nil {
			continue
		}
		for _, value := range values {
			if validateValue(key, value) != nil {
				continue
			}
			if http && strings.HasSuffix(key, binarySuffix) {
				value = base64.RawStdEncoding.EncodeToString([]byte(value))
			}
			set(key, value)
		}
	}
}

const (
	binarySuffix = "-bin"
	userAgent    = "user-agent"
)

// lower leaves alone what is not ASCII: such a key must not become a good one.
func lower(key string) string {
	for i := range len(key) {
		if c := key[i]; c >= 'A' && c <= 'Z' {
			lowered := []byte(key)
			for j := i; j < len(key); j++ {
				if c := key[j]; c >= 'A' && c <= 'Z' {
					lowered[j] = c + 'a' - 'A'
				}
			}
			return string(lowered)
		}
	}
	return key
}

// decodeBinary takes base64 with and without padding, as the specification demands.
func decodeBinary(value string) (string, error) {
	raw, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	return string(raw), err
}

// protocolOwned reports whether a key in lower case belongs to the protocols.
func protocolOwned(key string) bool {
	switch key {
	case "content-type", "content-length", "content-encoding", "accept", "accept-encoding", "te", "trailer",
		"transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade", "host", "date",
		"grpc-encoding", "grpc-accept-encoding", "grpc-timeout", "grpc-status", "grpc-message",
		"grpc-message-type", "grpc-status-details-bin", "x-grpc-web", "x-user-agent": // gRPC-Web has the last two
		return true
	}
	return strings.HasPrefix(key, ":") || strings.HasPrefix(key, "connect-") || strings.HasPrefix(key, "trailer-")
}

// IsReserved reports whether key belongs to the protocols, so that it is neither shown nor taken.
func IsReserved(key string) bool {
	key = lower(key)
	return protocolOwned(key) || key == userAgent
}

func validateKey(key string) error {
	if key == "" {
		return faultf(CodeInvalidArgument, "metadata key is empty")
	}
	if IsReserved(key) {
		return faultf(CodeInvalidArgument, "metadata key %q belongs to the protocol", key)
	}
	for i := range len(key) {
		c := key[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return faultf(CodeInvalidArgument, "metadata key %q has a character outside of [0-9a-z_.-]", key)
		}
	}
	return nil
}

// headerOnly reports whether HTTP servers drop key, in lower case, from a trailer, silently.
func headerOnly(key string) bool {
	switch key {
	case "authorization", "cache-control", "content-range", "expect", "max-forwards", "pragma", "proxy-authenticate",
		"proxy-authorization", "range", "realm", "www-authenticate":
		return true
	}
	return strings.HasPrefix(key, "if-")
}

func validateValue(key, value string) error {
	if strings.HasSuffix(key, binarySuffix) {
		return nil
	}
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			// The value may be a secret: only where it is wrong is said.
			return faultf(CodeInvalidArgument,
				"metadata value of %q has byte %#02x at %d, which is not printable ASCII; use a key that ends in -bin for it", key, value[i], i)
		}
	}
	if strings.Trim(value, " ") != value {
		return faultf(CodeInvalidArgument, "metadata value of %q begins or ends with a blank, which HTTP does not keep", key)
	}
	return nil
}

var _ fmt.Stringer = (*Metadata)(nil)

// String returns the keys, never the values, which may be secrets.
func (m *Metadata) String() string {
	keys := []string{}
	for key := range m.All() {
		keys = append(keys, key)
	}
	return "metadata" + fmt.Sprint(keys)
}
