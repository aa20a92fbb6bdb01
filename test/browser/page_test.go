package browser

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	_ "github.com/rpcweft/weft/interceptors/logging" // what the echo server is made of, so that go test runs again when it has changed
	_ "github.com/rpcweft/weft/interceptors/realip"
	_ "github.com/rpcweft/weft/interceptors/requestid"
)

var screenshots = flag.String("screenshots", "", "the `folder` to which light.png and dark.png, pictures of the page, are written")

// echoServer builds and starts the echo server, and returns the address of its page.
func echoServer(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "echo-server")
	args := []string{"build", "-o", file}
	if race {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/echo-server")...)
	build.Dir = filepath.Join("..", "..") // with the versions of its own module
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(file, "-addr", "localhost:0", "-grpc-addr", "localhost:0", "-grpc-web-addr", "localhost:0")
	var problems bytes.Buffer
	cmd.Stderr = &problems
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		defer time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }).Stop()
		if err := cmd.Wait(); err != nil || strings.Contains(problems.String(), "DATA RACE") {
			t.Errorf("the echo server: %v\n%s", err, problems.String())
		}
	})
	defer time.AfterFunc(patience, func() { _ = cmd.Process.Kill() }).Stop()
	var printed []byte
	for buffer := make([]byte, 1<<12); ; {
		n, err := stdout.Read(buffer)
		printed = append(printed, buffer[:n]...)
		if match := regexp.MustCompile(`Open (http://\S+) in a browser`).FindSubmatch(printed); match != nil {
			return string(match[1])
		}
		if err != nil {
			t.Fatalf("the echo server did not start: %v\n%s", err, printed)
		}
	}
}

// person is somebody at the page.
type person struct {
	*tab

	t *testing.T
}

func (p *person) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := chromedp.Do(p.tab, actions...); err != nil {
		p.t.Fatalf("%s: %v", what, err)
	}
}

// wait waits until an expression about the page is true.
func (p *person) wait(expression string) {
	p.t.Helper()
	if _, err := chromedp.Run(p.tab, chromedp.Poll[bool](expression)); err != nil {
		text, _ := chromedp.Run(p.tab, chromedp.Evaluate[string](`document.body.innerText`))
		p.t.Fatalf("waiting for %s: %v; the page is\n%s", expression, err, text)
	}
}

// follow has the page fill in its form from a link.
func (p *person) follow(link string) {
	p.t.Helper()
	p.do("the link", chromedp.Evaluate[chromedp.Void](fmt.Sprintf(
		`document.documentElement.dataset.state = "idle"; location.hash = ""; location.hash = %q`, link)))
	p.wait(fmt.Sprintf(`location.hash.includes("input=") && document.querySelector("#input").value === new URLSearchParams(%q).get("input")`, link))
}

func (p *person) press(button string) {
	p.t.Helper()
	p.do("pressing "+button, chromedp.Click(chromedp.CSS(button), chromedp.NodeEnabled))
}

// shown is the result that the page shows.
type shown struct {
	Code     string            `json:"code"`
	Message  string            `json:"message"`
	Messages []string          `json:"messages"`
	Details  string            `json:"details"`
	Headers  string            `json:"headers"`
	Trailers string            `json:"trailers"`
	Spans    map[string]string `json:"spans"` // outcomes by names
	Text     string            `json:"text"`  // of the whole page
}

// read reads the result off the page once it is there.
func (p *person) read() shown {
	p.t.Helper()
	p.wait(`document.documentElement.dataset.state === "done"`)
	output, err := chromedp.Run(p.tab, chromedp.Evaluate[[]byte](`(() => {
		const one = (selector) => document.querySelector(selector)?.innerText ?? "";
		const all = (selector) => [...document.querySelectorAll(selector)];
		return {
			code: document.querySelector("#status").dataset.code,
			message: one("#error-message .text"),
			messages: all("#messages li .text").map((e) => e.innerText),
			details: one("#details"),
			headers: one("#headers"),
			trailers: one("#trailers"),
			spans: Object.fromEntries(all("#timeline [data-span]").map((e) => [e.dataset.span, e.dataset.code])),
			text: document.body.innerText,
		};
	})()`))
	var s shown
	if err == nil {
		err = json.Unmarshal(output, &s)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	if strings.Contains(s.Text, "hunter2") {
		p.t.Errorf("a secret is on the page:\n%s", s.Text)
	}
	return s
}

func TestThePageShowsEachCall(t *testing.T) {
	if testing.Short() {
		t.Skip("a browser is slow")
	}
	t.Parallel()
	require(t, executable() != "", noBrowser)
	tab := open(t, echoServer(t)+"#output", chromedp.EmulateViewport(1280, 1000)) // as when it is loaded again after its link to skip the form
	p := &person{tab, t}
	p.wait(`!document.querySelector("#call").disabled && document.querySelector("#input").value === "hello"`)
	fields := "&h.x-echo-greeting=hello&h.x-echo-data-bin=Gr%C3%BC%C3%9Fe"
	for _, server := range []string{"connect-go", "grpc-go"} {
		for _, protocol := range []string{"connect", "grpc-web"} {
			for _, codec := range []string{"json", "proto"} {
				for _, test := range []struct {
					link     string
					code     string
					message  string
					messages []string
					handler  string // its outcome in the timeline; "" is any
					failed   bool   // by the Dummy service's failure
					metadata bool
				}{
					{"method=Execute&input=hello", "ok", "", []string{"hello"}, "ok", false, false},
					{"method=ExecuteServerStream&input=h%C3%A9%E2%98%83", "ok", "", []string{"h", "é", "☃"}, "ok", false, false},
					{"method=ExecuteServerStream&input=fail-after:3:unavailable", "unavailable", "dummy failure: unavailable", []string{"0", "1", "2"}, "unavailable", true, false},
					{"method=Execute&input=panic", "internal", "internal error", []string{}, "panicked", false, false},
					{"method=Execute&input=metadata-fail:aborted" + fields, "aborted", "dummy failure: aborted", []string{}, "aborted", true, true},
					// Which of client and server ends a call at its deadline is chance.
					{"method=ExecuteServerStream&input=sleep:1h&deadline=200", "deadline_exceeded", "", []string{}, "", false, false},
				} {
					link := fmt.Sprintf("server=%s&protocol=%s&codec=%s&%s", server, protocol, codec, test.link)
					p.follow(link)
					p.press("#call")
					s := p.read()
					if s.Code != test.code || !strings.HasPrefix(s.Message, test.message) || !slices.Equal(s.Messages, test.messages) {
						t.Errorf("%s: %s %q %q, want %s %q %q", link, s.Code, s.Message, s.Messages, test.code, test.message, test.messages)
					}
					if strings.Contains(s.Details, "DUMMY_FAILURE") != test.failed {
						t.Errorf("%s: details %q", link, s.Details)
					}
					metadata := s.Headers + s.Trailers // one of which has all of a failed unary call
					for _, text := range []string{"x-echo-greeting", "x-trailer-greeting", "x-echo-data-bin", "x-trailer-data-bin", "Grüße"} {
						if strings.Contains(metadata, text) != test.metadata {
							t.Errorf("%s: headers %q, trailers %q", link, s.Headers, s.Trailers)
							break
						}
					}
					if handler := s.Spans["handler"]; handler == "" || test.handler != "" && handler != test.handler {
						t.Errorf("%s: the interceptors' spans are %q", link, s.Spans)
					}
				}
			}
		}
	}

	p.follow("server=grpc-go&method=ExecuteServerStream&input=sleep:1h")
	p.press("#call")
	p.press("#cancel")
	if s := p.read(); s.Code != "canceled" {
		t.Errorf("a call that was canceled: %s", s.Code)
	}

	p.follow("method=Execute&input=metadata-fail:aborted" + fields)
	p.press("#compare")
	p.wait(`document.documentElement.dataset.state === "done"`)
	verdict, err := chromedp.Run(p.tab, chromedp.Evaluate[string](
		`document.querySelector("#verdict").innerText + " " + document.querySelector("#compare-table").innerText`))
	if err != nil || !strings.HasPrefix(verdict, "✓ 8 paths, no difference.") || !strings.Contains(verdict, "aborted") {
		t.Errorf("the comparison: %v\n%s", err, verdict)
	}

	p.follow("method=ExecuteServerStream&input=fail-after:3:unavailable")
	p.press("#call")
	p.read()
	p.picture("light")
	p.picture("dark")
	for {
		select {
		case line := <-p.console:
			if strings.Contains(line, "Content Security Policy") || strings.Contains(line, "CORS") {
				t.Errorf("in the console: %s", line)
			}
			continue
		default:
		}
		break
	}
}

// picture takes a picture of the page, and writes it to the folder of the flag.
func (p *person) picture(scheme string) {
	p.t.Helper()
	p.do("emulating the scheme "+scheme, chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	}))
	picture, err := chromedp.Run(p.tab, chromedp.FullScreenshot(100))
	if err != nil {
		p.t.Fatal(err)
	}
	decoded, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		p.t.Fatal(err)
	}
	r, g, b, _ := decoded.At(1, decoded.Bounds().Max.Y-1).RGBA()
	if dark := r+g+b < 3*0x8000; dark != (scheme == "dark") {
		p.t.Errorf("the page's corner has the color %x %x %x in the scheme %s", r, g, b, scheme)
	}
	if *screenshots != "" {
		if err := os.WriteFile(filepath.Join(*screenshots, scheme+".png"), picture, 0o600); err != nil {
			p.t.Error(err)
		}
	}
}
