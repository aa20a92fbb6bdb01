// What the two programs for Node.js share. See clients_test.go.

import { readFileSync, writeSync } from "node:fs";

/** Reads the table on stdin, calls each of its cases, one after the other, and prints the results. */
export async function main(prepare) {
  const table = JSON.parse(readFileSync(0, "utf8"));
  const { call, close } = prepare(table);
  const results = [];
  for (const c of table.cases) {
    results.push(await call(c));
  }
  await close();
  let rest = Buffer.from(JSON.stringify(results));
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(1, rest));
    } catch (e) {
      if (e.code !== "EAGAIN") {
        throw e;
      }
    }
  }
}

/** Returns the name of a code, as the Connect protocol has it. */
export function codeName(names, number) {
  const name = Object.keys(names).find((key) => names[key] === number);
  return name
    .replace(/([a-z])([A-Z])/g, "$1_$2")
    .toLowerCase()
    .replace("cancelled", "canceled");
}
