package web

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/rpcweft/weft/core"
)

// What gets past prepare is what grpc and vanguard understand.
func FuzzPrepare(f *testing.F) {
	f.Add("100m", "1", "gzip", "AAE=, AAI", true)
	f.Add("99999999H", "", "identity", "", true)
	f.Add("-1S", "2", "br", "=", true)
	f.Add("1500", "1", "", "AA,,AA", false)
	f.Add("99999999999", "", "gzip", "\xff", false)
	grpcTimeout, connectTimeout := regexp.MustCompile(`^[0-9]{1,8}[HMSmun]$`), regexp.MustCompile(`^[0-9]{1,10}$`)
	f.Fuzz(func(t *testing.T, timeout, version, compression, binary string, web bool) {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		protocol, key, want := core.ProtocolConnect, "Connect-Timeout-Ms", connectTimeout
		if web {
			protocol, key, want = core.ProtocolGRPCWeb, "Grpc-Timeout", grpcTimeout
		}
		r.Header.Set(key, timeout)
		r.Header.Set("Connect-Protocol-Version", version)
		r.Header.Set("Content-Encoding", compression)
		r.Header.Set("Grpc-Encoding", compression)
		r.Header.Add("X-Data-Bin", binary)
		r.Header.Add("X-Data-Bin", "AAE")
		if err := prepare(r, protocol); err != nil {
			if err.Code() == 0 || err.Message() == "" {
				t.Errorf("%v says nothing", err)
			}
			return
		}
		if got := r.Header.Get(key); got != "" && !want.MatchString(got) {
			t.Errorf("timeout %q became %q", timeout, got)
		}
		if !slices.Contains([]string{"", "identity", "gzip"}, compression) {
			t.Errorf("compression %q", compression)
		}
		values := r.Header["X-Data-Bin"]
		if strings.Count(binary, ",")+2 != len(values) {
			t.Errorf("%q became %q", binary, values)
		}
		for _, value := range values {
			if _, err := connect.DecodeBinaryHeader(value); err != nil {
				t.Errorf("%q is not base64", value)
			}
		}
	})
}
