package browser

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
)

// awkward is a text that goes into a header only when it is escaped.
const awkward = "100 % hé☃\nand a second line"

// sent is the metadata that is sent, less the prefix, with values in base64 under "-bin".
var sent = map[string][]string{"one": {"1"}, "two": {"a", "b"}, "raw-bin": {"AP9/", "AQ"}}

const (
	unary        = "unary"
	serverStream = "server_stream"
)

// call is one row of the table: what a client does, and what it must see.
type call struct {
	Name   string              `json:"-"`
	ID     string              `json:"id"`
	Shape  string              `json:"shape"`
	Input  string              `json:"input"`
	Header map[string][]string `json:"header,omitempty"`
	// TimeoutMS is none if it is 0.
	TimeoutMS int `json:"timeoutMs"`
	// Cancel tells the client to cancel: a stream when its first message is there, if it sees that before the end, and
	// what it has no sign of when the handler was reached.
	Cancel bool `json:"cancel"`

	want want
}

type want struct {
	outputs  []string
	deadline int // in milliseconds: the one output is that or a little less
	code     core.Code
	message  string // "" is any, if there is a code
	detail   bool
	metadata bool // header and trailer
	silent   bool // the client does not say that the call has ended
	refused  bool // no interceptor hears of it
	last     bool // of several values of a trailer, the client keeps the last
}

// result is what a client saw.
type result struct {
	Outputs []string `json:"outputs"`
	Code    string   `json:"code"`
	Message string   `json:"message"`
	// Details are missing where a client leaves them packed in the trailer grpc-status-details-bin.
	Details []detail          `json:"details"`
	Header  map[string]string `json:"header"`
	Trailer map[string]string `json:"trailer"`
	// Merged is header and trailer of a failure as one.
	Merged map[string]string `json:"merged"`
}

type detail struct {
	Type  string `json:"type"`
	Value string `json:"value"` // in base64
}

// table returns the calls that a client makes.
func table(shapes []string) []call {
	var calls []call
	for _, shape := range shapes {
		streams := shape == serverStream
		echo := func(text string) []string {
			if streams {
				return strings.Split(text, "") // none if it is empty
			}
			return []string{text}
		}
		failure := func(code core.Code) want {
			return want{code: code, message: "dummy failure: " + code.String(), detail: true}
		}
		add := func(input string, w want, options call) {
			options.Name = fmt.Sprintf("%s %q", shape, input)
			if options.TimeoutMS > 0 {
				options.Name += fmt.Sprintf(" in %d ms", options.TimeoutMS)
			}
			if w.metadata {
				options.Header = map[string][]string{}
				for key, values := range sent {
					options.Header[headerPrefix+key] = values
				}
			}
			options.Shape, options.Input, options.want = shape, input, w
			calls = append(calls, options)
		}
		add(awkward, want{outputs: echo(awkward)}, call{})
		add("", want{outputs: echo("")}, call{})
		for code := core.CodeCanceled; code.IsError(); code++ {
			add("fail:"+code.String(), failure(code), call{})
		}
		add("message", want{code: core.CodeNotFound, message: awkward}, call{})
		after := failure(core.CodeAborted)
		if streams {
			after.outputs = []string{"0", "1"}
		}
		add("fail-after:2:aborted", after, call{})
		add("plain", want{code: core.CodeUnknown, message: core.PublicMessage(core.CodeUnknown)}, call{})
		add("panic", want{code: core.CodeInternal, message: core.PublicMessage(core.CodeInternal)}, call{})
		add("metadata", want{outputs: echo("metadata"), metadata: true}, call{})
		failed := failure(core.CodeDataLoss)
		failed.metadata = true
		add("metadata-fail:data_loss", failed, call{})
		add("deadline", want{outputs: []string{"none"}}, call{})
		add("deadline", want{deadline: 60000}, call{TimeoutMS: 60000})
		add("sleep:1h", want{code: core.CodeDeadlineExceeded}, call{TimeoutMS: 1000})
		canceled := want{code: core.CodeCanceled}
		if streams {
			canceled.outputs = []string{"0"}
		}
		add("block", canceled, call{Cancel: true})
	}
	return calls
}

// complaints says what is wrong with a result.
func (c *call) complaints(r *result) (complaints []string) {
	complain := func(format string, args ...any) { complaints = append(complaints, fmt.Sprintf(format, args...)) }
	switch {
	case c.want.deadline > 0:
		left, err := strconv.Atoi(strings.Join(r.Outputs, " "))
		if err != nil || left <= c.want.deadline/2 || left > c.want.deadline {
			complain("outputs %q, want about %d", r.Outputs, c.want.deadline)
		}
	case !slices.Equal(r.Outputs, c.want.outputs):
		complain("outputs %q, want %q", r.Outputs, c.want.outputs)
	}
	code := c.want.code.String()
	if c.want.silent {
		code = "silence"
	}
	if r.Code != code {
		complain("code %s, want %s", r.Code, code)
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
		if c.want.metadata {
			header[headerPrefix+key] = values
			trailer[trailerPrefix+key] = values
			if c.want.last && key == "raw-bin" { // the browser has made one value of the others
				trailer[trailerPrefix+key] = values[len(values)-1:]
			}
		}
	}
	if r.Merged != nil {
		maps.Copy(header, trailer)
		if got := ownPart(r.Merged); !maps.EqualFunc(got, header, slices.Equal) {
			complain("metadata %v, want %v", got, header)
		}
		return complaints
	}
	if got := ownPart(r.Header); !maps.EqualFunc(got, header, slices.Equal) {
		complain("header %v, want %v", got, header)
	}
	if got := ownPart(r.Trailer); !maps.EqualFunc(got, trailer, slices.Equal) {
		complain("trailer %v, want %v", got, trailer)
	}
	return complaints
}

// ownPart returns the metadata that is the table's. A browser makes one value of several.
func ownPart(md map[string]string) map[string][]string {
	result := map[string][]string{}
	for key, value := range md {
		if strings.HasPrefix(key, headerPrefix) || strings.HasPrefix(key, trailerPrefix) {
			result[key] = strings.Split(value, ", ")
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
	if value := r.Trailer["grpc-status-details-bin"]; r.Details == nil && value != "" {
		value, err := decode(value)
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
