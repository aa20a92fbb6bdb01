// Package browser has clients in a real browser call both stacks: connect-web and Google's grpc-web client, and a
// person at the echo server's page. The browser is Debian's chromium-headless-shell, driven over the DevTools protocol.
package browser
