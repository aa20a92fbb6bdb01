// Package browser has clients in a real browser call both stacks: connect-web and Google's grpc-web client, and a
// person at the echo server's page. The browser is Debian's chromium-headless-shell, or what CHROMIUM names, driven over
// the DevTools protocol; it finds no host but this machine. What its servers see is compared with what they see of Go's clients.
//
//	go test -run Page . -args -screenshots=/tmp // writes light.png and dark.png
package browser
