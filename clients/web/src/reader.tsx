// One message: who wrote it, what it says, what hangs on it, and what can be done with it.

import { useSignal } from "@preact/signals";
import type { Attachment, Folder, Message, OpenedMessage } from "email-service-client";
import { useEffect, useRef } from "preact/hooks";

import { api } from "./api";
import { answer, forward } from "./compose";
import { ask, closeDialog } from "./dialog";
import { frameDocument, isShown } from "./frame";
import { Icon, IconButton } from "./icons";
import { leave } from "./list";
import { change, foldersOf, isMarking, markedMessages, moveTo, opened, remove, shown } from "./mail";
import { go, route } from "./route";
import { attempt } from "./task";
import { complain, say } from "./toasts";
import { folderName, longDate, mailboxes, names, size } from "./words";

export function Reader() {
  const { message, problem, id } = opened.value ?? {};
  if (isMarking.value) {
    const { length } = markedMessages.value;
    const [what, whom] = length === 1 ? ["1 message is", "it"] : [`${length} messages are`, "all of them"];
    const text = `${what} marked. What you do now is done to ${whom}.`;
    return <article class="reader" aria-label="Marked messages"><Toolbar /><p class="empty">{text}</p></article>;
  }
  if (!id) {
    return (
      <article class="reader" aria-label="No message">
        <div class="empty"><Icon name="all" /><p>Choose a message to read it.</p><p class="hint">Press <kbd>?</kbd> for the keys.</p></div>
      </article>
    );
  }
  return (
    <article class="reader" aria-label={message ? message.subject || "No subject" : "Message"} aria-busy={!message && !problem}>
      <Toolbar />
      {problem && <p class="note problem" role="alert">{problem}</p>}
      {!message && !problem && <p class="note" role="status">Fetching the message …</p>}
      {message && <Opened key={id} message={message} />}
    </article>
  );
}

function Toolbar() {
  const about = shown();
  const { message } = opened.value ?? {};
  const isSingle = !isMarking.value && message;
  const areFlagged = about.length > 0 && about.every(({ isFlagged }) => isFlagged);
  return (
    <div class="toolbar" role="toolbar" aria-label="Message">
      <span class="narrow"><IconButton name="back" label="Back to the list" keys="Escape" onClick={leave} /></span>
      {isSingle && <IconButton name="reply" label="Reply" keys="r" onClick={() => answer(message, false)} />}
      {isSingle && <IconButton name="replyAll" label="Reply to all" keys="a" onClick={() => answer(message, true)} />}
      {isSingle && <IconButton name="forward" label="Forward" keys="f" onClick={() => forward(message)} />}
      <span class="space" />
      <IconButton name="star" label="Flag" keys="s" filled={areFlagged} pressed={areFlagged} onClick={() => void change(about, { isFlagged: !areFlagged })} />
      <IconButton name="unread" label="Mark as unread" keys="u" onClick={() => markUnread(about)} />
      <IconButton name="folder" label="Move to a folder" keys="m" onClick={() => chooseFolder(about)} />
      <IconButton name="trash" label="Delete" keys="Delete" onClick={() => remove(about)} />
    </div>
  );
}

export function markUnread(about: readonly Message[]): void {
  const areUnread = about.every(({ isRead }) => !isRead);
  void change(about, { isRead: areUnread });
  if (!areUnread) go(route.value);
}

function Opened({ message }: { message: OpenedMessage }) {
  const { subject, from, to, cc, receivedAt, sentAt, text, html, hasRemoteContent, isTruncated, attachments } = message;
  const withPictures = useSignal(false);
  const frame = useSignal("");
  useEffect(() => {
    let isCurrent = true;
    if (html) void frameDocument(message, withPictures.value).then((text) => isCurrent && (frame.value = text));
    return () => (isCurrent = false);
  }, [withPictures.value]);
  const heading = useRef<HTMLHeadingElement>(null);
  // Where the list has made room, what had the focus is gone.
  useEffect(() => void requestAnimationFrame(() => document.activeElement === document.body && heading.current?.focus()), []);
  const files = attachments.filter((file) => !isShown(message, file));
  return (
    <>
      <header class="head">
        <h1 ref={heading} tabIndex={-1}>{subject || "(no subject)"}</h1>
        <p><b>{names(from) || "Unknown"}</b> <span class="hint">{from[0]?.name && `<${from[0].address}>`}</span></p>
        <p class="hint">To {mailboxes(to) || "nobody"}{cc.length > 0 && `, copies to ${mailboxes(cc)}`}</p>
        <p class="hint"><time dateTime={new Date(sentAt ?? receivedAt).toISOString()}>{longDate(sentAt ?? receivedAt)}</time></p>
      </header>
      {hasRemoteContent && !withPictures.value && (
        <p class="note">
          Pictures from elsewhere are not loaded, so the sender does not learn that you read this.{" "}
          <button type="button" onClick={() => (withPictures.value = true)}>Show pictures</button>
        </p>
      )}
      {isTruncated && (
        <p class="note">
          It is too long to be shown whole. <button type="button" onClick={() => void saveRaw(message)}>Save it as it was sent</button>
        </p>
      )}
      {html ? (
        <iframe
          class="body" title="Message text" sandbox="allow-popups allow-popups-to-escape-sandbox" referrerpolicy="no-referrer"
          srcdoc={frame.value}
        />
      ) : (
        <div class="body text" tabIndex={0} role="document" aria-label="Message text">{linked(text ?? "This message has no text.")}</div>
      )}
      {files.length > 0 && (
        <ul class="files" aria-label="Attachments">
          {files.map((file) => <li key={file.id}><Saved messageId={message.id} file={file} /></li>)}
        </ul>
      )}
    </>
  );
}

/** Addresses in plain text, as links. */
function linked(text: string) {
  return text.split(/(https?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]])/).map((part, index) =>
    index % 2 === 1 ? <a href={part} target="_blank" rel="noopener noreferrer nofollow">{part}</a> : part,
  );
}

function Saved({ messageId, file }: { messageId: string; file: Attachment }) {
  const isBusy = useSignal(false);
  const fetchFile = async () => {
    isBusy.value = true;
    await attempt(async () => save(await api.getAttachment(messageId, file.id), file.filename), `${file.filename} was not saved.`);
    isBusy.value = false;
  };
  return (
    <button
      type="button" class="file" disabled={isBusy.value} aria-label={`Save ${file.filename}, ${size(file.size)}`} onClick={() => void fetchFile()}
    >
      <Icon name="clip" /> <span>{file.filename}</span> <span class="hint">{isBusy.value ? "Fetching …" : size(file.size)}</span>
    </button>
  );
}

function save(bytes: Blob, filename: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(bytes);
  link.download = filename;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

const saveRaw = ({ id, subject }: Message) => attempt(async () => save(await api.getRawMessage(id), `${subject || "message"}.eml`));

export function chooseFolder(about: readonly Message[]): void {
  if (about.length === 0) return say("Choose a message first.");
  if (new Set(about.map(({ accountId }) => accountId)).size > 1) return complain("Messages move within one account: mark those of one.");
  ask("Move to", <FolderChoice about={about} />);
}

function FolderChoice({ about }: { about: readonly Message[] }) {
  const here = new Set(about.map(({ folderId }) => folderId));
  const choices = foldersOf(about[0]?.accountId ?? "").filter(({ id, isSelectable }) => isSelectable && !(here.size === 1 && here.has(id)));
  if (choices.length === 0) return <p>This mailbox has no other folder.</p>;
  const choose = (folder: Folder) => {
    closeDialog();
    moveTo(about, folder);
  };
  return (
    <ul class="choices">
      {choices.map((folder) => (
        <li key={folder.id}>
          <button type="button" onClick={() => choose(folder)}><Icon name={folder.role ?? "folder"} /> {folderName(folder)}</button>
        </li>
      ))}
    </ul>
  );
}
