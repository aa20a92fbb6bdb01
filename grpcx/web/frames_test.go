package web

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"connectrpc.com/vanguard"
	"google.golang.org/grpc"

	"github.com/rpcweft/weft/internal/dummy"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
	"github.com/rpcweft/weft/internal/dummy/dummyv1/dummyv1connect"
)

func frame(flags byte, payload string) string {
	return string(binary.BigEndian.AppendUint32([]byte{flags}, uint32(len(payload)))) + payload
}

func TestKeysOfTheTrailerBecomeLowerCase(t *testing.T) {
	data := frame(0, "Grpc-Status: 0\r\n") + frame(1, "\x80\x00\x00\x00\x05A: B\n") + frame(0, "")
	for in, want := range map[string]string{
		data: data,
		data + frame(0x80, "Grpc-Status: 5\r\nGrpc-Message: Not: Found\r\nX-Ä-Bin:AbC=\r\n"): data +
			frame(0x80, "grpc-status: 5\r\ngrpc-message: Not: Found\r\nx-Ä-bin:AbC=\r\n"),
		frame(0x80, "A: B\n") + frame(0x80, "A: B\n"): frame(0x80, "a: B\n") + frame(0x80, "a: B\n"),
		frame(0x80, "A: B") + frame(0x80, "A: B"):     frame(0x80, "a: B") + frame(0x80, "a: B"),
		frame(0x81, "Grpc-Status: 0\r\n"):             frame(0x81, "Grpc-Status: 0\r\n"), // compressed
		frame(0x80, "") + frame(0, "A"):               frame(0x80, "") + frame(0, "A"),
		"":                                            "",
	} {
		f := &frames{}
		if got := f.lower([]byte(in)); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// FuzzFrames holds that it does not matter how a response is cut into pieces, that only trailers change, and these only
// in the case of ASCII letters, and that the bytes of the caller stay as they are.
func FuzzFrames(f *testing.F) {
	for _, seed := range []string{
		frame(0, "Hi") + frame(0x80, "Grpc-Status: 0\r\nGrpc-Message: A%\r\n"), frame(0x80, "A: B"), frame(0x81, "A"), "\x80\xff\xff\xff\xffABC:D\nE", "\x80",
	} {
		f.Add([]byte(seed), []byte{1, 5, 0, 2})
	}
	f.Fuzz(func(t *testing.T, in, cuts []byte) {
		original := bytes.Clone(in)
		want := (&frames{}).lower(in)
		var got []byte
		pieces := &frames{}
		for rest := in; len(rest) > 0; {
			n := 1
			if len(cuts) > 0 {
				n, cuts = min(int(cuts[0]), len(rest)), cuts[1:]
			}
			got = append(got, pieces.lower(rest[:n])...)
			rest = rest[n:]
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("in pieces %q, as a whole %q", got, want)
		}
		if !bytes.Equal(in, original) {
			t.Fatalf("the caller's %q became %q", original, in)
		}
		if len(want) != len(in) {
			t.Fatalf("%d bytes became %d", len(in), len(want))
		}
		trailer := make([]bool, len(in)) // which bytes are of a trailer
		for at := 0; at+prefixLen <= len(in); {
			n := min(int(binary.BigEndian.Uint32(in[at+1:])), len(in)-at-prefixLen)
			for i := range n {
				trailer[at+prefixLen+i] = in[at] == 0x80
			}
			at += prefixLen + n
		}
		for i := range in {
			if same := in[i] == want[i]; !same && (!trailer[i] || in[i] < 'A' || in[i] > 'Z' || want[i] != in[i]|0x20) {
				t.Fatalf("byte %d of %q became %q", i, in, want)
			}
		}
	})
}

// When this fails, vanguard writes trailers as gRPC-Web wants them: take frames out.
func TestVanguardStillWritesKeysThatGoogleDoesNotFind(t *testing.T) {
	server := grpc.NewServer()
	dummyv1.RegisterDummyServiceServer(server, dummy.New(nil).GRPC())
	transcoder, err := vanguard.NewTranscoder([]*vanguard.Service{vanguard.NewService(dummyv1connect.DummyServiceName, server,
		vanguard.WithTargetProtocols(vanguard.ProtocolGRPC), vanguard.WithTargetCodecs(vanguard.CodecProto))})
	if err != nil {
		t.Fatal(err)
	}
	req := httptest.NewRequest(http.MethodPost, dummyv1connect.DummyServiceExecuteProcedure, strings.NewReader(frame(0, "")))
	req.Header.Set("Content-Type", "application/grpc-web+proto")
	res := httptest.NewRecorder()
	transcoder.ServeHTTP(res, req)
	if body := res.Body.String(); !strings.Contains(body, "Grpc-Status: 0") {
		t.Errorf("the trailer is right without our help: %q", body)
	}
}
