// The seventeen outcomes of a call, as gRPC and Connect number and name them.

export interface Status {
  number: number;
  name: string;
  meaning: string;
}

const meanings: [name: string, meaning: string][] = [
  ["ok", "The call succeeded."],
  ["canceled", "The caller gave up before the answer was complete."],
  ["unknown", "The server failed and does not say how: the error had no code of its own."],
  ["invalid_argument", "The request is wrong in itself, whatever the state of the server."],
  ["deadline_exceeded", "The time that the caller allows was over before the answer was complete."],
  ["not_found", "What was asked for does not exist."],
  ["already_exists", "What was to be created exists already."],
  ["permission_denied", "The caller is known, and may not do this."],
  ["resource_exhausted", "Something is used up: a quota, a rate limit, space."],
  ["failed_precondition", "The system is not in the state that this needs; the same call again will not help."],
  ["aborted", "Something else got in between, such as another transaction; the whole sequence may be tried again."],
  ["out_of_range", "The request goes past what there is, such as the end of a file."],
  ["unimplemented", "The server does not know this method, or does not support it."],
  ["internal", "The server broke one of its own rules. What happened stays in its log."],
  ["unavailable", "The service cannot be reached just now; trying again later may help."],
  ["data_loss", "Data was lost or damaged for good."],
  ["unauthenticated", "The caller did not prove who it is."],
];

export const statuses: readonly Status[] = meanings.map(([name, meaning], number) => ({ number, name, meaning }));

const unknown = statuses[2]!;

export function statusOf(code: number): Status {
  return statuses[code] ?? unknown;
}
