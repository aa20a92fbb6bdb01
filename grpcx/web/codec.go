package web

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"

	"connectrpc.com/connect"
	"connectrpc.com/vanguard"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// codec gives what cannot be decoded the code that connect-go gives it; vanguard's is unknown.
type codec struct{ vanguard.Codec }

// Unmarshal implements [vanguard.Codec].
func (c codec) Unmarshal(data []byte, msg proto.Message) error {
	if err := c.Codec.Unmarshal(data, msg); err != nil {
		return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("unmarshal message: %w", err))
	}
	return nil
}

func jsonCodec(marshal protojson.MarshalOptions, types vanguard.TypeResolver) vanguard.Codec {
	if marshal.Resolver == nil {
		marshal.Resolver = types
	}
	return codec{vanguard.JSONCodec{
		MarshalOptions:   marshal,
		UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true, Resolver: types},
	}}
}

func newCompressor() connect.Compressor { return gzip.NewWriter(io.Discard) }

// newDecompressor returns what makes decompressors with a limit, which vanguard has not.
func newDecompressor(limit int64) func() connect.Decompressor {
	return func() connect.Decompressor { return &decompressor{limit: limit} }
}

type decompressor struct {
	gzip.Reader

	limit, left int64
}

// Reset implements [connect.Decompressor].
func (d *decompressor) Reset(r io.Reader) error {
	d.left = d.limit
	return invalid(d.Reader.Reset(r))
}

// Read implements [connect.Decompressor].
func (d *decompressor) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if d.left -= int64(n); d.left < 0 {
		return n, connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("the message is longer than %d bytes", d.limit))
	}
	return n, invalid(err)
}

// Close implements [connect.Decompressor].
func (d *decompressor) Close() error { return invalid(d.Reader.Close()) }

func invalid(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("decompress: %w", err))
}
