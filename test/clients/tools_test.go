package clients

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os/exec"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/rpcweft/weft/core"
	"github.com/rpcweft/weft/internal/dummy/dummyv1"
)

// execute runs a tool. A failed call is no error: tools tell of it by their exit code.
func execute(ctx context.Context, stdin []byte, name string, args ...string) (stdout, stderr string, err error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	err = cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) && exit.Exited() {
		err = nil
	}
	return out.String(), problems.String(), err
}

// requests returns the request messages in JSON.
func (c *call) requests() (all [][]byte) {
	for _, input := range c.Inputs {
		all = append(all, []byte(protojson.Format(&dummyv1.DummyRequest{Input: input})))
	}
	return all
}

// flags are what makes each of the tools send the header.
func (c *call) flags() (flags []string) {
	for _, h := range c.Header {
		flags = append(flags, "-H", h.Key+": "+h.Value)
	}
	return flags
}

// responses adds the outputs of response messages in JSON.
func (r *result) responses(text string) error {
	for decoder := json.NewDecoder(strings.NewReader(text)); ; {
		var msg struct {
			Output string `json:"output"`
		}
		if err := decoder.Decode(&msg); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("response: %w in %q", err, text)
		}
		r.Outputs = append(r.Outputs, msg.Output)
	}
}

// failure is an error as the Connect protocol has it in JSON, which buf prints too.
type failure struct {
	Code    string   `json:"code"`
	Message string   `json:"message"`
	Details []detail `json:"details"`
}

func (f *failure) fill(r *result) {
	r.Code, r.Message, r.Details = f.Code, f.Message, f.Details
}

func add(md map[string][]string, key, value string) {
	key = strings.ToLower(key)
	md[key] = append(md[key], value)
}

func newResult() result {
	return result{Code: core.CodeOK.String(), Header: map[string][]string{}, Trailer: map[string][]string{}}
}

func grpcurl(ctx context.Context, _ *path, host string, c *call) (result, string, error) {
	args := append([]string{"-plaintext", "-v", "-format-error", "-d", "@"}, c.flags()...)
	if c.TimeoutMS > 0 {
		args = append(args, "-max-time", strconv.FormatFloat(float64(c.TimeoutMS)/1000, 'f', -1, 64))
	}
	out, problems, err := execute(ctx, bytes.Join(c.requests(), nil), "grpcurl", append(args, host, c.Method[1:])...)
	r := newResult()
	if err != nil {
		return r, out + problems, err
	}
	const contents = "Response contents:"
	section := ""
	for line := range strings.Lines(out) {
		text := strings.TrimSpace(line)
		switch text {
		case "Response headers received:", "Response trailers received:", contents, "Request metadata to send:":
			section = text
			continue
		case "", "(empty)":
			continue
		}
		switch key, value, _ := strings.Cut(text, ": "); section {
		case "Response headers received:":
			add(r.Header, key, value)
		case "Response trailers received:":
			add(r.Trailer, key, value)
		}
	}
	for _, part := range strings.Split(out, contents)[1:] {
		text, _, _ := strings.Cut(part, "\n\n")
		if err := r.responses(text); err != nil {
			return r, out + problems, err
		}
	}
	if problems != "" {
		var f struct {
			Code    uint32            `json:"code"`
			Message string            `json:"message"`
			Details []json.RawMessage `json:"details"`
		}
		if err := json.Unmarshal([]byte(problems), &f); err != nil {
			return r, out + problems, err
		}
		r.Code, r.Message = core.Code(f.Code).String(), f.Message
		for _, d := range f.Details {
			packed := &anypb.Any{}
			if err := protojson.Unmarshal(d, packed); err != nil {
				return r, out + problems, err
			}
			r.Details = append(r.Details, detail{string(packed.MessageName()), base64.StdEncoding.EncodeToString(packed.GetValue())})
		}
	}
	return r, out + problems, nil
}

func bufCurl(ctx context.Context, p *path, host string, c *call) (result, string, error) {
	args := append([]string{"curl", "-v", "--protocol", p.protocol, "--http2-prior-knowledge", "-d", "@-"}, c.flags()...)
	out, problems, err := execute(ctx, bytes.Join(c.requests(), nil), "buf", append(args, "http://"+host+c.Method)...)
	r := newResult()
	if err == nil {
		err = r.responses(out)
	}
	if err != nil {
		return r, out + problems, err
	}
	// The trace of the call comes after that of reflection. A blank line is before the trailer.
	_, trace, found := strings.Cut(problems, "* Invoking RPC")
	if !found {
		return r, out + problems, errors.New("no trace of the call")
	}
	var rest strings.Builder
	received := r.Header
	for line := range strings.Lines(trace) {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "buf: ")
		if !ok {
			rest.WriteString(line)
			continue
		}
		if text, ok = strings.CutPrefix(text, "< (#2)"); !ok {
			continue
		}
		text = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(text), "[*]"))
		key, value, ok := strings.Cut(text, ": ")
		switch {
		case text == "":
			received = r.Trailer
		case !ok: // the status line
		case p.protocol == "connect" && strings.HasPrefix(key, "Trailer-"):
			add(r.Trailer, strings.TrimPrefix(key, "Trailer-"), value)
		default:
			add(received, key, value)
		}
	}
	// Of the trailers that are part of the body it shows only those of streams.
	inBody := p.protocol == "grpcweb" || p.protocol == "connect" && c.Shape != "unary"
	r.noTrailer = inBody && (c.Shape == "unary" || c.Shape == "client_stream") && len(r.Trailer) == 0
	if _, text, found := strings.Cut(rest.String(), "{"); found {
		var f failure
		if err := json.NewDecoder(strings.NewReader("{" + text)).Decode(&f); err != nil {
			return r, out + problems, err
		}
		f.fill(&r)
	}
	return r, out + problems, nil
}

// curl speaks the Connect protocol by hand: JSON, and for streams JSON in envelopes.
func curl(ctx context.Context, p *path, host string, c *call) (result, string, error) {
	unary := c.Shape == "unary"
	kind := "application/connect+json"
	if unary {
		kind = "application/json"
	}
	args := append([]string{
		"--silent", "--show-error", "--include", "--noproxy", "*", "--data-binary", "@-",
		"-H", "Content-Type: " + kind, "-H", "Connect-Protocol-Version: 1",
	}, c.flags()...)
	if p.http == "2" {
		args = append(args, "--http2-prior-knowledge")
	}
	if c.TimeoutMS > 0 {
		args = append(args, "-H", "Connect-Timeout-Ms: "+strconv.Itoa(c.TimeoutMS))
	}
	var body []byte
	for _, msg := range c.requests() {
		if !unary {
			body = append(body, 0)
			body = binary.BigEndian.AppendUint32(body, uint32(len(msg)))
		}
		body = append(body, msg...)
	}
	target := "http://" + host + c.Method
	if p.protocol == get {
		args = append(args, "--request", "GET")
		target += "?connect=v1&encoding=json&message=" + url.QueryEscape(string(body))
		body = nil
	}
	out, problems, err := execute(ctx, body, "curl", append(args, target)...)
	r := newResult()
	if err != nil {
		return r, out + problems, err
	}
	head, answer, found := strings.Cut(out, "\r\n\r\n")
	if !found || problems != "" {
		return r, out + problems, errors.New("no HTTP response")
	}
	status, head, _ := strings.Cut(head, "\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		key, value, _ := strings.Cut(line, ": ")
		key = strings.ToLower(key)
		if trailer, ok := strings.CutPrefix(key, "trailer-"); ok && unary {
			add(r.Trailer, trailer, value)
		} else {
			add(r.Header, key, value)
		}
	}
	ok := strings.Fields(status)[1] == "200"
	if got := strings.Join(r.Header["content-type"], " "); got != kind {
		return r, out, fmt.Errorf("content type %q", got)
	}
	if unary {
		if ok {
			return r, out, r.responses(answer)
		}
		var f failure
		err := json.Unmarshal([]byte(answer), &f)
		f.fill(&r)
		return r, out, err
	}
	if !ok {
		return r, out, errors.New(status)
	}
	return r, out, r.envelopes(answer)
}

// envelopes reads a stream of the Connect protocol.
func (r *result) envelopes(stream string) error {
	for {
		if len(stream) < 5 {
			return errors.New("the stream has no end")
		}
		flags, size := stream[0], int(binary.BigEndian.Uint32([]byte(stream[1:5])))
		if len(stream) < 5+size {
			return errors.New("the stream is cut off")
		}
		var data string
		data, stream = stream[5:5+size], stream[5+size:]
		switch flags {
		case 0:
			if err := r.responses(data); err != nil {
				return err
			}
		case 2:
			var end struct {
				Error    *failure            `json:"error"`
				Metadata map[string][]string `json:"metadata"`
			}
			if err := json.Unmarshal([]byte(data), &end); err != nil {
				return err
			}
			if end.Error != nil {
				end.Error.fill(r)
			}
			for key, values := range end.Metadata {
				r.Trailer[strings.ToLower(key)] = values
			}
			if stream != "" {
				return fmt.Errorf("%q after the end", stream)
			}
			return nil
		default:
			return fmt.Errorf("flags %d", flags)
		}
	}
}
