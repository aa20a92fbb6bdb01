// Calls the Dummy service by @connectrpc/connect-node. See clients_test.go.

import { createFileRegistry, fromBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import {
  createConnectTransport,
  createGrpcTransport,
  createGrpcWebTransport,
  Http2SessionManager,
} from "@connectrpc/connect-node";
import { codeName, main } from "./common.mjs";

function multimap(headers) {
  const result = {};
  headers?.forEach((value, key) => {
    result[key] = value.split(/, ?/);
  });
  return result;
}

async function* each(inputs) {
  for (const input of inputs) {
    yield { input };
  }
}

function caller(client) {
  return async (c) => {
    const result = { outputs: [], code: "ok", message: "" };
    const headers = new Headers();
    for (const { key, value } of c.header) {
      headers.append(key, value);
    }
    const options = {
      headers,
      timeoutMs: c.timeoutMs || undefined,
      onHeader: (received) => (result.header = multimap(received)),
      onTrailer: (received) => (result.trailer = multimap(received)),
    };
    const name = c.method.split("/").pop();
    const method = client[name[0].toLowerCase() + name.slice(1)];
    const request = c.shape === "unary" || c.shape === "server_stream" ? { input: c.inputs[0] } : each(c.inputs);
    try {
      const response = method(request, options);
      if (c.shape === "unary" || c.shape === "client_stream") {
        result.outputs.push((await response).output);
      } else {
        for await (const { output } of response) {
          result.outputs.push(output);
        }
      }
    } catch (e) {
      const error = ConnectError.from(e);
      result.code = codeName(Code, error.code);
      result.message = error.rawMessage;
      result.details = error.details.map((d) => ({ type: d.type, value: Buffer.from(d.value ?? []).toString("base64") }));
      result.merged = multimap(error.metadata); // header and trailer of the failure
    }
    return result;
  };
}

await main((table) => {
  const baseUrl = "http://" + table.host;
  const sessionManager = table.http === "2" ? new Http2SessionManager(baseUrl) : undefined;
  const options = { baseUrl, httpVersion: table.http, sessionManager, useBinaryFormat: table.codec !== "json" };
  const create = { connect: createConnectTransport, grpc: createGrpcTransport, grpcweb: createGrpcWebTransport };
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, Buffer.from(table.descriptors, "base64")));
  const transport = create[table.protocol](options);
  return {
    call: caller(createClient(registry.getService("weft.dummy.v1.DummyService"), transport)),
    close: () => sessionManager?.abort(),
  };
});
