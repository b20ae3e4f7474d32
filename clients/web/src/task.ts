// What takes a moment and may fail.

import { useSignal } from "@preact/signals";

import { explain } from "./api";
import { complain } from "./toasts";

/** What a form does, one thing at a time: what that is, and what was wrong with the last try. Empty where there is nothing to say. */
export function useTask() {
  const [doing, problem] = [useSignal(""), useSignal("")];
  /** `work` returns what is wrong, where it does not throw it. */
  const run = async (what: string, work: () => Promise<string | void>) => {
    if (doing.value) return;
    doing.value = what;
    problem.value = "";
    try {
      problem.value = (await work()) || "";
    } catch (error) {
      problem.value = explain(error);
    }
    doing.value = "";
  };
  return { doing, problem, run };
}

/** Does what has no form, and tells what went wrong, after `what` where that alone says too little. */
export async function attempt(work: () => Promise<unknown>, what?: string): Promise<void> {
  try {
    await work();
  } catch (error) {
    complain(what ? `${what} ${explain(error)}` : explain(error));
  }
}
