// Package interop runs the interop cases of grpc-go on a grpc-go client with Weft
// installed, against grpc-go's own test server and a connect-go server of the same service, both with Weft
// installed too. The cases, from google.golang.org/grpc/interop, are those that need no cloud.
package interop
