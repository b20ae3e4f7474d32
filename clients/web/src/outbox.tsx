// What was to be sent, and what became of it.

import type { Outgoing } from "email-service-client";

import { api } from "./api";
import { writeAgain } from "./compose";
import { Icon } from "./icons";
import { hurry, loadOutbox, outbox } from "./mail";
import { attempt } from "./task";
import { names, progressOf, shortDate } from "./words";

export function Outbox() {
  if (outbox.value.length === 0) return <div class="list"><div class="empty"><Icon name="outbox" /><p>Nothing was sent from here yet.</p></div></div>;
  return <ul class="list outbox" aria-label="Outbox">{outbox.value.map((entry) => <Entry key={entry.id} entry={entry} />)}</ul>;
}

function Entry({ entry }: { entry: Outgoing }) {
  const { id, status, subject, to, cc, bcc, createdAt } = entry;
  const isWaiting = status === "scheduled" || status === "queued";
  const isOver = status === "rejected" || status === "failed" || status === "canceled";
  const again = { failed: "Try again", uncertain: "Send again" }[status as string];
  const act = async (call: Promise<unknown>) => {
    await attempt(() => call.then(hurry));
    await attempt(loadOutbox);
  };
  return (
    <li class={`entry ${status}`}>
      <p><b>{subject || "(no subject)"}</b> <span class="when">{shortDate(createdAt)}</span></p>
      <p class="hint">To {names([...to, ...cc, ...bcc])}</p>
      <p class="status" role="status">{progressOf(entry)}</p>
      <p>
        {isWaiting && <button type="button" onClick={() => void act(api.cancelOutgoing(id))}>Do not send</button>}
        {again && <button type="button" onClick={() => void act(api.retryOutgoing(id))}>{again}</button>}
        {isOver && <button type="button" onClick={() => writeAgain(entry)}>Change it</button>}
      </p>
    </li>
  );
}
