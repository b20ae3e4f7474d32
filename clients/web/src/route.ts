// Where the reader is, in the address after `#`, so that the browser's own ways back work.

import { computed, signal } from "@preact/signals";
import type { MessageFilter } from "email-service-client";

const KINDS = ["inbox", "flagged", "folder", "search", "outbox"] as const;

export interface View {
  kind: (typeof KINDS)[number];
  /** The folder's id, or what is searched for. */
  id: string;
}

interface Route extends View {
  message: string | undefined;
}

/** `#/folder/ID/m/MESSAGE`; what is no such thing is the inbox. */
function parse(hash: string): Route {
  const [kind, id = "", , message] = hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  const known = KINDS.find((known) => known === kind);
  return known ? { kind: known, id, message: message || undefined } : { kind: "inbox", id: "", message: undefined };
}

export const route = signal<Route>(parse(location.hash));
addEventListener("hashchange", () => (route.value = parse(location.hash)));

/** Changes when another list is to be seen, and not when another message is. */
export const viewKey = computed(() => href(route.value));

export function href({ kind, id }: View, message?: string): string {
  const view = `#/${kind}/${encodeURIComponent(id)}`;
  return message ? `${view}/m/${encodeURIComponent(message)}` : view;
}

export function go(view: View, message?: string): void {
  location.hash = href(view, message);
}

/** Which messages a view lists; the outbox has entries of another kind. */
export function filterOf({ kind, id }: View): MessageFilter | undefined {
  const filters: Record<View["kind"], MessageFilter | undefined> = {
    inbox: { role: "inbox" }, flagged: { isFlagged: true }, folder: { folderId: id }, search: { q: id }, outbox: undefined,
  };
  return filters[kind];
}
