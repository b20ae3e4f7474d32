// What asks for an answer before anything else: one at a time, which Escape closes.

import { signal } from "@preact/signals";
import type { ComponentChildren, VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { IconButton } from "./icons";

export const dialog = signal<VNode | undefined>(undefined);
/** The focus goes back to where it was. */
export const closeDialog = () => document.querySelector("dialog")?.close();

export function Dialog({ title, children }: { title: string; children: ComponentChildren }) {
  const element = useRef<HTMLDialogElement>(null);
  useEffect(() => element.current?.showModal(), []);
  return (
    <dialog ref={element} aria-label={title} onClose={() => (dialog.value = undefined)}>
      <header><h2>{title}</h2><IconButton name="close" label="Close" keys="Escape" onClick={closeDialog} /></header>
      {children}
    </dialog>
  );
}
