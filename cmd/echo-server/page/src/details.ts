// Error details: messages of google.rpc that an error carries.

import { type ConnectError } from "@connectrpc/connect";
import { createRegistry, fromBinary, type JsonValue, toJson } from "@bufbuild/protobuf";
import { file_google_rpc_error_details } from "./gen/details/google/rpc/error_details_pb";

export interface Detail {
  type: string;
  size: number; // in bytes
  fields: JsonValue | undefined; // undefined if the type is not known here
}

const registry = createRegistry(file_google_rpc_error_details);

export function decodeDetails(error: ConnectError): Detail[] {
  return error.details.map((detail) => {
    if ("desc" in detail) {
      return { type: detail.desc.typeName, size: 0, fields: undefined }; // made by a client, never received
    }
    const { type, value } = detail;
    const decoded: Detail = { type, size: value.length, fields: undefined };
    const desc = registry.getMessage(type);
    try {
      if (desc) {
        decoded.fields = toJson(desc, fromBinary(desc, value), { registry });
      } else if (detail.debug !== undefined) {
        decoded.fields = detail.debug; // Connect servers that know the type may say it in JSON as well
      }
    } catch {
      // Malformed: type and size are all that can be told.
    }
    return decoded;
  });
}
