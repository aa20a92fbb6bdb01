package main

import (
	"regexp"
	"strings"
	"testing"
)

// want is what one stack prints, with the keys and the waits taken out.
const want = `
  a server that is down for two attempts: flaky:2:unavailable:KEY
    attempt 1: unavailable, again in WAIT
    attempt 2: unavailable, again in WAIT
    attempt 3: ok
    the application gets "flaky:2:unavailable:KEY"
  a server that hangs once: lazy:1:1m:KEY
    attempt 1: deadline_exceeded, again in WAIT
    attempt 2: ok
    the application gets "lazy:1:1m:KEY"
  a stream from a server that is down for one attempt: flaky:1:unavailable:KEY
    attempt 1: unavailable, again in WAIT
    attempt 2: ok
    the application gets "flaky:1:unavailable:KEY"
  a server that hangs once, asked twice: lazy:1:1m:KEY
    attempt 2: ok, won: true
    attempt 1: canceled, won: false
    the application gets "lazy:1:1m:KEY"
  a server that is down: fail:unavailable
    attempt 1: unavailable, again in WAIT
    attempt 2: unavailable, again in WAIT
    attempt 3: unavailable, again in WAIT
    the circuit was closed and is open
    attempt 4: unavailable, no more: it was the last attempt
    the application gets "what the cache has"
  a server that is down, again: fail:unavailable
    attempt 1: unavailable, no more: the deadline comes before the next attempt
    the application gets "what the cache has"
  an answer that no retry heals: fail:not_found
    attempt 1: not_found, won: true
    the application gets not_found
`

func survivor(t *testing.T, args ...string) string {
	t.Helper()
	var out strings.Builder
	if err := run(t.Context(), &out, args); err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`:[abcd]\d+\b`).ReplaceAllString(out.String(), ":KEY")
	return regexp.MustCompile(`again in \d+m?s`).ReplaceAllString(text, "again in WAIT")
}

func TestItSurvivesAServerOfItsOwn(t *testing.T) {
	if got := survivor(t); got != "connect-go"+want+"grpc-go"+want {
		t.Errorf("got\n%s", got)
	}
}

func TestItSurvivesServersThatRun(t *testing.T) {
	servers, err := misbehave(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer servers.close()
	if got := survivor(t, "-connect-url", "http://"+servers.web); got != "connect-go"+want {
		t.Errorf("got\n%s", got)
	}
	if got := survivor(t, "-grpc-target", servers.grpc); got != "grpc-go"+want {
		t.Errorf("got\n%s", got)
	}
}
