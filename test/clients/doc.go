// Package clients has clients that no one here wrote, in several languages, call
// the echo server on both stacks: curl, buf curl and grpcurl, grpcio for Python, and grpc-js and connect-node for Node.js.
// One table says what each must see: outputs, code, message, details, header and trailer.
package clients
