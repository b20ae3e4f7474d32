// A message's HTML as the document of a frame that can do nothing. The service has cleaned it; here it counts as hostile
// all the same. The frame's sandbox allows no script, form or way to the page, its policy lets it ask nobody.

import type { OpenedMessage } from "email-service-client";

import { api } from "./api";

/** What a frame's policy does not stop in every browser: names that are looked up, and forms of a page within. */
const DROPPED = "script, link, meta, base, iframe, frame, frameset, object, embed, applet, portal, form, template, noscript";

const STYLE = `
  html { background: #fff; color: #1b1f24; color-scheme: light; font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
  body { margin: 16px } img { max-width: 100%; height: auto } a { color: #3557d6 }
  img[data-remote-src]:not([src]) { outline: 1px dashed #a8b0ba; min-width: 16px; min-height: 16px }
  a[href]:is(:hover, :focus-visible)::after { content: attr(href); position: fixed; left: 0; bottom: 0; max-width: 100%; z-index: 9;
    box-sizing: border-box; padding: 2px 8px; background: #1b1f24; color: #fff; font: 12px/1.5 system-ui, sans-serif }`;

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
  const attachments = `/api/messages/${message.id}/attachments/`;
  const pictures = Array.from(body.querySelectorAll("img"), async (picture) => {
    const [source, remote] = [picture.getAttribute("src") ?? "", picture.getAttribute("data-remote-src") ?? ""];
    if (source.startsWith(attachments)) picture.src = await attachedPicture(message, source.slice(attachments.length));
    else if (withPictures && /^https:/i.test(remote)) picture.src = remote;
  });
  await Promise.all(pictures);
  const policy = `default-src 'none'; img-src data:${withPictures ? " https:" : ""}; style-src 'unsafe-inline'; form-action 'none'; base-uri 'none'`;
  return `<!doctype html><html><head><meta http-equiv="Content-Security-Policy" content="${policy}">
    <meta charset="utf-8"><meta name="referrer" content="no-referrer"><style>${STYLE}</style></head><body>${body.innerHTML}</body></html>`;
}

/** A picture that came along, as a `data:` address: the frame has no other way to it. Empty where there is none. */
async function attachedPicture(message: OpenedMessage, id: string): Promise<string> {
  const attachment = message.attachments.find((attachment) => attachment.id === decodeURIComponent(id));
  if (!attachment || !/^image\/(png|jpeg|gif|webp|bmp)$/.test(attachment.contentType)) return "";
  try {
    const bytes = await api.getAttachment(message.id, attachment.id);
    const typed = new Blob([bytes], { type: attachment.contentType });
    return await new Promise((resolve, reject) => {
      const reader = new FileReader();
      reader.onload = () => resolve(String(reader.result));
      reader.onerror = () => reject(reader.error);
      reader.readAsDataURL(typed);
    });
  } catch {
    // The rest can be read without it.
    return "";
  }
}
