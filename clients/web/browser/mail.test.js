// The page as people use it, from the first click to a message sent and received, in Chromium against a running
// `cargo dev --demo`. `cargo run -p xtask -- browser` starts that and says where the page is.

import assert from "node:assert/strict";
import { mkdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";

// The client's tests have it.
const { chromium } = createRequire(new URL("../../typescript/package.json", import.meta.url))("playwright-core");

const { CHROMIUM, PAGE_URL, SCREENSHOTS } = process.env;
const HOSTILE = JSON.parse(await readFile(new URL("../../../tests/html/hostile.json", import.meta.url), "utf8"));
const [GRACE, DEMO, PASSWORD] = ["grace@mail.example", "demo@mail.example", "demo password"];
const [WIDE, NARROW] = [{ width: 1400, height: 860 }, { width: 390, height: 800 }];
/** What a sent message takes to come back: its seconds to be taken back, its sending, a synchronisation. */
const LONG = 45_000;

let browser, page;
/** What no page of ours may do. */
const [foreign, complaints] = [[], []];

before(async () => {
  await mkdir(SCREENSHOTS, { recursive: true });
  browser = await chromium.launch({
    executablePath: CHROMIUM,
    // Chromium's own sandbox refuses root. The rest keeps it from calling anybody but us.
    args: [
      "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-gpu",
      "--disable-quic", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    ],
  });
  page = await open();
});

after(() => browser?.close());

/** A window of its own, in which everything is noted that must not be. */
async function open(options = {}) {
  const context = await browser.newContext({ viewport: WIDE, locale: "en-GB", timezoneId: "Europe/Berlin", reducedMotion: "reduce", ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(20_000);
  const note = (request) => {
    const { protocol, hostname } = new URL(request.url());
    if (protocol.startsWith("http") && !["localhost", "127.0.0.1"].includes(hostname)) foreign.push(request.url());
  };
  // What the browser itself held back (`csp`, `origin`) was asked of nobody; all else failed in the network, at a name that nobody here knows.
  page.on("requestfailed", (request) => request.failure()?.errorText.startsWith("net::") !== false && note(request));
  page.on("requestfinished", note);
  page.on("dialog", (dialog) => (complaints.push(`dialog: ${dialog.message()}`), dialog.dismiss().catch(() => {})));
  page.on("pageerror", (error) => complaints.push(`error: ${error}`));
  page.on("popup", (popup) => (complaints.push(`popup: ${popup.url()}`), popup.close()));
  await page.goto(PAGE_URL);
  return page;
}

const picture = (page, name) => page.screenshot({ path: `${SCREENSHOTS}/${name}.png` });
const row = (page, text) => page.getByRole("option", { name: text });
const folder = (page, account, name) => page.getByRole("region", { name: account }).getByRole("link", { name });
const toast = (page, text) => page.locator(".toast", { hasText: text });
/** What could still be undone is done. */
const settle = async (page, text) => {
  await toast(page, text).getByRole("button", { name: "Close" }).click();
  await toast(page, text).waitFor({ state: "detached" });
};

test("a mailbox is added by its address: what was found, a try that fails, one that does not", async () => {
  await page.getByRole("button", { name: "Add an account" }).click();
  await page.getByLabel("Your mail address").fill(GRACE);
  await page.getByRole("button", { name: "Go on" }).click();
  await page.getByText("Found: mail.localhost:").waitFor();
  await picture(page, "wide-add-account");
  await page.getByLabel("Password").fill("not the password");
  await page.getByRole("button", { name: "Test and save" }).click();
  await page.getByRole("alert").filter({ hasText: "Correct the name or the password" }).waitFor();
  await page.getByLabel("Password").fill(PASSWORD);
  await page.getByRole("button", { name: "Test and save" }).click();
  await folder(page, GRACE, /^Inbox/).click();
  await row(page, /^Unread, Ada Lovelace, Welcome/).waitFor({ timeout: LONG });
});

test("a message is read, flagged and moved, on its server as well", async () => {
  await row(page, /Welcome/).click();
  await page.getByText("Hello Grace.").waitFor();
  await row(page, /^Ada Lovelace, Welcome/).waitFor();
  await page.getByRole("button", { name: "Flag" }).click();
  await row(page, /^Flagged, Ada Lovelace, Welcome/).waitFor();
  await page.getByRole("button", { name: "Move to a folder" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Archive" }).click();
  await row(page, /Welcome/).waitFor({ state: "detached" });
  await settle(page, "moved to Archive");
  await folder(page, GRACE, /^Archive/).click();
  await row(page, /^Flagged, Ada Lovelace, Welcome/).waitFor({ timeout: LONG });
  await page.reload();
  await row(page, /^Flagged, Ada Lovelace, Welcome/).waitFor();
});

test("what is deleted can be taken back, and goes to the trash when it is not", async () => {
  await row(page, /Welcome/).click();
  await page.getByRole("button", { name: "Delete" }).click();
  await row(page, /Welcome/).waitFor({ state: "detached" });
  await page.getByRole("button", { name: "Undo" }).click();
  await row(page, /Welcome/).waitFor();
  await row(page, /Welcome/).click();
  await page.getByRole("button", { name: "Delete" }).click();
  await settle(page, "moved to the trash");
  await folder(page, GRACE, /^Trash/).click();
  await row(page, /Welcome/).waitFor({ timeout: LONG });
});

test("a message with a file is written, taken back, sent, seen in the outbox, and received", async () => {
  await page.getByRole("button", { name: "Write" }).click();
  const form = page.getByRole("region", { name: "Write a message" });
  await form.getByLabel("From").selectOption({ label: `${GRACE} <${GRACE}>` });
  await form.getByRole("button", { name: "Send" }).click();
  await form.getByRole("alert").filter({ hasText: "To whom?" }).waitFor();
  await form.getByLabel("To", { exact: true }).fill(`Demo <${DEMO}>`);
  await form.getByRole("alert").waitFor({ state: "detached" });
  await form.getByLabel("Subject").fill("Relay 70");
  await form.getByLabel("Text").fill("The moth is attached.\n\nSee https://example.com/moth.");
  const bytes = Buffer.from("a moth\n".repeat(1000));
  await form.getByLabel("Files to attach").setInputFiles({ name: "moth.txt", mimeType: "text/plain", buffer: bytes });
  await form.getByText("7 kB").waitFor();
  await picture(page, "wide-compose");
  await form.getByRole("button", { name: "Send" }).click();
  await toast(page, "It is sent in").getByRole("button", { name: "Undo" }).click();
  assert.equal(await form.getByLabel("Subject").inputValue(), "Relay 70");
  await form.getByRole("button", { name: "Send" }).click();
  await page.getByRole("link", { name: /^Outbox/ }).click();
  const entries = page.getByRole("list", { name: "Outbox" }).getByRole("listitem");
  await entries.nth(0).getByText(/Will be sent in a moment|Waits to be sent|Is being sent/).waitFor();
  await entries.nth(1).getByText("Not sent: you took it back.").waitFor();
  await entries.nth(0).getByText(/^Sent\.$/).waitFor({ timeout: LONG });
  await picture(page, "wide-outbox");

  await folder(page, "Demo mailbox", /^Inbox/).click();
  await lookUntil(page, row(page, /^Unread, Has attachments, .*Relay 70/));
  await row(page, /Relay 70/).click();
  await page.getByText("The moth is attached.").waitFor();
  assert.equal(await page.getByRole("link", { name: "https://example.com/moth" }).getAttribute("target"), "_blank");
  const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: /^Save moth.txt/ }).click()]);
  assert.deepEqual(await readFile(await download.path()), bytes);
});

/** Asks for new mail until it is there. */
async function lookUntil(page, locator) {
  for (const end = Date.now() + LONG; Date.now() < end; ) {
    await page.getByRole("button", { name: "Look for new mail" }).first().click();
    if (await locator.waitFor({ timeout: 5_000 }).then(() => true, () => false)) return;
  }
  await locator.waitFor();
}

test("an answer goes to whom it should, with what it answers", async () => {
  await page.keyboard.press("r");
  const form = page.getByRole("region", { name: "Write a message" });
  assert.equal(await form.getByLabel("To", { exact: true }).inputValue(), GRACE);
  assert.equal(await form.getByLabel("Subject").inputValue(), "Re: Relay 70");
  assert.match(await form.getByLabel("Text").inputValue(), /wrote:\n> The moth is attached\./);
  await form.getByRole("button", { name: "Throw away" }).click();
  await toast(page, "Thrown away").waitFor();
  await page.keyboard.press("f");
  await form.getByText("moth.txt").waitFor();
  assert.equal(await form.getByLabel("Subject").inputValue(), "Fwd: Relay 70");
  await form.getByRole("button", { name: "Throw away" }).click();
});

test("pictures from elsewhere come when they are asked for and not before", async () => {
  await row(page, /engines that weave/).click();
  const frame = page.frameLocator("iframe[title='Message text']");
  await frame.getByText("weaves algebraical patterns").waitFor();
  assert.match(await frame.locator("h1 img").getAttribute("src"), /^data:image\/png;base64,/);
  await picture(page, "wide-light");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "wide-dark");
  await page.emulateMedia({ colorScheme: "light" });
  assert.deepEqual(foreign, []);
  const [asked] = await Promise.all([
    page.waitForEvent("requestfailed", (request) => request.url() === "https://pictures.mail.example/loom.png"),
    page.getByRole("button", { name: "Show pictures" }).click(),
  ]);
  assert(!(await asked.allHeaders()).referer);
  assert.deepEqual(foreign.splice(0), ["https://pictures.mail.example/loom.png"]);
});

test("hostile mail that was sent runs nothing and asks nobody", async () => {
  const html = HOSTILE.filter(({ html }) => !/<!--|\0/.test(html) && html.length < 2000).map(({ html }) => `<div>${html}</div>`).join("\n");
  await page.evaluate(async ({ html, to }) => {
    const { apiUrl, token } = await (await fetch("/config.json")).json();
    const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
    const { accounts } = await (await fetch(`${apiUrl}/api/accounts`, { headers })).json();
    const accountId = accounts.find(({ emailAddress }) => emailAddress === to).id;
    const body = JSON.stringify({ accountId, to: [{ address: to }], subject: "Win a prize", html });
    const answer = await fetch(`${apiUrl}/api/outbox`, { method: "POST", headers, body });
    if (!answer.ok) throw new Error(await answer.text());
  }, { html, to: DEMO });
  await lookUntil(page, row(page, /Win a prize/).first());
  await row(page, /Win a prize/).first().click();
  await page.getByRole("heading", { name: "Win a prize" }).waitFor();
  await page.locator("iframe.body[srcdoc*='Content-Security-Policy']").waitFor();
  await page.waitForTimeout(500);
  assert.deepEqual([foreign, complaints], [[], []]);
  assert.equal(new URL(page.url()).origin, PAGE_URL);
  await page.context().close();
});

test(`none of ${HOSTILE.length} hostile samples does anything in the frame, though nobody had cleaned them`, async () => {
  const page = await open();
  const samples = new Map(HOSTILE.map(({ html }, index) => [`sample-${index}`, html]));
  await page.route("**/api/messages/sample-*", (route) => {
    const id = new URL(route.request().url()).pathname.split("/").at(-1);
    return route.fulfill({ json: message(id, { html: samples.get(id), hasRemoteContent: true, attachments: [], text: "" }) });
  });
  const look = async (id, withPictures) => {
    await page.evaluate((id) => (location.hash = `#/inbox//m/${id}`), id);
    await page.getByRole("heading", { name: `About ${id}`, exact: true }).waitFor();
    await page.locator("iframe.body[srcdoc*='Content-Security-Policy']").waitFor();
    if (withPictures) await page.getByRole("button", { name: "Show pictures" }).press("Enter");
    // Not waited for: of a move over a frame that is just being replaced Chromium says nothing, ever.
    page.mouse.move(1000, 420).catch(() => {});
    await page.waitForTimeout(40);
    assert.deepEqual(complaints, [], samples.get(id));
    assert.equal(page.url(), `${PAGE_URL}/#/inbox//m/${id}`);
  };
  for (const id of samples.keys()) {
    await look(id, false);
    assert.deepEqual(foreign, [], samples.get(id));
  }
  // Some with their pictures allowed, by which nothing but pictures may come, and those encrypted. Only then, for what a
  // request came to is told late.
  for (const id of [...samples.keys()].filter((id) => id.endsWith("3"))) await look(id, true);
  await page.waitForTimeout(500);
  assert.deepEqual(foreign.splice(0).filter((url) => !url.startsWith("https:")), []);
  await page.context().close();
});

test("what the text does not show is listed, and pictures are asked for once", async () => {
  const page = await open();
  const files = [
    { id: "1", filename: "shown.jpg", contentType: "image/jpg" }, { id: "2", filename: "terms.pdf", contentType: "application/pdf" },
    { id: "3", filename: "holiday.jpg", contentType: "image/jpeg" },
  ].map((file) => ({ ...file, size: 100, contentId: `c${file.id}`, isInline: true }));
  const img = (n) => `<img src="/api/messages/sample-files/attachments/${n}">`;
  const html = `<p>So it is.</p>${img(1)}${img(1)}${img(2)}<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">`;
  await page.route("**/api/messages/sample-files", (route) => route.fulfill({ json: message("sample-files", { html, hasRemoteContent: true, attachments: files, text: "" }) }));
  const asked = [];
  await page.route("**/api/messages/sample-files/attachments/*", (route) => {
    asked.push(route.request().url().split("/").at(-1));
    return route.fulfill({ contentType: "image/jpeg", body: "picture" });
  });
  await page.evaluate(() => (location.hash = "#/inbox//m/sample-files"));
  const frame = page.frameLocator("iframe[title='Message text']");
  await frame.getByText("So it is.").waitFor();
  await frame.locator("img[src^='data:image/jpeg']").nth(1).waitFor({ state: "attached" });
  const listed = page.getByRole("list", { name: "Attachments" }).getByRole("listitem");
  assert.deepEqual((await listed.allInnerTexts()).map((text) => /\w+\.\w+/.exec(text)[0]), ["terms.pdf", "holiday.jpg"]);
  assert.equal(await frame.locator("img[src^='data:image/gif']").count(), 1);
  await page.getByRole("button", { name: "Show pictures" }).press("Enter");
  await page.locator("iframe.body[srcdoc*='data: https:'][srcdoc*='data:image/jpeg']").waitFor();
  assert.deepEqual(asked, ["1"]);
  await page.context().close();
});

/** A message as the API has it. */
function message(id, more) {
  const people = [{ name: "Ada Lovelace", address: "ada@mail.example" }];
  return {
    id, accountId: "a", folderId: "f", threadId: "t", messageId: id, inReplyTo: null, subject: `About ${id}`, from: people, to: people, cc: [],
    bcc: [], replyTo: [], sentAt: null, receivedAt: 1_790_000_000_000, size: 1000, isRead: true, isFlagged: false, isAnswered: false,
    isDraft: false, hasAttachments: false, preview: "It begins like this.", isTruncated: false, ...more,
  };
}

test("20,000 messages are scrolled through by cursor, and the page stays fluent", async () => {
  const page = await open();
  const [COUNT, PAGES] = [20_000, []];
  await page.route("**/api/messages?*", (route) => {
    const query = new URL(route.request().url()).searchParams;
    const [start, limit] = [Number(query.get("cursor") ?? 0), Number(query.get("limit"))];
    PAGES.push(start);
    const messages = Array.from({ length: Math.min(limit, COUNT - start) }, (_, index) =>
      message(`m-${start + index}`, { receivedAt: 1_790_000_000_000 - (start + index) * 1000 }));
    return route.fulfill({ json: { messages, nextCursor: start + limit < COUNT ? String(start + limit) : null } });
  });
  await page.evaluate(() => (location.hash = "#/flagged/"));
  await row(page, /About m-0,/).waitFor();
  const figures = await page.evaluate(async (count) => {
    const [list, frames] = [document.querySelector(".list"), []];
    let [rows, last] = [0, performance.now()];
    while (!document.querySelector(`#row-m-${count - 1}`) && frames.length < 20_000) {
      list.scrollTop += 1500;
      await new Promise((resolve) => requestAnimationFrame(resolve));
      rows = Math.max(rows, document.querySelectorAll("[role=option]").length);
      frames.push(performance.now() - last);
      last = performance.now();
    }
    frames.sort((a, b) => a - b);
    const at = (part) => Math.round(frames[Math.floor(frames.length * part)]);
    return { frames: frames.length, rows, median: at(0.5), slow: at(0.95), slowest: at(0.999) };
  }, COUNT);
  console.log("20,000 messages scrolled through, frames in ms:", JSON.stringify(figures));
  await row(page, /About m-19999,/).waitFor();
  assert.equal(PAGES.filter((start) => start > 0).length, COUNT / 200 - 1, "each page is asked for once");
  assert(figures.rows < 60, `${figures.rows} rows in the document`);
  assert(figures.median <= 100 && figures.slow <= 400, JSON.stringify(figures));
  // From the last one back to the first by the keyboard's own way.
  await page.getByRole("listbox").focus();
  await page.keyboard.press("k");
  await page.context().close();
});

test("all of it goes by the keyboard, and everything has a name", async () => {
  const page = await open();
  await row(page, /Notes on the engine/).first().waitFor();
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  // What is pressed the moment after a dialog was closed, whose button still has the focus, is for the page.
  await page.keyboard.press("Escape");
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  const focused = await page.evaluate(() => {
    document.querySelector("dialog").close();
    document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key: "/", bubbles: true, cancelable: true }));
    return document.activeElement.id;
  });
  assert.equal(focused, "search");
  await page.keyboard.type("relay");
  await page.keyboard.press("Enter");
  await page.getByRole("heading", { name: "“relay”" }).waitFor();
  await row(page, /Re: Notes on the engine/).waitFor();
  await page.keyboard.press("Escape");
  // Tab by Tab from the search to the list: what has the focus can be seen and has a name.
  const names = [];
  for (let presses = 0; presses < 60 && (await page.evaluate(() => document.activeElement.id)) !== "messages"; presses += 1) {
    await page.keyboard.press("Tab");
    names.push(await page.evaluate(() => {
      const element = document.activeElement;
      const isVisible = element.checkVisibility({ visibilityProperty: true });
      return isVisible && (element.getAttribute("aria-label") || element.textContent.trim());
    }));
  }
  assert(names.length > 10 && names.every(Boolean), names.join("; "));
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.getByRole("article", { name: /Notes on the engine|Relay 70/ }).waitFor();
  await page.keyboard.press("x");
  await page.getByRole("option", { selected: true }).first().waitFor();
  await page.keyboard.press("Escape");
  await page.keyboard.press("#");
  await toast(page, "moved to the trash").waitFor();
  await page.keyboard.press("z");
  await toast(page, "moved to the trash").waitFor({ state: "detached" });
  await page.keyboard.press("c");
  await page.waitForFunction(() => document.activeElement.getAttribute("name") === "to");
  const nameless = await page.evaluate(() => {
    const name = (element) => element.getAttribute("aria-label") || element.title || element.labels?.[0]?.textContent || element.textContent;
    const all = document.querySelectorAll("a, button, input, select, textarea, iframe, [role=option], [role=listbox], dialog, nav, section");
    return Array.from(all).filter((element) => !name(element)?.trim()).map((element) => element.outerHTML.slice(0, 100));
  });
  assert.deepEqual(nameless, []);
  await page.context().close();
});

test("on a narrow screen there is one thing at a time, with a way back", async () => {
  const page = await open({ viewport: NARROW, hasTouch: true });
  await row(page, /engines that weave/).waitFor();
  await picture(page, "narrow-list");
  await page.getByRole("button", { name: "Folders" }).click();
  await folder(page, "Demo mailbox", /^Inbox/).waitFor();
  await picture(page, "narrow-folders");
  await folder(page, "Demo mailbox", /^Inbox/).click();
  await row(page, /engines that weave/).click();
  await page.frameLocator("iframe[title='Message text']").getByText("weaves algebraical patterns").waitFor();
  assert.equal(await page.getByRole("listbox").count(), 0, "the list is behind it");
  await page.waitForTimeout(300);
  await picture(page, "narrow-reading");
  await page.emulateMedia({ colorScheme: "dark" });
  await page.getByRole("button", { name: "Back to the list" }).click();
  await row(page, /engines that weave/).waitFor();
  await picture(page, "narrow-dark");
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), NARROW.width, "nothing sticks out");
  await page.context().close();
});

test("what goes wrong is told with what to do", async () => {
  const page = await open();
  await row(page, /engines that weave/).waitFor();
  await page.route("**/api/messages/*", (route) => route.abort());
  await row(page, /Grace Hopper/).first().click();
  await page.getByRole("alert").filter({ hasText: "The service does not answer. Look at your connection" }).waitFor();
  await page.route("**/api/messages?*", (route) => route.fulfill({
    status: 429, headers: { "Retry-After": "2", "Access-Control-Allow-Origin": PAGE_URL, "Access-Control-Expose-Headers": "Retry-After" },
    json: { error: "Rate limit exceeded", message: "Too many requests.", requestId: "r" },
  }));
  await page.evaluate(() => (location.hash = "#/flagged/"));
  await page.getByText("It goes on by itself in 2 s.").waitFor();
  await page.unroute("**/api/messages?*");
  await page.getByText("There is no message here.").or(row(page, /Flagged/)).first().waitFor();
  // Accounts of the demonstration that lead nowhere.
  await page.getByText("The server cannot be reached").first().waitFor({ timeout: LONG });
  await page.context().close();
});

test("a provider's button leads to its pages and back", async () => {
  const page = await open();
  const account = { id: "a", emailAddress: "jane@gmail.com" };
  await page.route("**/api/oauth2/authorizations", (route) => {
    const { redirectUri } = route.request().postDataJSON();
    return route.fulfill({ status: 201, json: { authorizationUrl: `${redirectUri}?state=s&code=c`, state: "s", expiresAt: 1 } });
  });
  const bodies = [];
  await page.route("**/api/oauth2/accounts", (route) => {
    bodies.push(route.request().postDataJSON());
    return route.fulfill({ status: 201, json: account });
  });
  await page.route("**/api/autoconfig*", (route) => route.fulfill({
    json: {
      emailAddress: account.emailAddress, incoming: [{ protocol: "imap", hostname: "imap.gmail.com", port: 993, encryption: "tls", username: "jane@gmail.com" }],
      smtp: [], oauth2: "google", appPassword: { required: true, url: "https://myaccount.google.com/apppasswords" }, source: "table", evidence: [],
    },
  }));
  await page.getByRole("button", { name: "Add an account" }).click();
  await page.getByLabel("Your mail address").fill(account.emailAddress);
  await page.getByRole("button", { name: "Go on" }).click();
  await page.getByRole("link", { name: "Make one for programs" }).waitFor();
  await page.getByRole("button", { name: "Sign in with Google" }).click();
  await toast(page, "jane@gmail.com is connected").waitFor();
  assert.deepEqual(bodies, [{ state: "s", code: "c" }]);
  assert.equal(page.url(), `${PAGE_URL}/`, "the code is not in the address any more");
  await page.context().close();
});

test("who has no account yet is asked for an address", async () => {
  const page = await browser.newPage({ viewport: WIDE });
  await page.route("**/api/accounts?*", (route) => route.fulfill({ json: { accounts: [], pagination: { limit: 100, offset: 0, total: 0 } } }));
  await page.goto(PAGE_URL);
  await page.getByRole("heading", { name: "Welcome" }).waitFor();
  await picture(page, "wide-welcome");
  await page.close();
});
