// Where the reader is, in the address after `#`, so that the browser's own ways back work.

import { computed, signal } from "@preact/signals";
import type { MessageFilter } from "email-service-client";

export interface View {
  kind: "inbox" | "flagged" | "folder" | "search" | "outbox";
  /** The folder's id, or what is searched for. */
  id: string;
}

interface Route extends View {
  message: string | undefined;
}

const KINDS: readonly View["kind"][] = ["inbox", "flagged", "folder", "search", "outbox"];

/** `#/folder/ID/m/MESSAGE`; what is no such thing is the inbox. */
function parse(hash: string): Route {
  const [kind, id = "", , message] = hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  const known = KINDS.find((known) => known === kind);
  return known ? { kind: known, id, message: message || undefined } : { kind: "inbox", id: "", message: undefined };
}

export const route = signal<Route>(parse(location.hash));
addEventListener("hashchange", () => (route.value = parse(location.hash)));

/** Changes when another list is to be seen, and not when another message is. */
export const viewKey = computed(() => `${route.value.kind}/${route.value.id}`);

export function href({ kind, id }: View, message?: string): string {
  const view = `#/${kind}/${encodeURIComponent(id)}`;
  return message ? `${view}/m/${encodeURIComponent(message)}` : view;
}

export function go(view: View, message?: string): void {
  location.hash = href(view, message);
}

/** Which messages a view lists; the outbox has entries of another kind. */
export function filterOf({ kind, id }: View): MessageFilter | undefined {
  switch (kind) {
    case "inbox":
      return { role: "inbox" };
    case "flagged":
      return { isFlagged: true };
    case "folder":
      return { folderId: id };
    case "search":
      return { q: id };
    case "outbox":
      return undefined;
  }
}
