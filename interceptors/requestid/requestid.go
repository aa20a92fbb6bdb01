// Package requestid gives each call an id that is the same on all servers that
// take part in it, for logs and errors.
package requestid

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/errors"
)

// Header is the metadata key of the id, unless [Options] say otherwise.
const Header = "x-request-id"

// MaxLen is how long an id may be.
const MaxLen = 128

// Options for [New]. The zero value is right for most.
type Options struct {
	// Header is the metadata key that carries the id. Empty means [Header].
	Header string
	// Generate makes an id. Nil means [NewID]. It is called by many goroutines at once; what it returns is
	// not taken if it is not [Valid].
	Generate func() string
	// IgnoreIncoming makes servers give each call an id of their own, whatever the caller sent: for the
	// edge, where a caller could make its calls look like another's in the logs.
	IgnoreIncoming bool
	// ErrorInfo makes servers add a google.rpc.RequestInfo with the id to errors that have a code, so that
	// users can tell it to those who read the logs. An error without a code gets one, and with it this detail, only if
	// errors.NewInterceptor stands inside.
	ErrorInfo bool
}

// New returns an interceptor for both sides. Nil options are the zero Options.
//
// A server takes the id that the caller sent, if it is one value that is [Valid], or else makes one; it puts
// the id into the context, for [FromContext], and into the header of the response, where it is also if the
// call fails. A client sends what the application has put into the request header, if that is an id, or the id of
// its context (that of the call being served, if a handler makes the call), or else a new one, and puts it into
// the context of what stands inside.
//
// It belongs outermost, so that all others have the id. An id that a server's context has already, of another
// such interceptor or of HTTP middleware outside, stays.
//
// New returns an error if Header cannot be sent.
func New(opts *Options) (core.Interceptor, error) {
	i := &interceptor{}
	if opts != nil {
		i.Options = *opts
	}
	if i.Header == "" {
		i.Header = Header
	}
	i.Header = strings.ToLower(i.Header)
	if _, err := core.NewMetadata(i.Header, "id"); err != nil {
		return nil, fmt.Errorf("requestid: Options.Header: %s", core.FindCoded(err, nil).Message())
	}
	return i, nil
}

type interceptor struct{ Options }

// Intercept implements [core.Interceptor].
func (i *interceptor) Intercept(ctx context.Context, call *core.Call, next core.Handler) error {
	if call.Side() == core.SideClient {
		return i.client(ctx, call, next)
	}
	id := FromContext(ctx)
	if id == "" {
		if !i.IgnoreIncoming {
			id = i.sent(call)
		}
		if id == "" {
			id = i.generate()
		}
		ctx = context.WithValue(ctx, key{}, id)
	}
	// It fails only if something outside has sent the header already, which is no reason to fail the call.
	_ = call.ResponseHeader().Set(i.Header, id)
	err := next(ctx, call)
	if err != nil && i.ErrorInfo {
		return inform(call, err, id)
	}
	return err
}

func (i *interceptor) client(ctx context.Context, call *core.Call, next core.Handler) error {
	id, before := i.sent(call), FromContext(ctx)
	if id == "" {
		if id = before; id == "" {
			id = i.generate()
		}
		if err := call.RequestHeader().Set(i.Header, id); err != nil {
			return err
		}
	}
	if id != before {
		ctx = context.WithValue(ctx, key{}, id)
	}
	return next(ctx, call)
}

// sent returns the id in the request header, "" if there is none that is fit.
func (i *interceptor) sent(call *core.Call) string {
	if values := call.RequestHeader().Values(i.Header); len(values) == 1 && Valid(values[0]) {
		return values[0]
	}
	return ""
}

func (i *interceptor) generate() string {
	if i.Generate != nil {
		if id := i.Generate(); Valid(id) {
			return id
		}
	}
	return NewID()
}

// inform returns err with the id as a detail, if it is coded.
func inform(call *core.Call, err error, id string) error {
	coded := core.FindCoded(err, nil)
	if coded == nil {
		return err
	}
	if info, ok := errors.DetailOf[*errdetails.RequestInfo](err); ok && info.GetRequestId() == id {
		return err // of a server behind this one
	}
	info := &errdetails.RequestInfo{RequestId: id}
	e, ok := coded.(*errors.Error)
	switch {
	case !ok:
		e = errors.Newf(core.WireCode(coded), "%s", coded.Message())
		for _, detail := range errors.Details(err) {
			e = e.WithDetails(detail)
		}
		if m, ok := coded.(core.MetadataError); ok {
			for key, values := range m.Metadata().All() {
				for _, value := range values {
					e = e.WithMetadata(key, value)
				}
			}
		}
	case e.Original() != nil && e.Code() == core.CodeUnknown && call.HTTPMethod() == "GET":
		return err // connect's "not modified" is an answer, which a detail would make a failure
	}
	if e = e.WithDetails(info); error(coded) != err { //nolint:errorlint // what wraps it is for the logs
		return e.WithCause(err)
	}
	return e
}

type key struct{}

// FromContext returns the id of the call, "" if there is none.
func FromContext(ctx context.Context) string {
	id, _ := ctx.Value(key{}).(string)
	return id
}

// NewContext returns a context with an id, for calls that begin in this program
// (a job, a test) or for HTTP middleware. It returns an error if the id is not [Valid].
func NewContext(ctx context.Context, id string) (context.Context, error) {
	if !Valid(id) {
		return nil, fmt.Errorf("requestid: %.32q is no id: want 1 to %d characters of printable ASCII without spaces", id, MaxLen)
	}
	return context.WithValue(ctx, key{}, id), nil
}

// Valid reports whether id may be one: 1 to [MaxLen] characters of printable ASCII without spaces, so that it
// goes through any log and any header as it is.
func Valid(id string) bool {
	if id == "" || len(id) > MaxLen {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
}

// NewID returns a UUID of version 7 (RFC 9562): random, but in the order of time.
func NewID() string {
	var id [16]byte
	_, _ = rand.Read(id[6:]) // it never fails
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(time.Now().UnixMilli()))
	copy(id[:6], ms[2:])
	id[6] = id[6]&0x0f | 0x70
	id[8] = id[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], id[0:4])
	hex.Encode(text[9:13], id[4:6])
	hex.Encode(text[14:18], id[6:8])
	hex.Encode(text[19:23], id[8:10])
	hex.Encode(text[24:], id[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
