// What the echo server tells its page.

export interface Server {
  id: string;
  url: string; // "" is the origin of the page
}

export interface Config {
  servers: Server[];
  auth: boolean; // callers must send a token
  trace: boolean; // the server keeps what its interceptors did
}

export async function loadConfig(): Promise<Config> {
  const response = await fetch("config.json");
  if (!response.ok) {
    throw new Error(`config.json: HTTP ${response.status}`);
  }
  return (await response.json()) as Config;
}

/** The address of a server as a person reads it. */
export function address(server: Server): string {
  return server.url === "" ? location.origin : server.url;
}
