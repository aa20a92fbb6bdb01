//go:build race

package browser

// The echo server is built as the tests are.
const race = true
