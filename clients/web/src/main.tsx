// The page: its parts, and its keys.

import { computed, effect, useSignal } from "@preact/signals";
import { type ComponentChildren, render } from "preact";
import { useEffect } from "preact/hooks";

import { AddAccount, addAccount, finishSignIn, showAccount } from "./account";
import { connect, explain, trouble } from "./api";
import { answer, Compose, forward, isWriting, write } from "./compose";
import { ask, Dialog, isAsking } from "./dialog";
import { Icon, IconButton, type IconName } from "./icons";
import { leave, List, mark, open, step } from "./list";
import {
  accounts, activeId, change, folderOf, follow, foldersOf, getAllMail, isReady, markedMessages, opened, openList, openMessage, outbox, remove,
  syncs, targets, unreadInInboxes,
} from "./mail";
import { Outbox } from "./outbox";
import { chooseFolder, markUnread, Reader } from "./reader";
import { go, href, route, type View, viewKey } from "./route";
import { endAll, toasts, undoLast } from "./toasts";
import { folderName, troubleOf } from "./words";

const KEYS: readonly (readonly [string, string])[] = [
  ["c", "write a message"], ["/", "search"], ["j or ↓, k or ↑", "next, previous"], ["Enter", "open"], ["Escape", "back"],
  ["x", "mark, for what comes next"], ["r, a, f", "reply, to all, forward"], ["s", "flag"], ["u", "unread"], ["m", "move"],
  ["# or Delete", "delete"], ["z", "undo"], ["g", "look for new mail"], ["?", "these keys"],
];

/** Keys that may be held: the others do something, and would do it to one message after the other. */
const STEPS: readonly string[] = ["j", "k", "ArrowDown", "ArrowUp"];

function App() {
  const isMenuOpen = useSignal(false);
  const { kind, message } = route.value;
  useEffect(() => void (isMenuOpen.value = false), [viewKey.value]);
  if (!isReady.value) return <Start><p role="status">{trouble.value || "Opening your mail …"}</p></Start>;
  if (accounts.value.length === 0) return <Start><h1>Welcome</h1><p>Add a mailbox, and read it here.</p><AddAccount /></Start>;
  const pane = kind !== "outbox" && (message || markedMessages.value.length > 1) ? "reading" : "listing";
  return (
    <div class={`app ${pane} ${kind}`}>
      <header class="bar">
        <span class="medium">
          <IconButton name="menu" label="Folders" pressed={isMenuOpen.value} onClick={() => (isMenuOpen.value = !isMenuOpen.value)} />
        </span>
        <Search />
        <IconButton name="refresh" label="Look for new mail" keys="g" onClick={getAllMail} />
        <IconButton name="theme" label="Dark or light" onClick={turnTheme} />
        <IconButton name="help" label="Keys" keys="?" onClick={showKeys} />
      </header>
      <nav class={isMenuOpen.value ? "open" : ""} aria-label="Folders"><Folders /></nav>
      <main>
        <h1 class="title">{titleOf(route.value)}</h1>
        {kind === "outbox" ? <Outbox /> : <List key={viewKey.value} />}
      </main>
      {kind !== "outbox" && <Reader />}
      {trouble.value && <p class="trouble" role="status">{trouble.value}</p>}
      <Compose />
      <Toasts />
      <Dialog />
    </div>
  );
}

function Start({ children }: { children: ComponentChildren }) {
  return <><main class="start">{children}</main><Toasts /></>;
}

function titleOf({ kind, id }: View): string {
  const folder = folderOf(id);
  return { inbox: "All inboxes", flagged: "Flagged", search: `“${id}”`, outbox: "Outbox", folder: folder ? folderName(folder) : "Folder" }[kind];
}

function Search() {
  const text = useSignal(route.value.kind === "search" ? route.value.id : "");
  const search = (event: Event) => {
    event.preventDefault();
    go(text.value.trim() ? { kind: "search", id: text.value.trim() } : { kind: "inbox", id: "" });
  };
  return (
    <form role="search" onSubmit={search}>
      <Icon name="search" />
      <input
        id="search" type="search" aria-label="Search mail" placeholder="Search people, subjects, first words" maxLength={200} value={text}
        onInput={({ currentTarget }) => (text.value = currentTarget.value)}
      />
    </form>
  );
}

function Folders() {
  const waiting = outbox.value.filter(({ status }) => ["scheduled", "queued", "sending"].includes(status)).length;
  return (
    <>
      <button type="button" class="primary" onClick={write}><Icon name="write" /> Write</button>
      <ul>
        <Place view={{ kind: "inbox", id: "" }} icon="inbox" count={unreadInInboxes.value} />
        <Place view={{ kind: "flagged", id: "" }} icon="star" />
        <Place view={{ kind: "outbox", id: "" }} icon="outbox" count={waiting} />
      </ul>
      {accounts.value.map((account) => {
        const { id, accountName } = account;
        const { messagesDone, messagesTotal } = syncs.value.get(id) ?? {};
        const progress = messagesTotal ? `${messagesDone} of ${messagesTotal} messages …` : "Looking for mail …";
        return (
          <section key={id} aria-label={accountName}>
            <button type="button" class="account" title="Account" onClick={() => showAccount(account)}>
              <Icon name="person" /><span>{accountName}</span>
            </button>
            {syncs.value.has(id) && <p class="hint" role="status">{progress}</p>}
            {troubleOf(account) && <p class="problem">{troubleOf(account)} <button type="button" onClick={() => showAccount(account)}>Look</button></p>}
            <ul>
              {foldersOf(id).map((folder) => folder.isSelectable && (
                <Place key={folder.id} view={{ kind: "folder", id: folder.id }} icon={folder.role ?? "folder"} count={folder.unread} />
              ))}
            </ul>
          </section>
        );
      })}
      <button type="button" class="quiet" onClick={addAccount}><Icon name="plus" /> Add an account</button>
    </>
  );
}

function Place({ view, icon, count = 0 }: { view: View; icon: IconName; count?: number }) {
  const isHere = viewKey.value === href(view);
  const what = view.kind === "outbox" ? "waiting" : "unread";
  return (
    <li>
      <a href={href(view)} aria-current={isHere ? "page" : undefined}>
        <Icon name={icon} /><span>{titleOf(view)}</span>{count > 0 && <b class="count">{count}<span class="unseen"> {what}</span></b>}
      </a>
    </li>
  );
}

function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map(({ id, text, isError, undo, end }) => (
        <p key={id} class={isError ? "toast error" : "toast"}>
          <span>{text}</span>
          {undo && <button type="button" aria-keyshortcuts="z" onClick={undo}>Undo</button>}
          <IconButton name="close" label="Close" onClick={end} />
        </p>
      ))}
    </div>
  );
}

function showKeys(): void {
  const keys = KEYS.map(([key, what]) => <div key={key}><dt><kbd>{key}</kbd></dt><dd>{what}</dd></div>);
  ask("Keys", <dl class="keys">{keys}</dl>);
}

function turnTheme(): void {
  const isDark = localStorage.theme ? localStorage.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  localStorage.theme = isDark ? "light" : "dark";
  document.documentElement.style.colorScheme = localStorage.theme;
}

function onKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement;
  if (event.key === "Escape" && target.id === "search") target.blur();
  const isTyping = target.closest("input, textarea, select, .compose");
  if (isTyping || isAsking() || event.ctrlKey || event.metaKey || event.altKey || accounts.value.length === 0) return;
  if (event.repeat && !STEPS.includes(event.key)) return;
  const about = targets();
  const message = opened.value?.message;
  // Controls have their own use for it.
  const chosen = target.closest("a, button, summary, .body") ? undefined : activeId.value;
  const actions: Record<string, () => unknown> = {
    c: write, "/": () => document.getElementById("search")?.focus(), "?": showKeys, z: undoLast, g: getAllMail,
    j: () => step(1), k: () => step(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
    x: () => mark(activeId.value), s: () => change(about, { isFlagged: !about.every(({ isFlagged }) => isFlagged) }), u: () => markUnread(about),
    m: () => chooseFolder(about), "#": () => remove(about), Delete: () => remove(about),
    r: () => message && answer(message, false), a: () => message && answer(message, true), f: () => message && forward(message),
    Escape: leave,
    ...(chosen && { Enter: () => open(chosen) }),
  };
  const inText = target.closest(".body.text") && event.key.startsWith("Arrow");
  const action = inText ? undefined : actions[event.key];
  if (!action) return;
  event.preventDefault();
  void action();
}

async function start(): Promise<void> {
  if (localStorage.theme) document.documentElement.style.colorScheme = localStorage.theme as string;
  render(<App />, document.body);
  try {
    await connect();
  } catch (error) {
    trouble.value = explain(error);
    return;
  }
  await finishSignIn();
  viewKey.subscribe(() => void openList());
  computed(() => route.value.message).subscribe((id) => void openMessage(id));
  effect(() => void (document.title = unreadInInboxes.value > 0 ? `(${unreadInInboxes.value}) Mail` : "Mail"));
  addEventListener("keydown", onKey);
  // What can still be undone is done before the page may go.
  document.addEventListener("visibilitychange", () => document.hidden && endAll());
  addEventListener("pagehide", endAll);
  addEventListener("beforeunload", (event) => isWriting() && event.preventDefault());
  await follow();
}

void start();
