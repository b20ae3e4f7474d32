// Writing: new messages, answers, forwards; files that go along; and the seconds in which sending can be taken back.

import { signal, useSignal } from "@preact/signals";
import { ApiError, type Attachment, type OpenedMessage, type Outgoing, type OutgoingAttachment } from "email-service-client";
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
  name: string;
  /** What is to be uploaded; not there of what has been before. */
  file?: File;
  /** The announced file's id, once it is in the object store. */
  uploadId?: string;
  problem?: string;
  /** One upload, however often it is tried. */
  key: string;
}

/** What is typed. */
type Input = "to" | "cc" | "bcc" | "subject" | "text";

interface Composition extends Record<Input, string> {
  accountId: string;
  files: readonly Enclosure[];
  replyToId?: string;
  forwardOfId?: string;
  /** One message, however often it is sent before an answer comes. */
  key: string;
}

const composition = signal<Composition | undefined>(undefined);
const set = (change: Partial<Composition>) => composition.value && (composition.value = { ...composition.value, ...change });
const addFiles = (files: readonly Enclosure[]) => set({ files: [...(composition.value?.files ?? []), ...files] });
const hasContent = ({ to, text, files }: Composition) => !!(to || text.trim() || files.length > 0);
export const isWriting = () => !!composition.value && hasContent(composition.value);

/** The accounts that can send. */
const sending = () => accounts.value.filter(({ smtpHostname }) => smtpHostname);

function begin(first: Partial<Composition>): void {
  if (composition.value) return say("Send the message that you are writing, or throw it away, first.");
  const able = sending();
  const account = able.find(({ id }) => id === first.accountId) ?? able.find(({ state }) => state === "connected") ?? able[0];
  if (!account) return complain("None of your accounts can send: add one with a server for sending.");
  composition.value = { to: "", cc: "", bcc: "", subject: "", text: "", files: [], key: crypto.randomUUID(), ...first, accountId: account.id };
}

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
  });
  const files = message.attachments.filter((file) => !isShown(message, file));
  if (files.length > 0) void takeAlong(message, files);
}

/** What is in the object store already. */
const enclosed = ({ uploadId, filename }: OutgoingAttachment) => ({ name: filename ?? "File", uploadId, key: uploadId });

/** What hangs on a forwarded message. */
const takeAlong = (message: OpenedMessage, files: readonly Attachment[]) => attempt(async () => {
  const key = composition.value?.key;
  const copies = await api.copyAttachments(message.id, files.map(({ id }) => id));
  if (composition.value?.key === key) addFiles(copies.map(enclosed));
}, "Its files are not taken along: save them and attach them.");

function discard(): void {
  const thrown = composition.value;
  composition.value = undefined;
  if (thrown && hasContent(thrown)) say("Thrown away.", { seconds: UNDO_SECONDS, undo: () => (composition.value = thrown) });
}

function attach(files: Iterable<File>): void {
  for (const file of files) {
    const problem = file.size > MAX_FILE ? "It is larger than 25 MB, which no message takes." : undefined;
    const one: Enclosure = { name: file.name, file, key: crypto.randomUUID(), ...(problem && { problem }) };
    addFiles([one]);
    if (!problem) void upload(one);
  }
}

async function upload({ name, file, key }: Enclosure): Promise<void> {
  if (!file) return;
  const update = (change: Partial<Enclosure>) =>
    set({ files: (composition.value?.files ?? []).map((one) => (one.key === key ? { name, file, key, ...change } : one)) });
  update({});
  try {
    update({ uploadId: await api.upload(file, name, { idempotencyKey: key }) });
  } catch (error) {
    update({ problem: explain(error) });
  }
}

/** What the service found wrong, with the names that the form has. */
function faults(error: unknown): string {
  if (!(error instanceof ApiError) || error.details.length === 0) return explain(error);
  const labels: Record<string, string> = { to: "To", cc: "Copies to", bcc: "Hidden copies to", subject: "Subject", attachments: "Files" };
  return error.details.map(({ field, message }) => `${labels[/^\w+/.exec(field)?.[0] ?? ""] ?? field}: ${message}`).join(". ");
}

async function send(draft: Composition): Promise<string | undefined> {
  const [to, cc, bcc] = [people(draft.to), people(draft.cc), people(draft.bcc)];
  if (to.length + cc.length + bcc.length === 0) return "To whom? Enter an address.";
  const wrong = [...to, ...cc, ...bcc].find(({ address }) => !/^\S+@\S+$/.test(address));
  if (wrong) return `“${wrong.address}” is no address. It needs an @ with a name on either side.`;
  if (draft.files.some(({ problem }) => problem)) return "A file could not be attached: try it again, or take it away.";
  if (draft.files.some(({ uploadId }) => !uploadId)) return "A file is still on its way: wait a moment.";
  const { files, key: idempotencyKey, ...rest } = draft;
  const attachments = files.flatMap(({ uploadId }) => (uploadId ? [{ uploadId }] : []));
  const message = { ...rest, to, cc, bcc, attachments, sendAt: Date.now() + UNDO_SECONDS * 1000 };
  try {
    const { id } = await api.sendMessage(message, { idempotencyKey });
    composition.value = undefined;
    void loadOutbox();
    say(`It is sent in ${UNDO_SECONDS} seconds.`, { seconds: UNDO_SECONDS - 1, undo: () => void takeBack(id, draft), end: hurry });
    return undefined;
  } catch (error) {
    return faults(error);
  }
}

async function takeBack(id: string, draft: Composition): Promise<void> {
  try {
    await api.cancelOutgoing(id);
    composition.value ??= { ...draft, key: crypto.randomUUID() };
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
  const submit = () => run("Sending …", () => send(draft));
  const field = (name: Input, label: string) => (
    <label class="field">
      <span>{label}</span>
      <input
        name={name} value={draft[name]} autocomplete="off" spellcheck={name === "subject"}
        onInput={({ currentTarget }) => set({ [name]: currentTarget.value })}
      />
    </label>
  );
  return (
    <section
      class="compose" aria-label="Write a message" onDragOver={(event) => event.preventDefault()}
      onDrop={(event) => (event.preventDefault(), attach(event.dataTransfer?.files ?? []))}
    >
      <form
        ref={form} onSubmit={(event) => (event.preventDefault(), void submit())} onInput={() => (problem.value = "")}
        onKeyDown={({ ctrlKey, metaKey, key }) => (ctrlKey || metaKey) && key === "Enter" && void submit()}
      >
        <header>
          <h2>{draft.replyToId ? "Reply" : draft.forwardOfId ? "Forward" : "New message"}</h2>
          {!withCopies.value && <button type="button" class="quiet" onClick={() => (withCopies.value = true)}>Copies</button>}
          <IconButton name="close" label="Throw away" onClick={discard} />
        </header>
        <label class="field">
          <span>From</span>
          <select value={draft.accountId} onChange={({ currentTarget }) => set({ accountId: currentTarget.value })}>
            {sending().map(({ id, accountName, emailAddress }) => <option key={id} value={id}>{`${accountName} <${emailAddress}>`}</option>)}
          </select>
        </label>
        {field("to", "To")}
        {withCopies.value && field("cc", "Copies to")}
        {withCopies.value && field("bcc", "Hidden copies to")}
        {field("subject", "Subject")}
        <textarea name="text" aria-label="Text" value={draft.text} onInput={({ currentTarget }) => set({ text: currentTarget.value })} />
        <ul class="files" aria-label="Files">
          {draft.files.map((one) => (
            <li key={one.key} class="file">
              {one.name}
              <span class="hint" role="status">{one.problem ?? (one.uploadId ? one.file && size(one.file.size) : "On its way …")}</span>
              {one.problem && (one.file?.size ?? 0) <= MAX_FILE && <button type="button" onClick={() => void upload(one)}>Try again</button>}
              <IconButton name="close" label={`Take ${one.name} away`} onClick={() => set({ files: draft.files.filter(({ key }) => key !== one.key) })} />
            </li>
          ))}
        </ul>
        {problem.value && <p class="problem" role="alert">{problem.value}</p>}
        <footer>
          <button type="submit" class="primary" disabled={!!doing.value} title="Ctrl+Enter">{doing.value || "Send"}</button>
          <input
            ref={files} type="file" multiple hidden aria-label="Files to attach"
            onChange={({ currentTarget }) => (attach(currentTarget.files ?? []), (currentTarget.value = ""))}
          />
          <IconButton name="clip" label="Attach files" onClick={() => files.current?.click()} />
        </footer>
      </form>
    </section>
  );
}

/** What could not be sent, to be changed and sent anew. */
export function writeAgain({ accountId, to, cc, bcc, subject, text, attachments }: Outgoing): void {
  const people = { to: mailboxes(to), cc: mailboxes(cc), bcc: mailboxes(bcc) };
  begin({ ...people, ...(accountId && { accountId }), subject: subject ?? "", text: text ?? "", files: attachments.map(enclosed) });
}
