import { createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import { DummyService } from "./gen/dummy/weft/dummy/v1/dummy_pb";
import { ErrorInfoSchema } from "./gen/details/google/rpc/error_details_pb";
console.log(createClient, createConnectTransport, createGrpcWebTransport, DummyService, ErrorInfoSchema);
