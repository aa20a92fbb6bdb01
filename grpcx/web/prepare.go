package web

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"connectrpc.com/connect"
	"connectrpc.com/vanguard"

	"github.com/rpcweft/weft/core"
)

// maxJoined is how many commas the binary metadata of a request may have.
const maxJoined = 1000

// prepare makes of a request what vanguard and grpc understand, or tells what is wrong with it: vanguard would say that
// in plain text, which clients take for an unknown error.
func prepare(r *http.Request, protocol core.Protocol) *connect.Error {
	compression := r.Header.Get("Grpc-Encoding")
	if protocol == core.ProtocolConnect {
		if version := r.Header.Get("Connect-Protocol-Version"); version != "" && version != "1" {
			return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("Connect-Protocol-Version must be \"1\": got %q", version))
		}
		r.Header.Set("Connect-Protocol-Version", "1") // without it vanguard would think of REST
		for _, key := range []string{"Grpc-Timeout", "Grpc-Encoding", "Grpc-Accept-Encoding"} {
			r.Header.Del(key) // they mean nothing yet, and vanguard hands them on to grpc
		}
		switch {
		case r.Method == http.MethodGet:
			compression = r.URL.Query().Get("compression")
			r.Header.Del("Content-Type") // it is of no body; vanguard would go by it, even to REST
		case strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+"):
			compression = r.Header.Get("Connect-Content-Encoding")
		default:
			compression = r.Header.Get("Content-Encoding")
		}
	}
	switch compression {
	case "", vanguard.CompressionIdentity, vanguard.CompressionGzip:
	default:
		return connect.NewError(connect.CodeUnimplemented, fmt.Errorf("unknown compression %q: supported encodings are gzip", compression))
	}
	if err := checkTimeout(r.Header, protocol); err != nil {
		return err
	}
	more := 0 // values than there are headers
	for key, values := range r.Header {
		if !strings.HasSuffix(key, "-Bin") {
			continue
		}
		// Browsers make one of several values; grpc does not take them apart. A comma is one byte, and a value of its own
		// a hundred times as much.
		for _, value := range values {
			more += strings.Count(value, ",")
		}
		if more > maxJoined {
			return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("more than %d joined values of binary metadata", maxJoined))
		}
		var parts []string
		for part := range strings.SplitSeq(strings.Join(values, ","), ",") {
			part = strings.TrimSpace(part)
			if _, err := connect.DecodeBinaryHeader(part); err != nil {
				return connect.NewError(connect.CodeInternal, fmt.Errorf("malformed binary metadata in header %q", key))
			}
			parts = append(parts, part)
		}
		r.Header[key] = parts
	}
	return nil
}

func checkTimeout(header http.Header, protocol core.Protocol) *connect.Error {
	key, most := "Connect-Timeout-Ms", 10
	grpc := protocol != core.ProtocolConnect
	if grpc {
		key, most = "Grpc-Timeout", 8
	}
	timeout := header.Get(key)
	if timeout == "" {
		return nil
	}
	digits := timeout
	if grpc {
		digits = timeout[:max(0, strings.IndexAny(timeout, "HMSmun"))]
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || len(digits) > most || grpc && len(digits) != len(timeout)-1 {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("%s is malformed: %.32q", key, timeout))
	}
	if n > 8 && strings.HasSuffix(timeout, "H") {
		header.Set(key, fmt.Sprint(min(n*60, 99_999_999), "M")) // vanguard refuses so many hours
	}
	return nil
}
