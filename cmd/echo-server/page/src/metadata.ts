// Headers and trailers, as a page can see them.

import { decodeBinaryHeader, encodeBinaryHeader } from "@connectrpc/connect";

export interface Field {
  name: string;
  value: string;
}

// What HTTP, CORS and the protocols put there themselves. It differs by nature from one path to another.
const ofProtocol =
  /^(access-control-.*|accept.*|alt-svc|cache-control|connect-.*|connection|content-.*|date|grpc-.*|keep-alive|server|te|trailer|transfer-encoding|vary|x-content-type-options)$/;

/** Whether a field belongs to the protocol, and not to the application. */
export function isOfProtocol(name: string): boolean {
  return ofProtocol.test(name);
}

export function fieldsOf(headers: Headers): Field[] {
  return [...headers].map(([name, value]) => ({ name, value })).sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Headers without the trailers that Connect sends among them under Trailer-. */
export function withoutTrailers(headers: Headers): Headers {
  return new Headers([...headers].filter(([name]) => !name.startsWith("trailer-")));
}

/**
 * Takes the headers out of what an error has, which is headers and trailers in one. The values of a name that is in
 * both are joined, in one order or the other.
 */
export function withoutHeaders(merged: Headers, headers: Headers): Headers {
  const trailers = new Headers();
  for (const [name, value] of merged) {
    const header = headers.get(name);
    if (header === null) {
      trailers.append(name, value);
    } else if (value.endsWith(`, ${header}`)) {
      trailers.append(name, value.slice(0, -header.length - 2));
    } else if (value.startsWith(`${header}, `)) {
      trailers.append(name, value.slice(header.length + 2));
    }
  }
  return trailers;
}

/** Makes what is sent of what a person wrote: under -bin, the bytes of the text. */
export function encodeValue(name: string, value: string): string {
  return name.endsWith("-bin") ? encodeBinaryHeader(new TextEncoder().encode(value)) : value;
}

export interface Readable {
  text: string;
  note?: string; // what the text is, if not the value as it was sent
}

/** Makes a value readable: bytes as their text if they are one, or else in hexadecimal digits. */
export function decodeValue(name: string, value: string): Readable {
  if (!name.endsWith("-bin")) {
    return { text: value };
  }
  try {
    const all = value.split(",").map((part) => decodeBinaryHeader(part.trim()));
    return { text: all.map(readBytes).join(", "), note: `${all.map((bytes) => bytes.length).join(" + ")} bytes, decoded` };
  } catch {
    return { text: value, note: "not base64" };
  }
}

function readBytes(bytes: Uint8Array): string {
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    if (!/[\p{Cc}\p{Cn}\p{Co}]/u.test(text)) {
      return text;
    }
  } catch {
    // It is no text.
  }
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
}
