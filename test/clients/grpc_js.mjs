// Calls the Dummy service by @grpc/grpc-js. See clients_test.go.

import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";
import { codeName, main } from "./common.mjs";

function multimap(metadata) {
  const result = {};
  for (const key of Object.keys(metadata.getMap())) {
    result[key] = metadata.get(key).map((value) => (Buffer.isBuffer(value) ? value.toString("base64") : value));
  }
  return result;
}

function caller(client) {
  return (c) =>
    new Promise((resolve) => {
      const metadata = new grpc.Metadata();
      for (const { key, value } of c.header) {
        metadata.add(key, key.endsWith("-bin") ? Buffer.from(value, "base64") : value);
      }
      const options = c.timeoutMs ? { deadline: Date.now() + c.timeoutMs } : {};
      const result = { outputs: [], header: {} };
      const method = client[c.method.split("/").pop()].bind(client);
      const requests = c.inputs.map((input) => ({ input }));
      const single = (error, response) => {
        if (!error) {
          result.outputs.push(response.output);
        }
      };
      let stream;
      switch (c.shape) {
        case "unary":
          stream = method(requests[0], metadata, options, single);
          break;
        case "client_stream":
          stream = method(metadata, options, single);
          break;
        case "server_stream":
          stream = method(requests[0], metadata, options);
          break;
        default:
          stream = method(metadata, options);
      }
      if (c.shape === "client_stream" || c.shape === "bidi_stream") {
        requests.forEach((request) => stream.write(request));
        stream.end();
      }
      if (c.shape === "server_stream" || c.shape === "bidi_stream") {
        stream.on("data", (response) => result.outputs.push(response.output));
        stream.on("error", () => {});
      }
      stream.on("metadata", (received) => (result.header = multimap(received)));
      stream.on("status", ({ code, details, metadata: received }) => {
        result.code = codeName(grpc.status, code);
        result.message = details;
        result.trailer = multimap(received);
        setImmediate(resolve, result); // the callback of a single response may come after
      });
    });
}

await main((table) => {
  const definition = loadSync(table.proto, { keepCase: true });
  const { DummyService } = grpc.loadPackageDefinition(definition).weft.dummy.v1;
  const client = new DummyService(table.host, grpc.credentials.createInsecure(), { "grpc.enable_http_proxy": 0 });
  return { call: caller(client), close: () => client.close() };
});
