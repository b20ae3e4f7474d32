// A small client of the account service: typed calls, typed errors, patience with the rate limit.

import type { components } from "./api.js";

type Schemas = components["schemas"];
export type Account = Schemas["Account"];
export type AccountList = Schemas["AccountList"];
export type NewAccount = Schemas["NewAccount"];
export type AccountChange = Schemas["AccountChange"];
export type Deleted = Schemas["Deleted"];
/** How an account stands with its mail server. */
export type State = Schemas["State"];
/** What came of signing in, of the servers that mail is read from and sent with. */
export type TestResult = Schemas["TestResult"];
/** Servers that an address is likely to be reached at, best first. */
export type FoundSettings = Schemas["FoundSettings"];
/** How an account's synchronisation stands, and how far it is. */
export type Sync = Schemas["Sync"];
export type SyncRequest = Schemas["SyncRequest"];
export type SyncCanceled = Schemas["SyncCanceled"];
export type Folder = Schemas["Folder"];
export type FolderList = Schemas["FolderList"];
export type FolderRole = Schemas["FolderRole"];
export type Message = Schemas["Message"];
export type MessageList = Schemas["MessageList"];
/** What a user writes and has not sent. */
export type Draft = Schemas["Draft"];
export type DraftList = Schemas["DraftList"];
export type NewDraft = Schemas["NewDraft"];
/** All that a draft is to have, and the version that it is a change of. */
export type DraftChange = Schemas["DraftChange"];
export type DraftDeleted = Schemas["DraftDeleted"];
/** Where a file that was announced is put. */
export type Upload = Schemas["Upload"];
export type NewUpload = Schemas["NewUpload"];
export type OutgoingAttachment = Schemas["OutgoingAttachment"];
export type CopiedAttachments = Schemas["CopiedAttachments"];
/** A message to be sent. */
export type NewOutgoing = Schemas["NewOutgoing"];
/** What was to be sent, and what became of it. */
export type Outgoing = Schemas["Outgoing"];
export type OutboxList = Schemas["OutboxList"];
/** A message with its text, its HTML made harmless, and what hangs on it. */
export type OpenedMessage = Schemas["OpenedMessage"];
export type Attachment = Schemas["Attachment"];
/** What has become of accounts, folders, messages and outbox, and the cursor to ask with next. */
export type ChangeList = Schemas["ChangeList"];
export type Change = Schemas["Change"];
export type MessageChange = Schemas["MessageChange"];
/** What is to become of many messages. */
export type Batch = Schemas["Batch"];
/** What became of each of them. */
export type BatchResult = Schemas["BatchResult"];
/** What a sign-in with a provider begins with. */
export type NewAuthorization = Schemas["NewAuthorization"];
/** A sign-in that has begun. */
export type Authorization = Schemas["Authorization"];
export type Fault = Schemas["Fault"];
/** What to branch on: the service's kinds of errors, and one for answers that are not the service's. */
export type Kind = Schemas["Error"]["error"] | "Unexpected answer";

/** Any answer but a success. A request that got no answer rejects with what `fetch` throws. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  constructor(
    readonly kind: Kind,
    message: string,
    readonly status: number,
    /** Every field at fault, on a 400 of validation. */
    readonly details: readonly Fault[],
    /** Finds the request in the service's log: name it in a report. */
    readonly requestId: string | undefined,
    /** Milliseconds that the service asks to wait. */
    readonly retryAfter: number | undefined,
  ) {
    super(message);
  }
}

/** The provider sent the user back without a code: `code` is its reason, such as `access_denied` when the user declined. */
export class SignInError extends Error {
  override readonly name = "SignInError";
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

export interface Options {
  /** The service's address, such as `https://api.example.com`. */
  baseUrl: string;
  /** The current token, asked for before each request. */
  token: () => string | Promise<string>;
  /** Another `fetch`, for tests. */
  fetch?: typeof fetch;
  /** How often a request is repeated after a 429 (or a 503 with `Retry-After`). Default 3; 0 never repeats. */
  retries?: number;
  /** The longest wait before a repetition, in milliseconds. When more is asked for, the error comes at once. Default 60000. */
  longestWait?: number;
}

export interface CallOptions {
  /** Ends the request, and the wait before a repetition. */
  signal?: AbortSignal;
}

export interface CreateOptions extends CallOptions {
  /**
   * Makes the call safe to repeat: within 24 hours the same call with the same key gets the same answer, and makes nothing
   * more. A random text, such as `crypto.randomUUID()`, kept until an answer has come.
   */
  idempotencyKey?: string;
}

export interface PageOptions extends CallOptions {
  limit?: number;
  offset?: number;
  /** Only accounts in this state. */
  state?: State;
}

/** Which messages; what is left out is not asked for. */
export interface MessageFilter {
  accountId?: string;
  folderId?: string;
  /** Of all folders that are for this. */
  role?: FolderRole;
  isRead?: boolean;
  isFlagged?: boolean;
  /** Received then or later, in milliseconds since the Unix epoch. */
  after?: number;
  /** Received earlier. */
  before?: number;
  /** Of this conversation. */
  threadId?: string;
  hasAttachments?: boolean;
  /** A part of the sender's name or address, in any letter case. */
  from?: string;
  /** A part of a recipient's: `to`, `cc` or `bcc`. */
  to?: string;
  /** A part of the subject. */
  subject?: string;
  /** A part of any of these, or of the preview. */
  q?: string;
}

export interface MessageOptions extends MessageFilter, CallOptions {
  limit?: number;
  /** The `nextCursor` of the page before. */
  cursor?: string;
}

export interface ChangeOptions extends CallOptions {
  /** The `cursor` of the answer before; without it the answer is a cursor to begin with. */
  since?: string;
  limit?: number;
}

export interface FollowOptions extends ChangeOptions {
  /** The wait before the next question after something has changed, in milliseconds. Default 5000. */
  pause?: number;
  /** The longest wait: it grows up to this while nothing changes, or the service is away. Default 60000. */
  longestPause?: number;
}

export interface DraftOptions extends CallOptions {
  limit?: number;
  /** The `nextCursor` of the page before. */
  cursor?: string;
}

export interface OutboxOptions extends CallOptions {
  limit?: number;
  /** The `nextCursor` of the page before. */
  cursor?: string;
}

export interface DeleteMessageOptions extends CallOptions {
  /** For good, wherever it is. */
  permanent?: boolean;
}

export interface SignInOptions extends CallOptions {
  /** What the user calls a new account; its address unless set. */
  accountName?: string;
}

export class Client {
  readonly #options: Options;

  constructor(options: Options) {
    this.#options = options;
  }

  /** One page, newest first. */
  listAccounts({ limit, offset, state, signal }: PageOptions = {}): Promise<AccountList> {
    return this.#call("GET", `/api/accounts${query({ limit, offset, state })}`, undefined, signal);
  }

  /** All accounts, page by page. What is created or deleted meanwhile may be missed or seen twice. */
  async *allAccounts({ limit = 100, ...options }: Omit<PageOptions, "offset"> = {}): AsyncGenerator<Account> {
    for (let offset = 0; ; offset += limit) {
      const page = await this.listAccounts({ limit, offset, ...options });
      yield* page.accounts;
      if (offset + page.accounts.length >= page.pagination.total || page.accounts.length === 0) return;
    }
  }

  createAccount(account: NewAccount, { signal, idempotencyKey }: CreateOptions = {}): Promise<Account> {
    return this.#call("POST", "/api/accounts", account, signal, idempotencyKey);
  }

  getAccount(id: string, { signal }: CallOptions = {}): Promise<Account> {
    return this.#call("GET", path(id), undefined, signal);
  }

  /** Changes what `change` names and nothing else. */
  updateAccount(id: string, change: AccountChange, { signal }: CallOptions = {}): Promise<Account> {
    return this.#call("PUT", path(id), change, signal);
  }

  deleteAccount(id: string, { signal }: CallOptions = {}): Promise<Deleted> {
    return this.#call("DELETE", path(id), undefined, signal);
  }

  /** Signs in with settings that are not stored. A login that fails is no error: see `success`. */
  testSettings(settings: NewAccount, { signal }: CallOptions = {}): Promise<TestResult> {
    return this.#call("POST", "/api/accounts/test", settings, signal);
  }

  /**
   * Signs in with what is stored, which moves the account's state. With `overrides` in place of stored fields, for this
   * try alone, it moves nothing.
   */
  testAccount(id: string, overrides?: AccountChange, { signal }: CallOptions = {}): Promise<TestResult> {
    return this.#call("POST", `${path(id)}/test`, overrides, signal);
  }

  /** Finds the servers of an address. Where nobody knows them it rejects with the kind `Not found`. */
  findSettings(emailAddress: string, { signal }: CallOptions = {}): Promise<FoundSettings> {
    return this.#call("GET", `/api/autoconfig?${new URLSearchParams({ emailAddress })}`, undefined, signal);
  }

  /** Asks for a synchronisation at once; while one is asked for or runs, for that one. */
  requestSync(id: string, { signal }: CallOptions = {}): Promise<SyncRequest> {
    return this.#call("POST", `${path(id)}/sync`, undefined, signal);
  }

  getSync(id: string, { signal }: CallOptions = {}): Promise<Sync> {
    return this.#call("GET", `${path(id)}/sync`, undefined, signal);
  }

  /** Ends the synchronisation that is asked for or runs. What has come stays. */
  cancelSync(id: string, { signal }: CallOptions = {}): Promise<SyncCanceled> {
    return this.#call("DELETE", `${path(id)}/sync`, undefined, signal);
  }

  /** The folders of an account's mailbox, in the order of their paths. */
  listFolders(id: string, { signal }: CallOptions = {}): Promise<FolderList> {
    return this.#call("GET", `${path(id)}/folders`, undefined, signal);
  }

  /** One page, newest first. */
  listMessages({ signal, ...asked }: MessageOptions = {}): Promise<MessageList> {
    return this.#call("GET", `/api/messages${query(asked)}`, undefined, signal);
  }

  /** All messages, page by page. What arrives meanwhile is not among them. */
  async *allMessages({ limit = 200, ...options }: Omit<MessageOptions, "cursor"> = {}): AsyncGenerator<Message> {
    let cursor: string | null | undefined;
    do {
      const page: MessageList = await this.listMessages({ limit, ...options, ...(cursor && { cursor }) });
      yield* page.messages;
      cursor = page.nextCursor;
    } while (cursor);
  }

  /** A message with what it shows; it does not count as read by that. Show `html` in a sandboxed frame. */
  getMessage(id: string, { signal }: CallOptions = {}): Promise<OpenedMessage> {
    return this.#call("GET", messagePath(id), undefined, signal);
  }

  /** A message as it was sent. */
  getRawMessage(id: string, { signal }: CallOptions = {}): Promise<Blob> {
    return this.#bytes(`${messagePath(id)}/raw`, signal);
  }

  /** A file that hangs on a message, such as a picture for `URL.createObjectURL`, or something to be saved. */
  getAttachment(id: string, attachmentId: string, { signal }: CallOptions = {}): Promise<Blob> {
    return this.#bytes(`${messagePath(id)}/attachments/${encodeURIComponent(attachmentId)}`, signal);
  }

  /** What has changed since a cursor. */
  listChanges({ signal, ...asked }: ChangeOptions = {}): Promise<ChangeList> {
    return this.#call("GET", `/api/changes${query(asked)}`, undefined, signal);
  }

  /**
   * What changes from now on, or from `since` on, for as long as you ask: each answer with changes as it comes, and without
   * `since` first one that has none but a cursor; list everything then. Keep `cursor` to go on from it another time.
   * It waits between questions, longer while nothing changes and while the service is away. Any other refusal rejects; that
   * is the kind `Gone` when `since` is too old: begin anew without it. Break off the loop, or abort `signal`.
   */
  async *followChanges(options: FollowOptions = {}): AsyncGenerator<ChangeList> {
    const { since, pause = 5_000, longestPause = 60_000, limit = 1000, signal } = options;
    let cursor = since;
    for (let idle = 0; ; ) {
      let retryAfter = 0;
      try {
        const asked = { limit, ...(cursor !== undefined && { since: cursor }), ...(signal && { signal }) };
        const answer = await this.listChanges(asked);
        const isFirst = cursor === undefined;
        cursor = answer.cursor;
        idle = answer.changes.length > 0 ? 0 : idle + 1;
        if (isFirst || idle === 0) yield answer;
        if (answer.hasMore) continue;
      } catch (error) {
        signal?.throwIfAborted();
        // What `fetch` rejects with is a TypeError: there was no answer.
        const isPassing = error instanceof ApiError ? error.status === 429 || error.status >= 500 : error instanceof TypeError;
        if (!isPassing) throw error;
        retryAfter = (error instanceof ApiError && error.retryAfter) || 0;
        idle += 1;
      }
      // Not all at once, of those that began together.
      const next = Math.min(longestPause, pause * 2 ** idle) * (0.75 + Math.random() / 4);
      await wait(Math.max(next, retryAfter), signal);
    }
  }

  /** One page, newest first. */
  listDrafts({ signal, ...asked }: DraftOptions = {}): Promise<DraftList> {
    return this.#call("GET", `/api/drafts${query(asked)}`, undefined, signal);
  }

  /** All drafts, page by page. */
  async *allDrafts(options: Omit<DraftOptions, "cursor"> = {}): AsyncGenerator<Draft> {
    let cursor: string | null | undefined;
    do {
      const page: DraftList = await this.listDrafts({ ...options, ...(cursor && { cursor }) });
      yield* page.drafts;
      cursor = page.nextCursor;
    } while (cursor);
  }

  createDraft(draft: NewDraft, { signal, idempotencyKey }: CreateOptions = {}): Promise<Draft> {
    return this.#call("POST", "/api/drafts", draft, signal, idempotencyKey);
  }

  getDraft(id: string, { signal }: CallOptions = {}): Promise<Draft> {
    return this.#call("GET", draftPath(id), undefined, signal);
  }

  /** Puts `change` in the place of all that the draft had. Rejects with the kind `Conflict` where it has another version by now. */
  updateDraft(id: string, change: DraftChange, { signal }: CallOptions = {}): Promise<Draft> {
    return this.#call("PUT", draftPath(id), change, signal);
  }

  deleteDraft(id: string, { signal }: CallOptions = {}): Promise<DraftDeleted> {
    return this.#call("DELETE", draftPath(id), undefined, signal);
  }

  /** Announces a file: the answer says where to put it. */
  createUpload(file: NewUpload, { signal, idempotencyKey }: CreateOptions = {}): Promise<Upload> {
    return this.#call("POST", "/api/uploads", file, signal, idempotencyKey);
  }

  /**
   * Announces a file and puts it into the object store; returns its id, for an attachment. Without a type it is
   * `application/octet-stream`. A store that does not take it makes an `ApiError` of the kind `Unexpected answer`.
   * A key is good for as long as the link that it got, a quarter of an hour: after such an error take a new one.
   */
  async upload(file: Blob, filename: string, { signal, idempotencyKey }: CreateOptions = {}): Promise<string> {
    // A type's parameters are no part of an upload's.
    const contentType = file.type.split(";")[0]?.trim() || "application/octet-stream";
    const options = { ...(signal && { signal }), ...(idempotencyKey !== undefined && { idempotencyKey }) };
    const { id, url, headers } = await this.createUpload({ filename, contentType, size: file.size }, options);
    const send = this.#options.fetch ?? globalThis.fetch;
    const response = await send(url, { method: "PUT", headers, body: file, ...(signal && { signal }) });
    // 412: it is there already, put by a call before with the same key.
    if (!response.ok && response.status !== 412) throw await toError(response);
    return id;
  }

  /**
   * Makes uploads of a message's attachments, of all or of those with these ids, to go along with a forward: put what it
   * returns into `attachments` of a draft or of what is sent.
   */
  async copyAttachments(id: string, attachmentIds?: string[], { signal }: CallOptions = {}): Promise<OutgoingAttachment[]> {
    const choice = attachmentIds ? { attachmentIds } : {};
    return (await this.#call<CopiedAttachments>("POST", `${messagePath(id)}/uploads`, choice, signal)).attachments;
  }

  /** Puts a message into the outbox, to be sent at once or at `sendAt`. */
  sendMessage(message: NewOutgoing, { signal, idempotencyKey }: CreateOptions = {}): Promise<Outgoing> {
    return this.#call("POST", "/api/outbox", message, signal, idempotencyKey);
  }

  /** One page of what was to be sent, newest first. */
  listOutbox({ signal, ...asked }: OutboxOptions = {}): Promise<OutboxList> {
    return this.#call("GET", `/api/outbox${query(asked)}`, undefined, signal);
  }

  getOutgoing(id: string, { signal }: CallOptions = {}): Promise<Outgoing> {
    return this.#call("GET", outgoingPath(id), undefined, signal);
  }

  /** Does not send it. Rejects with the kind `Conflict` where it is on its way already. */
  cancelOutgoing(id: string, { signal }: CallOptions = {}): Promise<Outgoing> {
    return this.#call("DELETE", outgoingPath(id), undefined, signal);
  }

  /** Tries once more what has `failed`, or is `uncertain`: the latter may arrive twice. */
  retryOutgoing(id: string, { signal }: CallOptions = {}): Promise<Outgoing> {
    return this.#call("POST", `${outgoingPath(id)}/retry`, undefined, signal);
  }

  /** Changes what `change` names and nothing else, on the mail server first. */
  updateMessage(id: string, change: MessageChange, { signal }: CallOptions = {}): Promise<Message> {
    return this.#call("PUT", messagePath(id), change, signal);
  }

  /** To the trash; from there, or with `permanent`, for good. */
  deleteMessage(id: string, { signal, ...asked }: DeleteMessageOptions = {}): Promise<Message> {
    return this.#call("DELETE", `${messagePath(id)}${query(asked)}`, undefined, signal);
  }

  /** Changes or deletes up to 200 messages. Does not reject where one of them fails: see `results`. */
  batchMessages(batch: Batch, { signal }: CallOptions = {}): Promise<BatchResult> {
    return this.#call("POST", "/api/messages/batch", batch, signal);
  }

  /** Begins a sign-in with a provider: send the browser to `authorizationUrl`. */
  startSignIn(authorization: NewAuthorization, { signal }: CallOptions = {}): Promise<Authorization> {
    return this.#call("POST", "/api/oauth2/authorizations", authorization, signal);
  }

  /**
   * Ends it on the page that the provider sent the user back to, whose address is `url`. Rejects with a `SignInError` where
   * the provider gave no code.
   */
  async finishSignIn(url: string | URL, { accountName, signal }: SignInOptions = {}): Promise<Account> {
    const query = new URL(url).searchParams;
    const [state, code, error] = [query.get("state"), query.get("code"), query.get("error")];
    if (error !== null || code === null || state === null) {
      throw new SignInError(error ?? "no_code", query.get("error_description") ?? "The provider gave no code.");
    }
    const body = { state, code, ...(accountName !== undefined && { accountName }) };
    return this.#call("POST", "/api/oauth2/accounts", body, signal);
  }

  async #call<T>(
    method: string,
    path: string,
    body: unknown,
    signal: AbortSignal | undefined,
    idempotencyKey?: string,
  ): Promise<T> {
    return (await (await this.#send(method, path, body, signal, idempotencyKey)).json()) as T;
  }

  /** What is too long for an answer comes from the object store, where `fetch` is led, without the token. */
  async #bytes(path: string, signal: AbortSignal | undefined): Promise<Blob> {
    return (await this.#send("GET", path, undefined, signal)).blob();
  }

  async #send(
    method: string,
    path: string,
    body: unknown,
    signal: AbortSignal | undefined,
    idempotencyKey?: string,
  ): Promise<Response> {
    const { baseUrl, token, retries = 3, longestWait = 60_000 } = this.#options;
    // Called as a plain function: a browser's fetch refuses another `this`.
    const send = this.#options.fetch ?? globalThis.fetch;
    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      const headers: Record<string, string> = { Authorization: `Bearer ${await token()}` };
      if (body !== undefined) headers["Content-Type"] = "application/json";
      if (idempotencyKey !== undefined) headers["Idempotency-Key"] = idempotencyKey;
      const response = await send(baseUrl.replace(/\/+$/, "") + path, {
        method,
        headers,
        ...(body !== undefined && { body: JSON.stringify(body) }),
        ...(signal && { signal }),
      });
      if (response.ok) return response;
      const error = await toError(response);
      // Neither was handled by the service, so repeating them is safe for every method.
      const mayRepeat = (error.status === 429 || error.status === 503) && attempt < retries;
      if (!mayRepeat || error.retryAfter === undefined || error.retryAfter > longestWait) throw error;
      await wait(error.retryAfter, signal);
    }
  }
}

/** The parameters that are given, with their question mark. */
function query(parameters: object): string {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined);
  const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
  return text && `?${text}`;
}

function draftPath(id: string): string {
  return `/api/drafts/${encodeURIComponent(id)}`;
}

function outgoingPath(id: string): string {
  return `/api/outbox/${encodeURIComponent(id)}`;
}

function path(id: string): string {
  return `/api/accounts/${encodeURIComponent(id)}`;
}

function messagePath(id: string): string {
  return `/api/messages/${encodeURIComponent(id)}`;
}

/** Also of answers that are not the service's: a gateway's or a proxy's. */
async function toError(response: Response): Promise<ApiError> {
  const body: unknown = await response.json().catch(() => undefined);
  const seconds = Number(response.headers.get("Retry-After") ?? Number.NaN);
  const retryAfter = Number.isFinite(seconds) && seconds >= 0 ? seconds * 1000 : undefined;
  const requestId = response.headers.get("X-Request-Id") ?? undefined;
  if (isEnvelope(body)) {
    return new ApiError(body.error, body.message, response.status, body.details ?? [], body.requestId, retryAfter);
  }
  return new ApiError("Unexpected answer", `HTTP status ${response.status}`, response.status, [], requestId, retryAfter);
}

function isEnvelope(body: unknown): body is Schemas["Error"] {
  return typeof body === "object" && body !== null && "error" in body && "message" in body && "requestId" in body;
}

function wait(milliseconds: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    if (signal?.aborted) stop();
    else signal?.addEventListener("abort", stop, { once: true });
  });
}
