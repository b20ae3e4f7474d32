// Dates, sizes, people and states, in words.

import type { Account, Folder, Outgoing } from "email-service-client";

interface Person {
  name?: string | null;
  address: string;
}

const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const date = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short", year: "numeric" });
const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "short" });

export function shortDate(at: number): string {
  const [then, now] = [new Date(at), new Date()];
  if (then.toDateString() === now.toDateString()) return time.format(then);
  return (then.getFullYear() === now.getFullYear() ? day : date).format(then);
}

export const longDate = (at: number) => moment.format(at);

export function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} bytes`;
  return bytes < 1_000_000 ? `${Math.round(bytes / 1000)} kB` : `${(bytes / 1_000_000).toFixed(1)} MB`;
}

export const nameOf = ({ name, address }: Person) => name || address;
export const names = (people: readonly Person[]) => people.map(nameOf).join(", ");
export const mailboxes = (people: readonly Person[]) =>
  people.map(({ name, address }) => (name && name !== address ? `${quoted(name)} <${address}>` : address)).join(", ");

const quoted = (name: string) => (/[",;<>@]/.test(name) ? `"${name.replace(/["\\]/g, "\\$&")}"` : name);

/** `Jane Doe <jane@example.com>, joe@example.com`, with commas or semicolons between them, as people write. */
export function people(text: string): Person[] {
  const parts = text.match(/(?:"(?:\\.|[^"\\])*"|[^,;"])+/g) ?? [];
  return parts.map((part) => part.trim()).filter(Boolean).map((part) => {
    const [, name, address] = /^(.*?)\s*<([^<>]*)>$/s.exec(part) ?? [];
    if (address === undefined) return { name: null, address: part };
    return { name: name?.replace(/^"(.*)"$/s, "$1").replace(/\\(.)/g, "$1").trim() || null, address: address.trim() };
  });
}

const ROLES: Record<NonNullable<Folder["role"]>, string> = {
  inbox: "Inbox", sent: "Sent", drafts: "Drafts", trash: "Trash", junk: "Junk", archive: "Archive", all: "All mail",
};

export const folderName = ({ role, name }: Folder) => (role ? ROLES[role] : name);

/** What is the matter with an account and what to do; nothing where it works. */
export function troubleOf({ state, authType }: Account): string {
  const isProviders = authType === "oauth2";
  return {
    new: "",
    connected: "",
    authenticationError: isProviders ? "The provider lets us in no longer: connect it again." : "The server refuses the password: enter it again.",
    credentialsMissing: "There is no password for it: enter it.",
    connectError: "The server cannot be reached. It is tried again by itself.",
  }[state];
}

/** What became of a message in the outbox, and what can be done about it. */
export function progressOf({ status, sendAt, nextAttemptAt, response, recipients }: Outgoing): string {
  const said = response ? ` The mail server says: ${response}` : "";
  const refused = recipients.filter((recipient) => recipient.status === "rejected").map(({ address }) => address);
  return {
    scheduled: sendAt && sendAt > Date.now() + 60_000 ? `Will be sent on ${longDate(sendAt)}.` : "Will be sent in a moment.",
    queued: nextAttemptAt ? `The mail server asks to wait. Tried again at ${shortDate(nextAttemptAt)}.${said}` : "Waits to be sent.",
    sending: "Is being sent.",
    sent: refused.length > 0 ? `Sent, but not to ${refused.join(", ")}: refused.${said}` : "Sent.",
    rejected: `Not sent: the mail server refused it for good. Change it and send it anew.${said}`,
    failed: `Not sent: it was tried and did not work. Try again when the cause is gone.${said}`,
    uncertain: "Perhaps sent: the connection broke at the last moment. Look into your sent mail; sending again may deliver it twice.",
    canceled: "Not sent: you took it back.",
  }[status];
}
