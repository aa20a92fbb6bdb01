// Every kind of client that a browser has, each with the same calls to make. See clients_test.go.

import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { base64Encode } from "@bufbuild/protobuf/wire";
import { MethodOptions_IdempotencyLevel } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient, type Transport } from "@connectrpc/connect";
import { codeToString } from "@connectrpc/connect/protocol-connect";
import { createConnectTransport, createGrpcWebTransport } from "@connectrpc/connect-web";
import * as grpcWeb from "grpc-web";
import {
  type DummyRequest,
  DummyRequestSchema,
  type DummyResponse,
  DummyResponseSchema,
  DummyService,
} from "../../../cmd/echo-server/page/src/gen/dummy/weft/dummy/v1/dummy_pb";

interface Call {
  id: string;
  shape: string;
  input: string;
  header?: Record<string, string[]>;
  timeoutMs: number;
  cancel: boolean;
}

interface Job {
  client: string;
  url: string;
  calls: Call[];
}

interface Result {
  outputs: string[];
  code: string;
  message: string;
  details?: { type: string; value: string }[];
  header?: Record<string, string>;
  trailer?: Record<string, string>;
  /** The metadata of an error, which is header and trailer as one in connect-web. */
  merged?: Record<string, string>;
}

declare global {
  /** Waits until the server has begun, or ended, to handle a call. The test provides them. */
  function reached(id: string): Promise<void>;
  function ended(id: string): Promise<void>;
  function run(jobs: Job[]): Promise<Result[][]>;
}

type Caller = (c: Call) => Promise<Result>;

const name = (code: number) => (code === 0 ? "ok" : codeToString(code as Code));

/** A service whose method has no side effects, so that it may be called by GET. */
const getService = { ...DummyService, typeName: "weft.browser.v1.GetService" };
getService.methods = [
  {
    ...DummyService.method.execute,
    parent: getService,
    idempotency: MethodOptions_IdempotencyLevel.NO_SIDE_EFFECTS,
  },
];

async function* once(input: string) {
  yield { input };
}

function connectWeb(transport: Transport, service = DummyService): Caller {
  const client = createClient(service, transport);
  return async (c) => {
    const result: Result = { outputs: [], code: "ok", message: "" };
    const headers = new Headers({ "x-call": c.id });
    for (const [key, values] of Object.entries(c.header ?? {})) {
      values.forEach((value) => headers.append(key, value));
    }
    const abort = new AbortController();
    const options = {
      headers,
      signal: abort.signal,
      timeoutMs: c.timeoutMs || undefined,
      onHeader: (received: Headers) => (result.header = Object.fromEntries(received)),
      onTrailer: (received: Headers) => (result.trailer = Object.fromEntries(received)),
    };
    try {
      if (c.shape === "server_stream") {
        for await (const { output } of client.executeServerStream({ input: c.input }, options)) {
          result.outputs.push(output);
          if (c.cancel) {
            abort.abort();
          }
        }
      } else if (c.shape === "client_stream") {
        result.outputs.push((await client.executeClientStream(once(c.input), options)).output);
      } else if (c.shape === "bidi_stream") {
        for await (const { output } of client.executeClientServerStream(once(c.input), options)) {
          result.outputs.push(output);
        }
      } else {
        const response = client.execute({ input: c.input }, options);
        if (c.cancel) {
          void reached(c.id).then(() => abort.abort());
        }
        result.outputs.push((await response).output);
      }
    } catch (e) {
      const error = ConnectError.from(e);
      result.code = name(error.code);
      result.message = error.rawMessage;
      result.details = error.details.map((d) =>
        "desc" in d ? { type: d.desc.typeName, value: "" } : { type: d.type, value: base64Encode(d.value) },
      );
      result.merged = Object.fromEntries(error.metadata);
    }
    return result;
  };
}

function google(url: string, format: string): Caller {
  const client = new grpcWeb.GrpcWebClientBase({ format });
  const descriptor = (method: string, type: string) =>
    new grpcWeb.MethodDescriptor<DummyRequest, DummyResponse>(
      `/${DummyService.typeName}/${method}`,
      type,
      Object as never, // its classes are for stubs alone
      Object as never,
      (request: DummyRequest) => toBinary(DummyRequestSchema, request),
      (bytes: Uint8Array) => fromBinary(DummyResponseSchema, bytes),
    );
  const unary = descriptor("Execute", grpcWeb.MethodType.UNARY);
  const stream = descriptor("ExecuteServerStream", grpcWeb.MethodType.SERVER_STREAMING);
  return async (c) => {
    const result: Result = { outputs: [], code: "silence", message: "" };
    const metadata: grpcWeb.Metadata = { "x-call": c.id };
    for (const [key, values] of Object.entries(c.header ?? {})) {
      metadata[key] = values.join(", "); // it has one value for a key
    }
    if (c.timeoutMs > 0) {
      metadata.deadline = String(Date.now() + c.timeoutMs);
    }
    const request = { $typeName: DummyRequestSchema.typeName, input: c.input } as DummyRequest;
    const succeeded = (response?: DummyResponse) => {
      result.code = "ok";
      if (response) {
        result.outputs.push(response.output);
      }
    };
    const failed = (error: grpcWeb.RpcError) => {
      if (result.code !== "silence") {
        return; // it may say more than once that a call has failed
      }
      result.code = name(error.code);
      result.message = error.message;
      result.trailer = error.metadata;
    };
    if (c.cancel && c.shape === "unary") {
      const abort = new AbortController();
      void reached(c.id).then(() => abort.abort());
      // Its types give the option to thenableCall, which it does not have.
      const unaryCall = client.unaryCall.bind(client) as typeof client.thenableCall;
      await unaryCall(url + unary.getName(), request, metadata, unary, { signal: abort.signal }).then(succeeded, failed);
      return result;
    }
    await new Promise<void>((resolve) => {
      const done = () => setTimeout(resolve); // the header comes after the error
      let call: grpcWeb.ClientReadableStream<DummyResponse>;
      if (c.shape === "server_stream") {
        call = client.serverStreaming(url + stream.getName(), request, metadata, stream);
        call.on("data", ({ output }) => result.outputs.push(output));
        call.on("end", () => {
          if (result.code === "silence") {
            succeeded(); // it says that it is at the end even after an error
          }
          done();
        });
        call.on("error", (error) => {
          failed(error);
          done();
        });
      } else {
        call = client.rpcCall(url + unary.getName(), request, metadata, unary, (error, response) => {
          if (error) {
            failed(error);
          } else {
            succeeded(response);
          }
          done();
        });
      }
      call.on("metadata", (received) => (result.header = received));
      call.on("status", (status) => (result.trailer = status.metadata));
      if (c.cancel) {
        // It says nothing more of a stream that was canceled.
        void reached(c.id)
          .then(() => call.cancel())
          .then(() => ended(c.id))
          .then(done);
      }
    });
    return result;
  };
}

const clients: Record<string, (baseUrl: string) => Caller> = {
  "connect-web Connect JSON": (baseUrl) => connectWeb(createConnectTransport({ baseUrl })),
  "connect-web Connect proto": (baseUrl) => connectWeb(createConnectTransport({ baseUrl, useBinaryFormat: true })),
  "connect-web Connect GET JSON": (baseUrl) => connectWeb(createConnectTransport({ baseUrl, useHttpGet: true }), getService),
  "connect-web Connect GET proto": (baseUrl) =>
    connectWeb(createConnectTransport({ baseUrl, useHttpGet: true, useBinaryFormat: true }), getService),
  "connect-web gRPC-Web JSON": (baseUrl) => connectWeb(createGrpcWebTransport({ baseUrl, useBinaryFormat: false })),
  "connect-web gRPC-Web proto": (baseUrl) => connectWeb(createGrpcWebTransport({ baseUrl })),
  "grpc-web binary": (baseUrl) => google(baseUrl, "binary"),
  "grpc-web text": (baseUrl) => google(baseUrl, "text"),
};

/** Runs the jobs at once, of each one call after the other. */
globalThis.run = (jobs) =>
  Promise.all(
    jobs.map(async ({ client, url, calls }) => {
      const caller = clients[client]!(url);
      const results: Result[] = [];
      for (const c of calls) {
        const result = Promise.withResolvers<Result>();
        const timer = setTimeout(() => result.resolve({ outputs: [], code: "silence", message: "" }), 10_000);
        caller(c).then(result.resolve, result.reject);
        results.push(await result.promise);
        clearTimeout(timer);
      }
      return results;
    }),
  );
