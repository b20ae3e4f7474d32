// Short messages at the edge of the page, some of which can be undone.

import { signal } from "@preact/signals";

interface Toast {
  id: number;
  text: string;
  isError: boolean;
  /** Takes back what it tells of. */
  undo: (() => void) | undefined;
  /** Whether something is done when it goes. */
  isWaiting: boolean;
  /** Closes it; what could be undone is done from then on. */
  end: () => void;
}

interface Options {
  isError?: boolean;
  seconds?: number;
  undo?: () => void;
  /** When it goes and was not undone. */
  end?: () => void;
}

/** How long something can be taken back. */
export const UNDO_SECONDS = 8;

export const toasts = signal<readonly Toast[]>([]);
let lastId = 0;

export function say(text: string, { isError = false, seconds = isError ? 12 : 5, undo, end }: Options = {}): void {
  const id = ++lastId;
  const timer = setTimeout(() => close(end), seconds * 1000);
  const close = (then?: () => void) => {
    if (!toasts.value.some((toast) => toast.id === id)) return;
    clearTimeout(timer);
    toasts.value = toasts.value.filter((toast) => toast.id !== id);
    then?.();
  };
  // Many of them hide the page, but what was promised to be undone can be.
  for (const { end } of toasts.value.filter(({ undo }) => !undo).slice(0, -3)) end();
  toasts.value = [...toasts.value, { id, text, isError, undo: undo && (() => close(undo)), isWaiting: !!end, end: () => close(end) }];
}

export const complain = (text: string) => say(text, { isError: true });

/** Takes back the last thing that can be. */
export function undoLast(): void {
  toasts.value.findLast(({ undo }) => undo)?.undo?.();
}

/** Does at once what waits to be done, for the page may go. */
export function endAll(): void {
  for (const { isWaiting, end } of toasts.value) if (isWaiting) end();
}
