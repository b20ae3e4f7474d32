// What the page knows of accounts, folders and messages, kept up to date by `GET /api/changes`, and what is done to them.

import { batch, computed, signal } from "@preact/signals";
import {
  ApiError, type Account, type Change, type Folder, type Message, type MessageChange, type MessageFilter, type MessageList,
  type MessageOptions, type OpenedMessage, type Outgoing, type Sync,
} from "email-service-client";

import { api, explain } from "./api";
import { forgetPictures } from "./frame";
import { filterOf, go, route } from "./route";
import { attempt } from "./task";
import { complain, say, UNDO_SECONDS } from "./toasts";

/** Messages that are asked for at once while one scrolls, and when the newest are looked at again. */
const PAGE = 200;
const NEWEST = 50;
/** As many messages as one call changes. */
const BATCH = 200;
/** How long a change of ours may take to be told. */
const OWN_TIME = 30_000;

/** What becomes of messages. */
type Action = { set: MessageChange } | { delete: true };

/** What becomes of some of them. */
interface Step {
  of: readonly Message[];
  what: Action;
}

export const accounts = signal<readonly Account[]>([]);
/** By account, the inbox first. */
const folders = signal<ReadonlyMap<string, readonly Folder[]>>(new Map());
export const outbox = signal<readonly Outgoing[]>([]);
/** How far synchronisations are that somebody waits for, by account. */
export const syncs = signal<ReadonlyMap<string, Sync["progress"]>>(new Map());
/** Whether accounts and folders have been listed once. */
export const isReady = signal(false);

/** The messages of the view that have been loaded, newest first, and what is not shown of them: it is about to go. */
const loaded = signal<readonly Message[]>([]);
const hidden = signal<ReadonlySet<string>>(new Set());
export const messages = computed(() => loaded.value.filter(({ id }) => !hidden.value.has(id)));
export const isLoading = signal(false);
export const listProblem = signal("");
/** Null when all are loaded. */
export const cursor = signal<string | null | undefined>(undefined);
/** The message that the keyboard is at, and those that are marked to be dealt with together. */
export const activeId = signal<string | undefined>(undefined);
export const marked = signal<ReadonlySet<string>>(new Set());
/** Those of them that are still there. */
export const markedMessages = computed(() => messages.value.filter(({ id }) => marked.value.has(id)));

export const opened = signal<{ id: string; message?: OpenedMessage; problem?: string } | undefined>(undefined);
/** Whether the reader is about what is marked: it is, unless that is the open message and no other. */
export const isMarking = computed(() => markedMessages.value.some(({ id }) => id !== opened.value?.id));

/** Grows with each list, so that late answers for another one are dropped. */
let generation = 0;
let asked: MessageFilter | undefined;
/** Grows when rows are taken off: what was asked for before may still have them. */
let removals = 0;
/** Changes of flags that the page made itself and has shown already. */
const own = new Set<string>();

export const accountOf = (id: string) => accounts.value.find((account) => account.id === id);
export const foldersOf = (accountId: string) => folders.value.get(accountId) ?? [];
const allFolders = computed(() => [...folders.value.values()].flat());
export const folderOf = (id: string) => allFolders.value.find((folder) => folder.id === id);
export const unreadInInboxes = computed(() => allFolders.value.reduce((sum, { role, unread }) => sum + (role === "inbox" ? unread : 0), 0));

export async function loadAccounts(): Promise<void> {
  const all: Account[] = [];
  for await (const account of api.allAccounts()) all.push(account);
  all.sort((a, b) => a.createdAt - b.createdAt);
  const isNew = all.filter(({ id }) => !folders.value.has(id));
  const gone = accounts.value.filter(({ id }) => !all.some((account) => account.id === id));
  accounts.value = all;
  forget(new Set(gone.map(({ id }) => id)));
  await Promise.all(isNew.map(({ id }) => loadFolders(id)));
}

/** What an account takes with it is not named among the changes. */
function forget(gone: ReadonlySet<string>): void {
  if (gone.size === 0) return;
  folders.value = new Map([...folders.value].filter(([id]) => !gone.has(id)));
  const active = loaded.value.find(({ id }) => id === activeId.value) ?? opened.value?.message;
  if (active?.id === activeId.value && gone.has(active?.accountId ?? "")) activeId.value = undefined;
  takeOff(({ accountId }) => gone.has(accountId));
  for (const [id, { accountId }] of read) if (gone.has(accountId)) read.delete(id);
  forgetPictures(gone);
  marked.value = new Set();
  if (opened.value?.message && gone.has(opened.value.message.accountId)) go(route.value);
}

async function loadFolders(accountId: string): Promise<void> {
  const { folders: list } = await api.listFolders(accountId);
  list.sort((a, b) => Number(b.role === "inbox") - Number(a.role === "inbox"));
  folders.value = new Map(folders.value).set(accountId, list);
}

export async function loadOutbox(): Promise<void> {
  const before = new Map(outbox.value.map(({ id, status }) => [id, status]));
  outbox.value = (await api.listOutbox({ limit: 50 })).entries;
  for (const { id, status, subject, response } of outbox.value) {
    const isNew = before.has(id) && before.get(id) !== status;
    if (isNew && status === "sent") say(`Sent: ${subject || "(no subject)"}`);
    if (isNew && ["rejected", "failed", "uncertain"].includes(status)) complain(`Not sent: ${subject}. ${response ?? ""} Look into the outbox.`);
  }
}

/** Begins the list of the view anew. */
export async function openList(): Promise<void> {
  generation += 1;
  asked = filterOf(route.value);
  batch(() => {
    loaded.value = [];
    marked.value = new Set();
    activeId.value = undefined;
    cursor.value = undefined;
    isLoading.value = false;
    listProblem.value = "";
  });
  await loadMore();
}

/** Rows that are gone for good. */
function takeOff(isGone: (message: Message) => boolean): void {
  removals += 1;
  loaded.value = loaded.value.filter((message) => !isGone(message));
}

/** A page of the list, asked for anew where rows were taken off meanwhile, which would be back with it. */
async function listPage(options: MessageOptions): Promise<MessageList> {
  const before = removals;
  const page = await api.listMessages(options);
  return before === removals ? page : listPage(options);
}

/** The next page, unless one is on its way or there is none. */
export async function loadMore(): Promise<void> {
  if (!asked || isLoading.value || cursor.value === null) return;
  const mine = generation;
  isLoading.value = true;
  listProblem.value = "";
  try {
    const page = await listPage({ ...asked, limit: PAGE, ...(cursor.value && { cursor: cursor.value }) });
    if (mine !== generation) return;
    batch(() => {
      const known = new Set(loaded.value.map(({ id }) => id));
      loaded.value = [...loaded.value, ...page.messages.filter(({ id }) => !known.has(id))];
      cursor.value = page.nextCursor;
      isLoading.value = false;
    });
  } catch (error) {
    if (mine !== generation) return;
    isLoading.value = false;
    listProblem.value = explain(error);
  }
}

/** Puts what is there now in the place of what was loaded of a time. */
function replace(fresh: readonly Message[], from: number, to: number): void {
  const ids = new Set(fresh.map(({ id }) => id));
  const kept = loaded.value.filter(({ id, receivedAt }) => !ids.has(id) && !(receivedAt >= from && receivedAt <= to));
  loaded.value = [...fresh, ...kept].sort((a, b) => b.receivedAt - a.receivedAt);
}

/** Looks at the newest again, and at those further down that have changed. */
async function refreshList(changed: ReadonlySet<string>): Promise<void> {
  const filter = filterOf(route.value);
  if (!filter || cursor.value === undefined) return;
  const mine = generation;
  const { messages: newest, nextCursor } = await listPage({ ...filter, limit: NEWEST });
  if (mine !== generation) return;
  const seen = new Set(newest.map(({ id }) => id));
  const border = nextCursor === null ? Number.NEGATIVE_INFINITY : (newest.at(-1)?.receivedAt ?? 0) + 1;
  replace(newest, border, Number.POSITIVE_INFINITY);
  if (nextCursor === null) return;
  const times = loaded.value.filter(({ id }) => changed.has(id) && !seen.has(id)).map(({ receivedAt }) => receivedAt);
  if (times.length > 0) {
    const [from, to] = [times.at(-1) ?? 0, times[0] ?? 0];
    const page = await listPage({ ...filter, after: from, before: to + 1, limit: PAGE });
    const covered = page.nextCursor === null ? from : (page.messages.at(-1)?.receivedAt ?? to) + 1;
    if (mine === generation) replace(page.messages, covered, to);
  }
  const last = loaded.value.at(-1);
  if (cursor.value === null && last) {
    // All were loaded, and a synchronisation that goes backwards may have brought older ones.
    asked = { ...filter, before: last.receivedAt + 1 };
    cursor.value = undefined;
    await loadMore();
  }
}

/** Opened messages, so that going back and forth asks nobody. */
const read = new Map<string, OpenedMessage>();

export async function openMessage(id: string | undefined): Promise<void> {
  if (!id) {
    opened.value = undefined;
    return;
  }
  activeId.value = id;
  const known = read.get(id);
  opened.value = { id, ...(known && { message: known }) };
  try {
    const message = known ?? (await api.getMessage(id));
    read.set(id, message);
    if (read.size > 50) read.delete(read.keys().next().value ?? "");
    if (opened.value?.id !== id) return;
    opened.value = { id, message };
    const listed = loaded.value.find((message) => message.id === id) ?? message;
    if (!listed.isRead) await change([listed], { isRead: true });
  } catch (error) {
    const isGone = error instanceof ApiError && error.kind === "Not found";
    const problem = isGone ? "This message is not there any more: it was moved or deleted a moment ago." : explain(error);
    if (opened.value?.id === id) opened.value = { id, problem };
  }
}

/** What a key is about: the marked messages, else the one that the keyboard is at or, from elsewhere, the opened one. */
export function targets(): readonly Message[] {
  if (markedMessages.value.length > 0) return markedMessages.value;
  const active = messages.value.find(({ id }) => id === activeId.value);
  return active ? [active] : shown();
}

/** What the reader shows: the marked messages, else the opened one, as the list has it where it does. */
export function shown(): readonly Message[] {
  if (isMarking.value) return markedMessages.value;
  const { id, message } = opened.value ?? {};
  const found = messages.value.find((listed) => listed.id === id) ?? message;
  return found ? [found] : [];
}

/** Shows other flags at once, and takes them back where the mail server refuses. */
export async function change(changed: readonly Message[], set: Pick<MessageChange, "isRead" | "isFlagged">): Promise<void> {
  showFlags(changed.map((message) => ({ ...message, ...set })));
  const turned = set.isRead === undefined ? [] : changed.filter(({ isRead }) => isRead !== set.isRead);
  countUnread(turned, set.isRead ? -1 : 1);
  const failures = await carryOut([{ of: changed, what: { set } }]);
  if (failures.size === 0) return;
  showFlags(changed.filter(({ id }) => failures.has(id)));
  countUnread(turned.filter(({ id }) => failures.has(id)), set.isRead ? 1 : -1);
}

/** In the list, and where one of them is open. */
function showFlags(of: readonly Message[]): void {
  const flags = new Map(of.map(({ id, isRead, isFlagged }) => [id, { isRead, isFlagged }]));
  loaded.value = loaded.value.map((message) => (flags.has(message.id) ? { ...message, ...flags.get(message.id) } : message));
  const current = opened.value?.message;
  if (!current || !flags.has(current.id)) return;
  const message = { ...current, ...flags.get(current.id) };
  read.set(message.id, message);
  opened.value = { id: message.id, message };
}

/** The server's own counts come a moment later. */
function countUnread(changed: readonly Message[], by: number): void {
  const next = new Map(folders.value);
  for (const { accountId, folderId } of changed) {
    const list = next.get(accountId) ?? [];
    next.set(accountId, list.map((folder) => (folder.id === folderId ? { ...folder, unread: Math.max(0, folder.unread + by) } : folder)));
  }
  folders.value = next;
}

/** All steps at once, for the page may be about to go. Tells why it failed, and returns of which messages. */
async function carryOut(steps: readonly Step[]): Promise<ReadonlyMap<string, string>> {
  const failures = new Map((await Promise.all(steps.map(take))).flat());
  const [problem] = failures.values();
  if (problem !== undefined) complain(problem);
  return failures;
}

/** Returns which messages failed, and why. */
async function take({ of, what }: Step): Promise<[id: string, problem: string][]> {
  const failures: [string, string][] = [];
  const isOfFlags = "set" in what && what.set.folderId === undefined;
  for (let start = 0; start < of.length; start += BATCH) {
    const ids = of.slice(start, start + BATCH).map(({ id }) => id);
    // What has moved is to be listed where it is now, though its flags were changed a moment before.
    ids.forEach((id) => (isOfFlags ? own.add(id) : own.delete(id)));
    setTimeout(() => ids.forEach((id) => own.delete(id)), OWN_TIME);
    try {
      const { results } = await api.batchMessages({ ids, ...what });
      // What is gone already needs nothing more.
      for (const { id, success, code, message } of results) if (!success && code !== "notFound") failures.push([id, message ?? ""]);
    } catch (error) {
      for (const id of ids) failures.push([id, explain(error)]);
    }
  }
  for (const [id] of failures) own.delete(id);
  return failures;
}

/** Takes messages off the list at once, and does it when nobody has taken it back for some seconds. */
function later(text: string, steps: readonly Step[]): void {
  const gone = steps.flatMap(({ of }) => of);
  const ids = new Set(gone.map(({ id }) => id));
  const next = neighbour(ids);
  batch(() => {
    hidden.value = new Set([...hidden.value, ...ids]);
    marked.value = new Set();
    activeId.value = next?.id;
    if (ids.has(route.value.message ?? "")) go(route.value);
  });
  const show = () => (hidden.value = new Set([...hidden.value].filter((id) => !ids.has(id))));
  const undo = () => {
    show();
    activeId.value = gone[0]?.id;
  };
  const end = async () => {
    const failures = await carryOut(steps);
    // What was read of them says where they were.
    for (const id of ids) read.delete(id);
    batch(() => {
      takeOff(({ id }) => ids.has(id) && !failures.has(id));
      show();
    });
    hurry();
  };
  say(text, { seconds: UNDO_SECONDS, undo, end: () => void end() });
}

/** The message that the keyboard is at when these are gone: the next one, else the one before. */
function neighbour(gone: ReadonlySet<string>): Message | undefined {
  const list = messages.value;
  const place = list.findIndex(({ id }) => gone.has(id));
  return place < 0 ? undefined : (list.slice(place).find(({ id }) => !gone.has(id)) ?? list[place - 1]);
}

const count = (list: readonly Message[]) => (list.length === 1 ? "Message" : `${list.length} messages`);

/** The folder that a message is deleted into; none where it lies there already, or its mailbox has none. */
function trashFor({ accountId, folderId }: Message): string | undefined {
  const trash = foldersOf(accountId).find(({ role }) => role === "trash");
  return trash?.id === folderId ? undefined : trash?.id;
}

/**
 * Into the trash by its name: when an answer got lost and it is done once more, it stays there. To delete what lies there is
 * for good, so only what is known to lie there is deleted.
 */
export function remove(gone: readonly Message[]): void {
  if (gone.length === 0) return;
  const forGood = gone.filter(({ folderId }) => folderOf(folderId)?.role === "trash").length;
  const part = forGood > 0 ? `deleted, ${forGood} of them for good.` : "moved to the trash.";
  const steps = [...new Set(gone.map(trashFor))].map((trash): Step => ({
    of: gone.filter((message) => trashFor(message) === trash),
    what: trash === undefined ? { delete: true } : { set: { folderId: trash } },
  }));
  later(`${count(gone)} ${forGood === gone.length ? "deleted for good." : part}`, steps);
}

export function moveTo(gone: readonly Message[], folder: Folder): void {
  if (gone.length > 0) later(`${count(gone)} moved to ${folder.name}.`, [{ of: gone, what: { set: { folderId: folder.id } } }]);
}

const wait = (milliseconds: number) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Asks the mail server for what is new, and shows how far that is. */
export async function getMail({ id }: Account): Promise<void> {
  if (syncs.value.has(id)) return;
  syncs.value = new Map(syncs.value).set(id, null);
  hurry();
  await attempt(async () => {
    await api.requestSync(id);
    // Sparingly: a user has so many requests in a minute, and the list needs some as well.
    for (let pause = 2_000; ; pause = Math.min(6_000, pause + 2_000)) {
      await wait(pause);
      const { status, progress } = await api.getSync(id);
      if (status === "idle") break;
      syncs.value = new Map(syncs.value).set(id, progress);
    }
    await loadAccounts();
  });
  syncs.value = new Map([...syncs.value].filter(([other]) => other !== id));
  hurry();
}

/** Of all but those that need a password first, which is told beside the account. */
export function getAllMail(): void {
  const able = accounts.value.filter(({ state }) => state === "new" || state === "connected" || state === "connectError");
  for (const account of able) void getMail(account);
}

let since: string | undefined;
let pause = new AbortController();

/** Asks for changes at once: something has just been done. */
export function hurry(): void {
  pause.abort();
}

/** For as long as the page is there. */
export async function follow(): Promise<never> {
  document.addEventListener("visibilitychange", hurry);
  for (;;) {
    pause = new AbortController();
    try {
      // What a synchronisation brings comes in many parts.
      const next = syncs.value.size > 0 ? 10_000 : 4_000;
      const options = { pause: next, longestPause: 30_000, signal: pause.signal, ...(since !== undefined && { since }) };
      for await (const { changes, cursor } of api.followChanges(options)) {
        if (since === undefined) await loadAll();
        await apply(changes);
        since = cursor;
      }
    } catch (error) {
      if (error instanceof ApiError && error.kind === "Gone") since = undefined;
      else if (!pause.signal.aborted) {
        complain(explain(error));
        await wait(10_000);
      }
      await untilVisible();
      // What has been asked for a moment ago needs that moment.
      await wait(700);
    }
  }
}

/** A page that nobody looks at asks nobody. */
async function untilVisible(): Promise<void> {
  while (document.hidden) await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}

async function loadAll(): Promise<void> {
  await loadAccounts();
  isReady.value = true;
  await Promise.all([loadOutbox(), refreshList(new Set())]);
}

async function apply(changes: readonly Change[]): Promise<void> {
  const of = (kind: Change["type"]) => changes.filter(({ type }) => type === kind);
  const foreign = of("message").filter(({ id }) => !own.delete(id));
  const gone = new Set(foreign.filter(({ change }) => change === "destroyed").map(({ id }) => id));
  if (gone.size > 0) takeOff(({ id }) => gone.has(id));
  if (of("account").length > 0) await loadAccounts();
  const changed = new Set(of("folder").map(({ accountId }) => accountId).filter((id) => accountOf(id)));
  await Promise.all([...changed].map(loadFolders));
  if (of("outbox").length > 0) await loadOutbox();
  if (foreign.some(({ id }) => !gone.has(id))) await refreshList(new Set(foreign.map(({ id }) => id)));
}
