// A message's HTML as the document of a frame that can do nothing. The service has cleaned it; here it counts as hostile
// all the same. The frame's sandbox allows no script, form or way to the page, its policy lets it ask nobody.

import type { Attachment, OpenedMessage } from "email-service-client";

import { api } from "./api";

/** What a frame's policy does not stop in every browser: names that are looked up, and forms of a page within. */
const DROPPED = "script, link, meta, base, iframe, frame, frameset, object, embed, applet, portal, form, template, noscript";

const STYLE = `
  html { background: #fff; color: #1b1f24; color-scheme: light; font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
  body { margin: 16px } img { max-width: 100%; height: auto } a { color: #3557d6 }
  img[data-remote-src]:not([src]) { outline: 1px dashed #a8b0ba; min-width: 16px; min-height: 16px }
  a[href]:is(:hover, :focus-visible)::after { content: attr(href); position: fixed; left: 0; bottom: 0; max-width: 100%; z-index: 9;
    box-sizing: border-box; padding: 2px 8px; background: #1b1f24; color: #fff; font: 12px/1.5 system-ui, sans-serif }`;

/** Pictures that browsers show, by the names that programs give them. */
const PICTURE = /^image\/(png|p?jpe?g|gif|webp|bmp)$/;
/** How many of a message's pictures are asked for at once: each counts as a request. */
const AT_ONCE = 4;
/** What is kept of those that came last, in characters. */
const MOST_KEPT = 20_000_000;
const kept = new Map<string, { accountId: string; address: string }>();

const pathOf = (message: OpenedMessage, id: string) => `/api/messages/${message.id}/attachments/${id}`;

/** Whether the frame shows what came along. All else is listed below it. */
export const isShown = (message: OpenedMessage, { id, contentType }: Attachment): boolean =>
  PICTURE.test(contentType) && Boolean(message.html?.includes(`"${pathOf(message, id)}"`));

/** What an account takes with it. */
export function forgetPictures(accountIds: ReadonlySet<string>): void {
  for (const [path, { accountId }] of kept) if (accountIds.has(accountId)) kept.delete(path);
}

/** `withPictures` lets pictures come from elsewhere, by which their senders learn that the message is read. */
export async function frameDocument(message: OpenedMessage, withPictures: boolean): Promise<string> {
  // A document that is only parsed: nothing of it runs or loads.
  const { body } = new DOMParser().parseFromString(message.html ?? "", "text/html");
  for (const element of body.querySelectorAll(DROPPED)) element.remove();
  for (const link of body.querySelectorAll("a, area")) {
    link.removeAttribute("ping");
    link.setAttribute("target", "_blank");
    link.setAttribute("rel", "noopener noreferrer nofollow");
  }
  const wanted = new Map(message.attachments.map((attachment) => [pathOf(message, attachment.id), attachment]));
  const places = new Map<Attachment, HTMLImageElement[]>();
  for (const picture of body.querySelectorAll("img")) {
    const [source, remote] = [picture.getAttribute("src") ?? "", picture.getAttribute("data-remote-src") ?? ""];
    if (!source.startsWith("data:")) picture.removeAttribute("src");
    const attachment = wanted.get(source);
    const known = attachment && kept.get(source);
    if (known) picture.src = known.address;
    else if (attachment && PICTURE.test(attachment.contentType)) places.set(attachment, [...(places.get(attachment) ?? []), picture]);
    else if (withPictures && /^https:/i.test(remote)) picture.src = remote;
  }
  const missing = [...places];
  for (let first = 0; first < missing.length; first += AT_ONCE) {
    await Promise.all(missing.slice(first, first + AT_ONCE).map(async ([attachment, pictures]) => {
      const address = await fetchPicture(message, attachment);
      for (const picture of pictures) picture.src = address;
    }));
  }
  const policy = `default-src 'none'; img-src data:${withPictures ? " https:" : ""}; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'`;
  return `<!doctype html><html><head><meta http-equiv="Content-Security-Policy" content="${policy}">
    <meta charset="utf-8"><meta name="referrer" content="no-referrer"><style>${STYLE}</style></head><body>${body.innerHTML}</body></html>`;
}

/** A picture that came along, as a `data:` address: the frame has no other way to it. Empty where there is none. */
async function fetchPicture(message: OpenedMessage, { id, contentType }: Attachment): Promise<string> {
  try {
    const bytes = await api.getAttachment(message.id, id);
    const typed = new Blob([bytes], { type: contentType.replace(/p?jpe?g$/, "jpeg") });
    const address = await new Promise<string>((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(String(reader.result));
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(typed);
    });
    kept.set(pathOf(message, id), { accountId: message.accountId, address });
    let size = [...kept.values()].reduce((sum, { address }) => sum + address.length, 0);
    for (const [path, { address }] of kept) {
      if (size <= MOST_KEPT) break;
      kept.delete(path);
      size -= address.length;
    }
    return address;
  } catch {
    // The rest can be read without it.
    return "";
  }
}
