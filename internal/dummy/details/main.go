// Command details writes the definition of the standard error details (google/rpc/error_details.proto) to
// standard output, as the binary image that buf reads: the code for browsers is generated from it.
package main

import (
	"fmt"
	"os"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"
)

func main() {
	image, err := proto.Marshal(&descriptorpb.FileDescriptorSet{File: []*descriptorpb.FileDescriptorProto{
		protodesc.ToFileDescriptorProto(durationpb.File_google_protobuf_duration_proto),
		protodesc.ToFileDescriptorProto(errdetails.File_google_rpc_error_details_proto),
	}})
	if err == nil {
		_, err = os.Stdout.Write(image)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "details:", err)
		os.Exit(1)
	}
}
