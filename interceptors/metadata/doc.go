// Package metadata has interceptors for the metadata of calls, the same on every
// stack, for all four shapes:
//
//   - [Write] sets, adds and removes: on clients what the request carries, on servers the header of
//     the response. [WriteTrailer] does so with the response's trailer. Values are fixed or computed for each call.
//   - [Forward] passes chosen keys of a call that is served to the calls made while serving it.
//   - [Require] lets those calls alone pass that carry a secret.
//
// Keys are case-insensitive. Under a key that ends in "-bin" a value is raw bytes, under any other it is
// printable ASCII. A key may have several values, and all of them are sent. What belongs to
// the protocols is refused: see [core.Metadata].
//
// Keys and values may come from a configuration file, so constructors check them and return an error. They
// panic at what only a programmer can get wrong. Interceptors never change and may be used by many goroutines.
package metadata

import (
	"github.com/rpcweft/weft/core"
)

// check returns what is wrong with the keys, or with the values of a key, nil if
// they can be sent. No text contains a value: it may be a secret.
func check(key string, values ...string) error {
	if _, err := core.NewMetadata(key, ""); err != nil {
		return err
	}
	for _, value := range values {
		if _, err := core.NewMetadata(key, value); err != nil {
			return err
		}
	}
	return nil
}

// because returns what a core error says, without its code.
func because(err error) string {
	if coded := core.FindCoded(err, nil); coded != nil {
		return coded.Message()
	}
	return err.Error()
}
