//go:build race

package conformance

// The programs under test are built as the tests are.
const race = true
