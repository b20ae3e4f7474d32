// Writing: new messages, answers, forwards; files that go along; and the seconds in which sending can be taken back.

import { signal, useSignal } from "@preact/signals";
import { ApiError, type Attachment, type OpenedMessage, type Outgoing } from "email-service-client";
import { useEffect, useRef } from "preact/hooks";

import { api, explain } from "./api";
import { isShown } from "./frame";
import { IconButton } from "./icons";
import { accountOf, accounts, hurry, loadOutbox } from "./mail";
import { go } from "./route";
import { attempt, useTask } from "./task";
import { complain, say, UNDO_SECONDS } from "./toasts";
import { longDate, mailboxes, names, people, size } from "./words";

/** As the service has it. */
const MAX_FILE = 25 * 1024 * 1024;

interface Enclosure {
  key: string;
  name: string;
  /** In bytes, where it is known. */
  size?: number;
  /** Brings it into the object store, and says under which id; not there of what cannot be or has been before. */
  bring?: () => Promise<string>;
  /** Its id, once it is there. */
  uploadId?: string;
  problem?: string | undefined;
}

/** What is typed. */
type Input = "to" | "cc" | "bcc" | "subject" | "text";

interface Composition extends Record<Input, string> {
  accountId: string;
  files: readonly Enclosure[];
  replyToId?: string;
  forwardOfId?: string;
  key: string;
  /** One message, however often it is sent before an answer comes. */
  idempotencyKey: string;
  /** The last try that got no answer, and may have been accepted. */
  tried?: Try | undefined;
}

interface Try {
  what: string;
  /** It goes along, so the same again has the same. */
  sendAt: number;
}

const composition = signal<Composition | undefined>(undefined);
const set = (change: Partial<Composition>) => composition.value && (composition.value = { ...composition.value, ...change });
const addFiles = (files: readonly Enclosure[]) => set({ files: [...(composition.value?.files ?? []), ...files] });
const hasContent = ({ to, cc, bcc, subject, text, files }: Composition) => !!(to || cc || bcc || subject || text.trim() || files.length > 0);
export const isWriting = () => !!composition.value && hasContent(composition.value);

/** The accounts that can send. */
const sending = () => accounts.value.filter(({ smtpHostname }) => smtpHostname);

function begin(first: Partial<Composition>): void {
  if (composition.value) return say("Send the message that you are writing, or throw it away, first.");
  const able = sending();
  const account = able.find(({ id }) => id === first.accountId) ?? able.find(({ state }) => state === "connected") ?? able[0];
  if (!account) return complain("None of your accounts can send: add one with a server for sending.");
  composition.value = { to: "", cc: "", bcc: "", subject: "", text: "", files: [], ...newKeys(), ...first, accountId: account.id };
  bringFiles();
}

const newKeys = () => ({ key: crypto.randomUUID(), idempotencyKey: crypto.randomUUID() });

export const write = () => begin({});

const prefixed = (prefix: string, subject: string) => (subject.toLowerCase().startsWith(prefix.toLowerCase()) ? subject : `${prefix} ${subject}`);

export function answer(message: OpenedMessage, toAll: boolean): void {
  const own = accountOf(message.accountId)?.emailAddress.toLowerCase();
  const isOther = ({ address }: { address: string }) => address.toLowerCase() !== own;
  const author = message.replyTo.length > 0 ? message.replyTo : message.from;
  // An answer to what one wrote oneself goes to whom it went.
  const to = author.some(isOther) || message.to.length === 0 ? author : message.to;
  const quoted = (message.text ?? "").trimEnd().replace(/^/gm, "> ");
  begin({
    accountId: message.accountId,
    to: mailboxes(toAll ? [...to, ...message.to.filter(isOther).filter(({ address }) => !to.some((one) => one.address === address))] : to),
    cc: toAll ? mailboxes(message.cc.filter(isOther)) : "",
    subject: prefixed("Re:", message.subject),
    text: `\n\n${longDate(message.sentAt ?? message.receivedAt)}, ${names(message.from)} wrote:\n${quoted}\n`,
    replyToId: message.id,
  });
}

export function forward(message: OpenedMessage): void {
  const { from, to, subject, sentAt, receivedAt } = message;
  const head = [`From: ${mailboxes(from)}`, `Date: ${longDate(sentAt ?? receivedAt)}`, `Subject: ${subject}`, `To: ${mailboxes(to)}`];
  begin({
    accountId: message.accountId,
    subject: prefixed("Fwd:", subject),
    text: `\n\n-------- Forwarded message --------\n${head.join("\n")}\n\n${message.text ?? ""}\n`,
    forwardOfId: message.id,
    files: hangingOn(message.id, message.attachments.filter((file) => !isShown(message, file))),
  });
}

/** One call, however many ask for what it answers, and another when it has failed. */
function shared<T>(call: () => Promise<T>): () => Promise<T> {
  let answer: Promise<T> | undefined;
  return () => (answer ??= call().catch((error: unknown) => {
    answer = undefined;
    throw error;
  }));
}

/** What hangs on a message that is forwarded: all of it is copied at once. */
function hangingOn(messageId: string, attachments: readonly Attachment[]): Enclosure[] {
  const copy = shared(() => api.copyAttachments(messageId, attachments.map(({ id }) => id)));
  return attachments.map(({ filename, size }, place) => {
    const bring = async () => {
      const copied = (await copy())[place];
      if (!copied) throw new Error("It does not hang on the message any more.");
      return copied.uploadId;
    };
    return { key: crypto.randomUUID(), name: filename, size, bring };
  });
}

/** A file that was picked. */
function picked(file: File): Enclosure {
  const { name, size } = file;
  const enclosure = { key: crypto.randomUUID(), name, size };
  if (size > MAX_FILE) return { ...enclosure, problem: "It is larger than 25 MB, which no message takes." };
  let idempotencyKey = crypto.randomUUID();
  const bring = shared(() => api.upload(file, name, { idempotencyKey }).catch((error: unknown) => {
    // With the same key the link would be the same, which may have expired.
    if (error instanceof ApiError) idempotencyKey = crypto.randomUUID();
    throw error;
  }));
  return { ...enclosure, bring };
}

function attach(files: Iterable<File>): void {
  addFiles([...files].map(picked));
  bringFiles();
}

/** Brings what has neither arrived nor failed. */
function bringFiles(): void {
  for (const { key, bring, uploadId, problem } of composition.value?.files ?? []) if (bring && !uploadId && !problem) void bringFile(key, bring);
}

/** All that failed, for it failed together where it hangs on one message. */
function bringAgain(): void {
  set({ files: (composition.value?.files ?? []).map((file) => (file.bring ? { ...file, problem: undefined } : file)) });
  bringFiles();
}

async function bringFile(key: string, bring: () => Promise<string>): Promise<void> {
  const update = (change: Partial<Enclosure>) =>
    set({ files: (composition.value?.files ?? []).map((file) => (file.key === key ? { ...file, ...change } : file)) });
  try {
    update({ uploadId: await bring() });
  } catch (error) {
    update({ problem: explain(error) });
  }
}

function discard(): void {
  const thrown = composition.value;
  composition.value = undefined;
  if (thrown && hasContent(thrown)) say("Thrown away.", { seconds: UNDO_SECONDS, undo: () => restore(thrown) });
}

/** What is being written meanwhile is thrown away for it, which can be undone as well. */
function restore(thrown: Composition): void {
  discard();
  composition.value = thrown;
  bringFiles();
}

/** What the service found wrong, with the names that the form has. */
function faults(error: unknown): string {
  if (!(error instanceof ApiError) || error.details.length === 0) return explain(error);
  const labels: Record<string, string> = { to: "To", cc: "Copies to", bcc: "Hidden copies to", subject: "Subject", attachments: "Files" };
  return error.details.map(({ field, message }) => `${labels[/^\w+/.exec(field)?.[0] ?? ""] ?? field}: ${message}`).join(". ");
}

const SENT_BEFORE = "It was sent as it was before your last changes: look into the outbox. Send again to send this one too.";

async function send(draft: Composition): Promise<string | undefined> {
  const [to, cc, bcc] = [people(draft.to), people(draft.cc), people(draft.bcc)];
  if (to.length + cc.length + bcc.length === 0) return "To whom? Enter an address.";
  const wrong = [...to, ...cc, ...bcc].find(({ address }) => !/^\S+@\S+$/.test(address));
  if (wrong) return `“${wrong.address}” is no address. It needs an @ with a name on either side.`;
  if (draft.files.some(({ problem }) => problem)) return "A file could not be attached: try it again, or take it away.";
  if (draft.files.some(({ uploadId }) => !uploadId)) return "A file is still on its way: wait a moment.";
  const { files, key, idempotencyKey, tried, ...rest } = draft;
  const attachments = files.flatMap(({ uploadId }) => (uploadId ? [{ uploadId }] : []));
  const message = { ...rest, to, cc, bcc, attachments };
  const what = JSON.stringify(message);
  const sendAt = tried?.what === what ? tried.sendAt : Date.now() + UNDO_SECONDS * 1000;
  const isCurrent = () => composition.value?.key === key;
  try {
    const { id } = await api.sendMessage({ ...message, sendAt }, { idempotencyKey });
    if (isCurrent()) composition.value = undefined;
    void attempt(loadOutbox);
    tellOfSending(sendAt, () => void takeBack(id, draft));
    return undefined;
  } catch (error) {
    const wasSent = error instanceof ApiError && error.kind === "Unprocessable";
    if (wasSent) void attempt(loadOutbox);
    const problem = wasSent ? SENT_BEFORE : faults(error);
    // Where another message has taken its place there is no form that would tell.
    if (isCurrent()) set(afterwards(error, { what, sendAt }));
    else complain(problem);
    return problem;
  }
}

/** What to send with next time: the same, lest it is sent twice, but for what the service has kept another answer to. */
function afterwards(error: unknown, tried: Try): Partial<Composition> {
  const { kind, status, message } = error instanceof ApiError ? error : {};
  // Of two at once one is told that the other is at work.
  const isAtWork = kind === "Conflict" && message?.includes("Idempotency-Key");
  if (kind === undefined || kind === "Unexpected answer" || (status ?? 0) >= 500 || isAtWork) return { tried };
  const isKept = kind === "Conflict" || kind === "Unprocessable";
  // Any other refusal says nothing of a try before.
  return isKept ? { tried: undefined, idempotencyKey: crypto.randomUUID() } : {};
}

/** For as long as it waits it can be taken back; the service may have asked for a pause before it took it. */
function tellOfSending(sendAt: number, undo: () => void): void {
  const left = (sendAt - Date.now()) / 1000;
  if (left < 2) say("It is being sent.");
  else say(`It is sent in ${Math.round(left)} seconds.`, { seconds: left - 1, undo });
  setTimeout(hurry, Math.max(0, left) * 1000 + 1000);
}

async function takeBack(id: string, draft: Composition): Promise<void> {
  try {
    await api.cancelOutgoing(id);
    composition.value ??= { ...draft, ...newKeys(), tried: undefined };
    void loadOutbox();
  } catch (error) {
    const isLate = error instanceof ApiError && error.kind === "Conflict";
    complain(isLate ? "Too late: it is on its way." : explain(error));
    go({ kind: "outbox", id: "" });
  }
}

export function Compose() {
  const draft = composition.value;
  return draft ? <Form key={draft.key} draft={draft} /> : null;
}

function Form({ draft }: { draft: Composition }) {
  const form = useRef<HTMLFormElement>(null);
  const files = useRef<HTMLInputElement>(null);
  const withCopies = useSignal(!!(draft.cc || draft.bcc));
  const { doing, problem, run } = useTask();
  useEffect(() => {
    const first = form.current?.querySelector<HTMLElement>(draft.to ? "textarea" : "[name=to]");
    first?.focus();
    // The answer stands above what it answers.
    if (first instanceof HTMLTextAreaElement) first.setSelectionRange(0, 0);
  }, []);
  const isBusy = !!doing.value;
  const submit = () => {
    // A button that is disabled leaves the focus to the page, whose shortcuts would get what is typed on.
    if (!document.activeElement?.matches("input, textarea")) form.current?.focus();
    return run("Sending …", () => send(draft));
  };
  const field = (name: Input, label: string) => (
    <label class="field">
      <span>{label}</span>
      <input
        name={name} value={draft[name]} autocomplete="off" spellcheck={name === "subject"} readOnly={isBusy}
        onInput={({ currentTarget }) => set({ [name]: currentTarget.value })}
      />
    </label>
  );
  return (
    <section
      class="compose" aria-label="Write a message" onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => (event.preventDefault(), !isBusy && attach(event.dataTransfer?.files ?? []))}
    >
      <form
        ref={form} tabIndex={-1} onSubmit={(event) => (event.preventDefault(), void submit())} onInput={() => (problem.value = "")}
        onKeyDown={({ ctrlKey, metaKey, key }) => (ctrlKey || metaKey) && key === "Enter" && void submit()}
      >
        <header>
          <h2>{draft.replyToId ? "Reply" : draft.forwardOfId ? "Forward" : "New message"}</h2>
          {!withCopies.value && <button type="button" class="quiet" onClick={() => (withCopies.value = true)}>Copies</button>}
          <IconButton name="close" label="Throw away" disabled={isBusy} onClick={discard} />
        </header>
        <label class="field">
          <span>From</span>
          <select value={draft.accountId} disabled={isBusy} onChange={({ currentTarget }) => set({ accountId: currentTarget.value })}>
            {sending().map(({ id, accountName, emailAddress }) => <option key={id} value={id}>{`${accountName} <${emailAddress}>`}</option>)}
          </select>
        </label>
        {field("to", "To")}
        {withCopies.value && field("cc", "Copies to")}
        {withCopies.value && field("bcc", "Hidden copies to")}
        {field("subject", "Subject")}
        <textarea
          name="text" aria-label="Text" value={draft.text} readOnly={isBusy}
          onInput={({ currentTarget }) => set({ text: currentTarget.value })}
        />
        <ul class="files" aria-label="Files">
          {draft.files.map(({ key, name, size: bytes, bring, uploadId, problem }) => (
            <li key={key} class="file">
              {name}
              <span class="hint" role="status">{problem ?? (uploadId ? bytes !== undefined && size(bytes) : "On its way …")}</span>
              {problem && bring && <button type="button" onClick={bringAgain}>Try again</button>}
              <IconButton
                name="close" label={`Take ${name} away`} disabled={isBusy}
                onClick={() => set({ files: draft.files.filter((file) => file.key !== key) })}
              />
            </li>
          ))}
        </ul>
        {problem.value && <p class="problem" role="alert">{problem.value}</p>}
        <footer>
          <button type="submit" class="primary" disabled={isBusy} title="Ctrl+Enter">{doing.value || "Send"}</button>
          <input
            ref={files} type="file" multiple hidden aria-label="Files to attach"
            onChange={({ currentTarget }) => (attach(currentTarget.files ?? []), (currentTarget.value = ""))}
          />
          <IconButton name="clip" label="Attach files" disabled={isBusy} onClick={() => files.current?.click()} />
        </footer>
      </form>
    </section>
  );
}

/** What could not be sent, to be changed and sent anew. */
export function writeAgain({ accountId, to, cc, bcc, subject, text, attachments }: Outgoing): void {
  const people = { to: mailboxes(to), cc: mailboxes(cc), bcc: mailboxes(bcc) };
  const files = attachments.map(({ uploadId, filename }) => ({ key: uploadId, name: filename ?? "File", uploadId }));
  begin({ ...people, ...(accountId && { accountId }), subject: subject ?? "", text: text ?? "", files });
}
