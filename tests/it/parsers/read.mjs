// What postal-mime reads in messages, as read.py says what Python does.

import { createRequire } from "node:module";
import { text } from "node:stream/consumers";

const { default: PostalMime } = createRequire(`${process.argv[2]}/`)("postal-mime");

const people = (list) => (list ?? []).map(({ name, address }) => [name, address]);
const words = (field) => (field ?? "").split(/\s+/).filter(Boolean);
const lines = (text) => (text ?? "").replaceAll("\r\n", "\n").replace(/\n+$/, "") || null;

const read = async (message) => {
  const { from, replyTo, to, cc, bcc, attachments, ...read } = await PostalMime.parse(message);
  return {
    subject: read.subject ?? "",
    from: people(from && [from]),
    replyTo: people(replyTo),
    to: people(to),
    cc: people(cc),
    bcc: people(bcc),
    messageId: words(read.messageId),
    inReplyTo: words(read.inReplyTo),
    references: words(read.references),
    text: lines(read.text),
    html: lines(read.html),
    files: attachments.map(({ filename, mimeType, disposition, contentId, content }) =>
      [filename, mimeType, disposition, contentId ?? null, Buffer.from(content).toString("base64")]),
  };
};

const messages = JSON.parse(await text(process.stdin));
console.log(JSON.stringify(await Promise.all(messages.map((message) => read(Buffer.from(message, "base64"))))));
