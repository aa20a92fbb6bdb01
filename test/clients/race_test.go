//go:build race

package clients

// The echo server is built as the tests are.
const race = true
