// What asks for an answer before anything else: one at a time, which Escape closes.

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";

import { IconButton } from "./icons";

const asked = signal<{ title: string; content: ComponentChildren } | undefined>(undefined);

export const ask = (title: string, content: ComponentChildren) => (asked.value = { title, content });
/** One that was closed is gone a moment later, and has the focus till then; what is pressed then is for the page. */
export const isAsking = () => document.querySelector("dialog[open]") !== null;
/** The focus goes back to where it was. */
export const closeDialog = () => document.querySelector("dialog")?.close();

export function Dialog() {
  const element = useRef<HTMLDialogElement>(null);
  useLayoutEffect(() => element.current?.showModal(), [asked.value]);
  if (!asked.value) return null;
  const { title, content } = asked.value;
  // That it was closed is told a moment later, when it may be open again.
  return (
    <dialog ref={element} aria-label={title} onClose={({ currentTarget }) => !currentTarget.open && (asked.value = undefined)}>
      <header><h2>{title}</h2><IconButton name="close" label="Close" keys="Escape" onClick={closeDialog} /></header>
      {content}
    </dialog>
  );
}
