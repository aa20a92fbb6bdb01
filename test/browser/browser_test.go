package browser

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

const patience = 2 * time.Minute // for all that a tab does

const noBrowser = "no browser: install Debian's chromium-headless-shell, or let CHROMIUM name one"

// closeBrowser is set once the browser runs, which is when the first test wants a tab.
var closeBrowser = func() {}

func TestMain(m *testing.M) {
	code := m.Run()
	closeBrowser()
	os.Exit(code)
}

// require skips the test if something is not installed. In CI it fails.
func require(t *testing.T, found bool, what string) {
	t.Helper()
	if found {
		return
	}
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// packages skips the test if the packages of Node.js are not installed.
func packages(t *testing.T) {
	t.Helper()
	_, err := os.Stat("node_modules")
	require(t, err == nil, "the packages of package-lock.json are not installed: run `make setup`")
}

func executable() string {
	if file := os.Getenv("CHROMIUM"); file != "" {
		return file
	}
	for _, name := range []string{"chromium-headless-shell", "chromium", "google-chrome"} {
		if file, err := exec.LookPath(name); err == nil {
			return file
		}
	}
	return ""
}

var startBrowser = sync.OnceValues(func() (context.Context, error) {
	flag := chromedp.Flag
	allocator, stop := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(executable()), flag("headless", true), flag("no-sandbox", true), flag("disable-gpu", true),
		flag("disable-quic", true), flag("no-first-run", true), flag("disable-background-networking", true),
		flag("disable-component-update", true), flag("disable-sync", true), flag("disable-dev-shm-usage", true),
		flag("ignore-certificate-errors", true), flag("hide-scrollbars", true),
		// Without this, Chromium looks up hosts of its maker.
		flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
	)
	ctx, cancel := chromedp.NewContext(allocator)
	closeBrowser = func() {
		cancel()
		stop()
	}
	return ctx, chromedp.Do(ctx)
})

// tab is a tab with a profile of its own.
type tab struct {
	context.Context // it is what chromedp knows a tab by

	mu       sync.Mutex
	requests []string
	console  chan string // what the browser, and no script, wrote into it
}

// open opens a page in a tab, which is closed with the test. The test fails if a request of the tab leaves the machine.
func open(t *testing.T, page string, before ...chromedp.Action[chromedp.Void]) *tab {
	t.Helper()
	require(t, executable() != "", noBrowser)
	browser, err := startBrowser()
	if err != nil {
		t.Fatalf("starting %s: %v", executable(), err)
	}
	ctx, closeTab := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	ctx, cancel := context.WithTimeout(ctx, patience)
	tab := &tab{Context: ctx, console: make(chan string, 10000)}
	t.Cleanup(func() {
		cancel()
		closeTab()
		tab.mu.Lock()
		defer tab.mu.Unlock()
		for _, request := range tab.requests {
			if u, err := url.Parse(request); err != nil || u.Hostname() != "127.0.0.1" && u.Hostname() != "localhost" {
				t.Errorf("a request to %s, %v", request, err)
			}
		}
	})
	err = chromedp.Listen(ctx, func(event any) {
		tab.mu.Lock()
		defer tab.mu.Unlock()
		switch event := event.(type) {
		case *network.EventRequestWillBeSent:
			tab.requests = append(tab.requests, event.Request.URL)
		case *log.EventEntryAdded:
			tab.console <- event.Entry.Text
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Do(ctx, append(before, chromedp.Navigate(page))...); err != nil {
		t.Fatalf("opening %s: %v", page, err)
	}
	return tab
}

// await waits for a line in the console that contains a text.
func (tab *tab) await(t *testing.T, text string) {
	t.Helper()
	var others []string
	for {
		select {
		case line := <-tab.console:
			if strings.Contains(line, text) {
				return
			}
			others = append(others, line)
		case <-tab.Done():
			t.Fatalf("the console does not say %q, but %q", text, others)
		}
	}
}
