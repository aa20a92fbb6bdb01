package core

import (
	"fmt"
	"strings"
)

// Code is a status code of gRPC and Connect. The numbers are those of the gRPC
// specification (https://grpc.io/docs/guides/status-codes/), the names those of
// the Connect protocol.
type Code uint32

// The codes. CodeOK is the absence of an error and never the code of one.
const (
	CodeOK                 Code = 0
	CodeCanceled           Code = 1
	CodeUnknown            Code = 2
	CodeInvalidArgument    Code = 3
	CodeDeadlineExceeded   Code = 4
	CodeNotFound           Code = 5
	CodeAlreadyExists      Code = 6
	CodePermissionDenied   Code = 7
	CodeResourceExhausted  Code = 8
	CodeFailedPrecondition Code = 9
	CodeAborted            Code = 10
	CodeOutOfRange         Code = 11
	CodeUnimplemented      Code = 12
	CodeInternal           Code = 13
	CodeUnavailable        Code = 14
	CodeDataLoss           Code = 15
	CodeUnauthenticated    Code = 16
)

var codeNames = [...]string{
	"ok", "canceled", "unknown", "invalid_argument", "deadline_exceeded", "not_found",
	"already_exists", "permission_denied", "resource_exhausted", "failed_precondition",
	"aborted", "out_of_range", "unimplemented", "internal", "unavailable", "data_loss",
	"unauthenticated",
}

// IsError reports whether c is one of the sixteen codes that an error may have:
// neither OK nor out of range.
func (c Code) IsError() bool { return c >= CodeCanceled && c <= CodeUnauthenticated }

// String returns the lower snake case name, as in the Connect protocol:
// "not_found". A code out of range gives "code_17".
func (c Code) String() string {
	if int64(c) < int64(len(codeNames)) {
		return codeNames[c]
	}
	return fmt.Sprintf("code_%d", uint32(c))
}

// MarshalText implements [encoding.TextMarshaler] with the name of the code.
// It fails for a code out of range.
func (c Code) MarshalText() ([]byte, error) {
	if int64(c) >= int64(len(codeNames)) {
		return nil, fmt.Errorf("core: code %d is out of range 0 to 16", uint32(c))
	}
	return []byte(codeNames[c]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]: see [ParseCode].
func (c *Code) UnmarshalText(text []byte) error {
	code, err := ParseCode(string(text))
	if err == nil {
		*c = code
	}
	return err
}

// ParseCode returns the code with the given name in lower snake case, "ok" included.
func ParseCode(name string) (Code, error) {
	for i, n := range codeNames {
		if n == name {
			return Code(i), nil
		}
	}
	return 0, fmt.Errorf("core: %q is not a code; the codes are %s", name, strings.Join(codeNames[:], ", "))
}
