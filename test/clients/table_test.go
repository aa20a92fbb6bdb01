package clients

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
)

// call is one row of the table: what a client does, and what it must see.
type call struct {
	Name      string   `json:"name"`
	Shape     string   `json:"shape"`
	Method    string   `json:"method"` // the full name, with the slash in front
	Inputs    []string `json:"inputs"`
	Header    []field  `json:"header"`
	TimeoutMS int      `json:"timeoutMs"`

	want want
}

// field is a header. The value is in base64 under a "-bin" key.
type field struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

type want struct {
	outputs  []string
	deadline int // in milliseconds: the one output is that or a little less
	code     core.Code
	message  string // "" is any
	detail   bool
	header   bool
	trailer  bool
}

// result is what a client saw.
type result struct {
	Outputs []string `json:"outputs"`
	Code    string   `json:"code"`
	Message string   `json:"message"`
	// Details are missing where a client leaves them packed in the trailer grpc-status-details-bin.
	Details []detail            `json:"details"`
	Header  map[string][]string `json:"header"`
	Trailer map[string][]string `json:"trailer"`
	// Merged is header and trailer as one, where the client does not tell them apart.
	Merged map[string][]string `json:"merged"`

	noTrailer bool // the client does not show it
}

type detail struct {
	Type  string `json:"type"`
	Value string `json:"value"` // in base64
}

// The metadata that is sent, less the prefix, with values in base64 under "-bin".
var sent = map[string][]string{"one": {"1"}, "two": {"a", "b"}, "raw-bin": {"AP9/"}}

const (
	headerPrefix  = "x-echo-"
	trailerPrefix = "x-trailer-"
)

var shapes = []struct{ name, method string }{
	{"unary", "Execute"},
	{"client_stream", "ExecuteClientStream"},
	{"server_stream", "ExecuteServerStream"},
	{"bidi_stream", "ExecuteClientServerStream"},
}

func table() []call {
	var calls []call
	add := func(shape int, w want, timeout int, inputs ...string) {
		c := call{
			Name: fmt.Sprintf("%s %s", shapes[shape].name, strings.Join(inputs, ",")), Shape: shapes[shape].name,
			Method: "/weft.dummy.v1.DummyService/" + shapes[shape].method, Inputs: inputs, TimeoutMS: timeout, Header: []field{}, want: w,
		}
		if timeout > 0 {
			c.Name += fmt.Sprintf(" in %d ms", timeout)
		}
		if slices.ContainsFunc(inputs, func(input string) bool { return strings.HasPrefix(input, "metadata") }) {
			for _, key := range slices.Sorted(maps.Keys(sent)) {
				for _, value := range sent[key] {
					c.Header = append(c.Header, field{headerPrefix + key, value})
				}
			}
		}
		calls = append(calls, c)
	}
	failure := func(code core.Code) want {
		return want{code: code, message: "dummy failure: " + code.String(), detail: true}
	}
	const unary, client, server, bidi = 0, 1, 2, 3
	add(unary, want{outputs: []string{"hé☃ %"}}, 0, "hé☃ %")
	add(client, want{outputs: []string{"hé☃"}}, 0, "h", "é", "☃")
	add(server, want{outputs: []string{"h", "é", "☃"}}, 0, "hé☃")
	add(bidi, want{outputs: []string{"h", "é", "☃"}}, 0, "h", "é", "☃")
	for code := core.CodeCanceled; code.IsError(); code++ {
		add(unary, failure(code), 0, "fail:"+code.String())
	}
	for shape := range shapes {
		streams := shape == server || shape == bidi
		if shape != unary {
			add(shape, failure(core.CodeNotFound), 0, "fail:not_found")
		}
		after := failure(core.CodeAborted)
		if streams {
			after.outputs = []string{"0", "1"}
		}
		add(shape, after, 0, "fail-after:2:aborted")
		add(shape, want{code: core.CodeInvalidArgument, message: `unknown code "é%☃"`}, 0, "fail:é%☃")
		add(shape, want{code: core.CodeUnknown, message: core.PublicMessage(core.CodeUnknown)}, 0, "plain")
		add(shape, want{code: core.CodeInternal, message: core.PublicMessage(core.CodeInternal)}, 0, "panic")
		echo := want{outputs: []string{"metadata"}, header: true, trailer: true}
		if shape == server {
			echo.outputs = strings.Split("metadata", "")
		}
		add(shape, echo, 0, "metadata")
		failed := failure(core.CodeDataLoss)
		failed.header, failed.trailer = true, true
		add(shape, failed, 0, "metadata-fail:data_loss")
		add(shape, want{outputs: []string{"none"}}, 0, "deadline")
		add(shape, want{deadline: 60000}, 60000, "deadline")
		add(shape, want{code: core.CodeDeadlineExceeded}, 300, "sleep:1h")
	}
	add(client, want{outputs: []string{"ametadata"}, header: true, trailer: true}, 0, "a", "metadata")
	add(bidi, want{outputs: []string{"a", "metadata"}, trailer: true}, 0, "a", "metadata") // too late for a header
	late := failure(core.CodeAborted)
	late.outputs = []string{"a"}
	add(bidi, late, 0, "a", "fail:aborted")
	return calls
}

// complaints says what is wrong with a result.
func (c *call) complaints(r *result) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	switch {
	case c.want.deadline > 0:
		left, err := strconv.Atoi(strings.Join(r.Outputs, " "))
		if err != nil || left <= c.want.deadline/2 || left > c.want.deadline+c.want.deadline/100 { // grpcio rounds up
			complain("outputs %q, want about %d", r.Outputs, c.want.deadline)
		}
	case !slices.Equal(r.Outputs, c.want.outputs):
		complain("outputs %q, want %q", r.Outputs, c.want.outputs)
	}
	if r.Code != c.want.code.String() {
		complain("code %s, want %s", r.Code, c.want.code)
	}
	if r.Message != c.want.message && (c.want.message != "" || c.want.code == core.CodeOK) {
		complain("message %q, want %q", r.Message, c.want.message)
	}

	details, err := r.details()
	if err != nil {
		complain("details: %v", err)
	}
	var expected []proto.Message
	if c.want.detail {
		expected = append(expected, &errdetails.ErrorInfo{
			Reason: "DUMMY_FAILURE", Domain: "weft.dummy", Metadata: map[string]string{"code": c.want.code.String()},
		})
	}
	if !slices.EqualFunc(details, expected, proto.Equal) {
		complain("details %v, want %v", details, expected)
	}

	header, trailer := map[string][]string{}, map[string][]string{}
	for key, values := range sent {
		if c.want.header {
			header[headerPrefix+key] = values
		}
		if c.want.trailer {
			trailer[trailerPrefix+key] = values
		}
	}
	if r.Merged != nil {
		// A client may have shown a part before the failure, and all of it with the failure.
		got := own(r.Merged)
		maps.Copy(got, own(r.Header))
		maps.Copy(got, own(r.Trailer))
		maps.Copy(header, trailer)
		if !maps.EqualFunc(got, header, slices.Equal) {
			complain("metadata %v, want %v", got, header)
		}
		return complaints
	}
	if got := own(r.Header); !maps.EqualFunc(got, header, slices.Equal) {
		complain("header %v, want %v", got, header)
	}
	if got := own(r.Trailer); !r.noTrailer && !maps.EqualFunc(got, trailer, slices.Equal) {
		complain("trailer %v, want %v", got, trailer)
	}
	return complaints
}

// own returns the metadata that is the table's, with one form of what has several: values that
// were joined, padded base64.
func own(md map[string][]string) map[string][]string {
	result := map[string][]string{}
	for key, values := range md {
		key = strings.ToLower(key)
		if !strings.HasPrefix(key, headerPrefix) && !strings.HasPrefix(key, trailerPrefix) {
			continue
		}
		for _, value := range values {
			for part := range strings.SplitSeq(value, ",") {
				part = strings.TrimSpace(part)
				if strings.HasSuffix(key, "-bin") {
					part = strings.TrimRight(part, "=")
				}
				result[key] = append(result[key], part)
			}
		}
	}
	return result
}

func decode(value string) ([]byte, error) {
	return base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
}

func (r *result) details() (details []proto.Message, err error) {
	var packed []*anypb.Any
	for _, d := range r.Details {
		value, err := decode(d.Value)
		if err != nil {
			return nil, err
		}
		packed = append(packed, &anypb.Any{TypeUrl: "type.googleapis.com/" + d.Type, Value: value})
	}
	if values := r.Trailer["grpc-status-details-bin"]; r.Details == nil && len(values) > 0 {
		value, err := decode(values[0])
		if err != nil {
			return nil, err
		}
		status := &statuspb.Status{}
		if err := proto.Unmarshal(value, status); err != nil {
			return nil, err
		}
		if code := core.Code(status.GetCode()).String(); code != r.Code || status.GetMessage() != r.Message {
			return nil, fmt.Errorf("they come with %s %q", code, status.GetMessage())
		}
		packed = status.GetDetails()
	}
	for _, p := range packed {
		msg, err := p.UnmarshalNew()
		if err != nil {
			return nil, err
		}
		details = append(details, msg)
	}
	return details, nil
}

func TestTheTableNoticesFaults(t *testing.T) {
	i := slices.IndexFunc(table(), func(c call) bool { return c.Name == "bidi_stream metadata-fail:data_loss" })
	c := table()[i]
	info, err := proto.Marshal(&errdetails.ErrorInfo{
		Reason: "DUMMY_FAILURE", Domain: "weft.dummy", Metadata: map[string]string{"code": "data_loss"},
	})
	if err != nil {
		t.Fatal(err)
	}
	right := func() *result {
		r := &result{
			Code: "data_loss", Message: "dummy failure: data_loss", Header: map[string][]string{}, Trailer: map[string][]string{},
			Details: []detail{{"google.rpc.ErrorInfo", base64.StdEncoding.EncodeToString(info)}},
		}
		for key, values := range sent {
			r.Header[headerPrefix+key], r.Trailer[trailerPrefix+key] = values, values
		}
		return r
	}
	if complaints := c.complaints(right()); complaints != nil {
		t.Errorf("it complains about what is right: %q", complaints)
	}
	for name, fault := range map[string]func(*result){
		"an output":             func(r *result) { r.Outputs = []string{"x"} },
		"another code":          func(r *result) { r.Code = "internal" },
		"another message":       func(r *result) { r.Message += "." },
		"no detail":             func(r *result) { r.Details = nil },
		"another detail":        func(r *result) { r.Details[0].Value = "" },
		"a detail twice":        func(r *result) { r.Details = append(r.Details, r.Details...) },
		"no header":             func(r *result) { r.Header = nil },
		"no trailer":            func(r *result) { r.Trailer = nil },
		"header in the trailer": func(r *result) { maps.Copy(r.Trailer, r.Header) },
		"a value is missing":    func(r *result) { r.Trailer[trailerPrefix+"two"] = []string{"a"} },
		"a binary value":        func(r *result) { r.Header[headerPrefix+"raw-bin"] = []string{"AP8"} },
		"no merged trailer":     func(r *result) { r.Merged, r.Header, r.Trailer = r.Header, nil, nil },
	} {
		r := right()
		fault(r)
		if c.complaints(r) == nil {
			t.Errorf("%s went unnoticed", name)
		}
	}
}
