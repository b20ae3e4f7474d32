// The way to the service: a token that the page's own server hands out, and words for what goes wrong.

import { signal } from "@preact/signals";
import { ApiError, Client, SignInError } from "email-service-client";

interface Config {
  apiUrl: string;
  /** Null where tokens are made by an issuer that the page's server does not speak for. */
  token: string | null;
  /** Until when it is good, in milliseconds since the Unix epoch. */
  expiresAt: number;
}

/** What keeps the service from answering at the moment, for the status line. Empty while nothing does. */
export const trouble = signal("");

/** There as soon as `connect` is done. */
export let api: Client;

let config: Config | undefined;

/** A token is asked for anew a minute before it ends. */
async function currentConfig(): Promise<Config> {
  if (!config || config.expiresAt < Date.now() + 60_000) {
    const response = await fetch("/config.json", { cache: "no-store" });
    if (!response.ok) throw new Error("The page's server gives no token. Reload the page.");
    config = (await response.json()) as Config;
  }
  return config;
}

export async function connect(): Promise<void> {
  const { apiUrl: baseUrl } = await currentConfig();
  const token = async () => {
    const { token } = await currentConfig();
    if (token === null) throw new Error("`cargo dev` makes no tokens for the issuer that it was told. Unset its JWT_ settings.");
    return token;
  };
  api = new Client({ baseUrl, token, fetch: observedFetch });
}

/** The client waits and repeats by itself; whoever sits before the page is told why nothing happens. */
const observedFetch: typeof fetch = async (input, init) => {
  // What waited for its Undo is done as the page goes, and must not go with it.
  const keepalive = String(input).endsWith("/api/messages/batch");
  try {
    const response = await fetch(input, { ...init, keepalive });
    const seconds = response.status === 429 ? Number(response.headers.get("Retry-After")) : 0;
    trouble.value = seconds > 0 ? `So many requests that the service asks for a pause. It goes on by itself in ${seconds} s.` : "";
    return response;
  } catch (error) {
    if (error instanceof TypeError) trouble.value = "The service does not answer. Trying again …";
    throw error;
  }
};

/** What happened and what to do, for people. */
export function explain(error: unknown): string {
  if (error instanceof ApiError) {
    const report = error.requestId ? ` If it stays so, report request ${error.requestId}.` : "";
    switch (error.kind) {
      case "Invalid request":
        return error.details.map(({ field, message }) => `${field} ${message}`).join("; ") || error.message;
      case "Unauthorized":
        return "Your sign-in has ended. Reload the page.";
      case "Rate limit exceeded":
        return `${error.message} Try again in ${Math.ceil((error.retryAfter ?? 60_000) / 1000)} seconds.`;
      case "Mail server error":
        return `The mail server did not do it, and nothing was changed: ${error.message}`;
      case "Internal server error":
      case "Service unavailable":
      case "Unexpected answer":
        return `The service has a problem (${error.message}). Try again in a moment.${report}`;
      default:
        return error.message;
    }
  }
  if (error instanceof SignInError) {
    return error.code === "access_denied" ? "You declined at the provider, so nothing was connected." : error.message;
  }
  if (error instanceof TypeError) return "The service does not answer. Look at your connection, then try again.";
  return error instanceof Error ? error.message : String(error);
}
