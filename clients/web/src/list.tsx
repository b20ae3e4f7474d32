// The list of messages. Only rows in sight are in the document, however many have been loaded.

import { useSignal } from "@preact/signals";
import type { Message } from "email-service-client";
import { useEffect, useRef } from "preact/hooks";

import { Icon } from "./icons";
import {
  activeId, change, cursor, folderOf, getAllMail, isLoading, isReady, listProblem, loadMore, marked, markedMessages, messages,
} from "./mail";
import { go, route } from "./route";
import { longDate, nameOf, names, shortDate } from "./words";

/** As `.row` has it. */
const ROW = 76;
/** Rows beyond either edge, for a fast hand. */
const MARGIN = 8;
/** How far from its end the next page is asked for. */
const AHEAD = 100;

export function List() {
  const box = useRef<HTMLDivElement>(null);
  const [top, height] = [useSignal(0), useSignal(800)];
  const list = messages.value;
  const first = Math.max(0, Math.floor(top.value / ROW) - MARGIN);
  const last = Math.min(list.length, Math.ceil((top.value + height.value) / ROW) + MARGIN);
  const active = list.findIndex(({ id }) => id === activeId.value);

  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => (height.value = entry?.contentRect.height || height.value));
    if (box.current) observer.observe(box.current);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (last > list.length - AHEAD && !listProblem.value) void loadMore();
  }, [last, list.length, cursor.value]);
  useEffect(() => {
    const { current } = box;
    if (!current || active < 0) return;
    if (active * ROW < current.scrollTop) current.scrollTop = active * ROW;
    else if ((active + 1) * ROW > current.scrollTop + current.clientHeight) current.scrollTop = (active + 1) * ROW - current.clientHeight;
  }, [active]);

  return (
    <div class="list" ref={box} onScroll={(event) => (top.value = event.currentTarget.scrollTop)}>
      <div
        id="messages" class="rows" role="listbox" aria-label="Messages" aria-multiselectable tabIndex={0} aria-busy={isLoading.value}
        aria-activedescendant={active >= first && active < last ? `row-${activeId.value}` : undefined}
        style={{ height: `${list.length * ROW}px` }}
        onFocus={() => (activeId.value ??= list[first]?.id)}
      >
        {list.slice(first, last).map((message, index) => (
          <Row key={message.id} message={message} place={first + index} count={cursor.value === null ? list.length : -1} />
        ))}
      </div>
      {isLoading.value && <p class="note" role="status">Loading …</p>}
      {listProblem.value && (
        <p class="note problem" role="alert">
          {listProblem.value} <button type="button" onClick={() => void loadMore()}>Try again</button>
        </p>
      )}
      {list.length === 0 && cursor.value === null && isReady.value && <Empty />}
    </div>
  );
}

function Empty() {
  const isSearch = route.value.kind === "search";
  return (
    <div class="empty">
      <Icon name={isSearch ? "search" : "inbox"} />
      <p>{isSearch ? "Nothing has this in its subject, people or first words. Try a part of a word." : "There is no message here."}</p>
      {!isSearch && <button type="button" onClick={getAllMail}>Look for new mail</button>}
    </div>
  );
}

function Row({ message, place, count }: { message: Message; place: number; count: number }) {
  const { id, from, to, subject, preview, receivedAt, isRead, isFlagged, isAnswered, hasAttachments } = message;
  const isOwn = ["sent", "drafts"].includes(folderOf(message.folderId)?.role ?? "");
  const who = isOwn ? `To ${names(to) || "nobody"}` : from[0] ? nameOf(from[0]) : "Unknown";
  const isMarked = marked.value.has(id);
  const states = [!isRead && "Unread", isFlagged && "Flagged", isAnswered && "Answered", hasAttachments && "Has attachments"];
  const label = [...states, who, subject || "No subject", longDate(receivedAt)].filter(Boolean).join(", ");
  const classes = ["row", !isRead && "unread", isMarked && "marked", id === route.value.message && "open", id === activeId.value && "active"];
  const choose = (event: MouseEvent) => {
    activeId.value = id;
    if (event.ctrlKey || event.metaKey) mark(id);
    else if (event.shiftKey) markTo(place);
    else open(id);
  };
  return (
    <div
      id={`row-${id}`} class={classes.filter(Boolean).join(" ")} style={{ transform: `translateY(${place * ROW}px)` }} onClick={choose}
      role="option" aria-label={label} aria-selected={isMarked || id === route.value.message} aria-posinset={place + 1} aria-setsize={count}
    >
      <span class="avatar" style={{ "--hue": hue(from[0]?.address ?? "") }} title="Mark (x)" onClick={(event) => (event.stopPropagation(), mark(id))}>
        {isMarked ? "✓" : ([...who.replace(/^To /, "")][0] ?? "?").toUpperCase()}
      </span>
      <span class="who">{who}</span>
      <span class="when">{hasAttachments && <Icon name="clip" />}{isAnswered && <Icon name="reply" />}{shortDate(receivedAt)}</span>
      <span class="subject">{subject || "(no subject)"}</span>
      <span class="star" title="Flag (s)" onClick={(event) => (event.stopPropagation(), void change([message], { isFlagged: !isFlagged }))}>
        <Icon name="star" filled={isFlagged} />
      </span>
      <span class="preview">{preview}</span>
    </div>
  );
}

/** The same colour for the same person. */
function hue(address: string): number {
  let sum = 0;
  for (const letter of address) sum = (sum * 31 + (letter.codePointAt(0) ?? 0)) % 360;
  return sum;
}

export function mark(id: string | undefined): void {
  if (!id) return;
  const next = new Set(marked.value);
  if (!next.delete(id)) next.add(id);
  marked.value = next;
}

/** Shows a message, and not what is marked, which is let go. */
export function open(id: string): void {
  marked.value = new Set();
  go(route.value, id);
}

/** Back, one step at a time: from what is marked, then from the open message. */
export function leave(): void {
  if (markedMessages.value.length > 0) marked.value = new Set();
  else go(route.value);
}

function markTo(place: number): void {
  const list = messages.value;
  const from = list.findIndex(({ id }) => marked.value.has(id));
  const [start, end] = from < 0 ? [place, place] : [Math.min(from, place), Math.max(from, place)];
  marked.value = new Set(list.slice(start, end + 1).map(({ id }) => id));
}

let opening: ReturnType<typeof setTimeout>;

/** Moves the keyboard's place in the list, and reads on where a message is open and none marked; not each one that a held key passes. */
export function step(by: number): void {
  const list = messages.value;
  const place = list.findIndex(({ id }) => id === activeId.value);
  activeId.value = list[Math.min(list.length - 1, Math.max(0, place + by))]?.id;
  clearTimeout(opening);
  if (route.value.message && markedMessages.value.length === 0) opening = setTimeout(() => go(route.value, activeId.value), 200);
}
