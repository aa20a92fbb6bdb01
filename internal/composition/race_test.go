//go:build race

package composition

// everyShape is off under the race detector, which is ten times slower: shapes take turns as paths do.
const everyShape = false
