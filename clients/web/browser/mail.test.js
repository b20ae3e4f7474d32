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
  // Records that lead to another domain are what the demonstration's servers are found by.
  await page.getByLabel("This is my provider").check();
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

/**
 * A page whose mail is made up: an account of IMAP with a trash, one of POP3, and these messages. It changes no mailbox, and what
 * it asks for can be lost, refused or held back, by a route that is set later.
 */
async function openMadeUp(messages) {
  const page = await open();
  const account = (id, protocol) => ({
    id, protocol, accountName: `Made up ${protocol}`, emailAddress: `${id}@mail.example`, hostname: "localhost", smtpHostname: "localhost",
    state: "connected", authType: "password", provider: null, lastError: null, createdAt: 1,
  });
  const folder = (id, accountId, role) => ({ id, accountId, parentId: null, name: id, path: id, role, isSelectable: true, total: 0, unread: 0 });
  const folders = [folder("f", "a", "inbox"), folder("archive", "a", "archive"), folder("trash", "a", "trash"), folder("g", "b", "inbox")];
  const mail = { page, messages, accounts: [account("a", "imap"), account("b", "pop3")], changes: [], batches: [], asked: [] };
  mail.carryOut = (batch) => {
    mail.batches.push(batch);
    const isGone = ({ id, folderId }) => batch.delete && batch.ids.includes(id) && ["trash", "g"].includes(folderId);
    mail.messages = mail.messages.filter((one) => !isGone(one));
    for (const one of mail.messages) if (batch.ids.includes(one.id)) Object.assign(one, batch.set ?? { folderId: "trash" });
    const changeOf = (id) => (mail.messages.some((one) => one.id === id) ? "updated" : "destroyed");
    mail.changes.push(...batch.ids.map((id) => ({ type: "message", id, accountId: "a", change: changeOf(id) })));
    return { results: batch.ids.map((id) => ({ id, success: true, code: null, message: null })) };
  };
  mail.list = (query) => {
    const asked = folders.filter(({ id, role }) => query.has("q") || id === query.get("folderId") || role === query.get("role"));
    return { messages: mail.messages.filter(({ folderId }) => asked.some(({ id }) => id === folderId)), nextCursor: null };
  };
  const answer = (pattern, reply) => page.route(pattern, (route) => {
    const [request, url] = [route.request(), new URL(route.request().url())];
    mail.asked.push(`${request.method()} ${url.pathname}`);
    return route.fulfill({ json: reply(url, request) });
  });
  await answer("**/api/accounts?*", () => ({ accounts: mail.accounts, pagination: { limit: 100, offset: 0, total: mail.accounts.length } }));
  await answer("**/api/accounts/*/folders", ({ pathname }) => ({ folders: folders.filter(({ accountId }) => pathname.includes(`/${accountId}/`)) }));
  await answer("**/api/messages?*", ({ searchParams }) => mail.list(searchParams));
  await answer("**/api/messages/*", ({ pathname }) => {
    const found = mail.messages.find(({ id }) => pathname.endsWith(`/${id}`));
    return { text: "It is short.", html: null, hasRemoteContent: false, attachments: [], ...found };
  });
  await answer("**/api/messages/batch", (_, request) => mail.carryOut(request.postDataJSON()));
  await answer("**/api/changes?*", () => ({ changes: mail.changes.splice(0), cursor: "0", hasMore: false }));
  await answer("**/api/outbox?*", () => ({ entries: [], nextCursor: null }));
  // What may outlive its page is noted, and asked for like the rest: routes may not see it.
  await page.addInitScript(() => {
    const { fetch } = window;
    window.outliving = [];
    window.fetch = (input, init) => {
      if (init?.keepalive) window.outliving.push(new URL(input).pathname);
      return fetch(input, { ...init, keepalive: false });
    };
  });
  await page.reload();
  await page.getByRole("heading", { name: "All inboxes" }).waitFor();
  return mail;
}

const goTo = (page, hash) => page.evaluate((hash) => (location.hash = hash), hash);
const tick = (page, text) => row(page, text).locator(".avatar").click();
const refusal = (status, error, message) => ({ status, json: { error, message, requestId: "r" } });
/** Something to wait for, and what ends the wait. */
function gate() {
  let open;
  const opened = new Promise((resolve) => (open = resolve));
  return { opened, open };
}

test("a delete whose answer was lost does no harm the second time; only what lies in the trash is deleted for good", async () => {
  const mail = await openMadeUp([
    message("m-1"), message("m-2"), message("m-3", { folderId: "trash" }), message("m-4", { accountId: "b", folderId: "g" }),
  ]);
  const { page, batches } = mail;
  await page.route("**/api/messages/batch", (route) => {
    mail.carryOut(route.request().postDataJSON());
    // Nor is it told among the changes yet.
    mail.changes.length = 0;
    return route.abort();
  }, { times: 1 });
  for (const last of ["The service does not answer", undefined]) {
    await row(page, /About m-1,/).click();
    await page.getByRole("button", { name: "Delete" }).click();
    const done = page.waitForEvent(last ? "requestfailed" : "requestfinished", (request) => request.url().endsWith("/batch"));
    await settle(page, "Message moved to the trash.");
    await done;
    if (last) await toast(page, last).waitFor();
  }
  assert.deepEqual(batches, [{ ids: ["m-1"], set: { folderId: "trash" } }, { ids: ["m-1"], set: { folderId: "trash" } }]);
  await goTo(page, "#/search/About");
  for (const text of [/About m-2,/, /About m-3,/, /About m-4,/]) await tick(page, text);
  await page.getByText("3 messages are marked.").waitFor();
  await page.getByRole("button", { name: "Delete" }).click();
  await settle(page, "3 messages deleted, 1 of them for good.");
  await row(page, /About m-4,/).waitFor({ state: "detached" });
  await row(page, /About m-2,/).waitFor();
  const ofDeletion = batches.slice(2).sort((a, b) => a.ids.length - b.ids.length);
  assert.deepEqual(ofDeletion, [{ ids: ["m-2"], set: { folderId: "trash" } }, { ids: ["m-3", "m-4"], delete: true }]);
  await goTo(page, "#/folder/trash");
  await row(page, /About m-1,/).click();
  await page.getByRole("button", { name: "Delete" }).click();
  const done = page.waitForEvent("requestfinished", (request) => request.url().endsWith("/batch"));
  await settle(page, "Message deleted for good.");
  await done;
  assert.deepEqual(batches.at(-1), { ids: ["m-1"], delete: true });
  await page.context().close();
});

test("what was moved appears where it is now, and what was removed does not come back with a list from before", async () => {
  const mail = await openMadeUp([message("m-1"), message("m-2")]);
  const { page } = mail;
  await row(page, /About m-1,/).click();
  await page.getByRole("button", { name: "Move to a folder" }).click();
  await page.getByRole("dialog").getByRole("button", { name: "Archive" }).click();
  await goTo(page, "#/folder/archive");
  await page.getByText("There is no message here.").waitFor();
  await settle(page, "Message moved to archive.");
  await row(page, /About m-1,/).waitFor();

  await goTo(page, "#/inbox/");
  await row(page, /About m-2,/).click();
  await page.getByRole("button", { name: "Delete" }).click();
  const [asked, held] = [gate(), gate()];
  await page.route("**/api/messages?*", async (route) => {
    const json = structuredClone(mail.list(new URL(route.request().url()).searchParams));
    asked.open();
    await held.opened;
    return route.fulfill({ json });
  }, { times: 1 });
  mail.messages.push(message("m-9"));
  mail.changes.push({ type: "message", id: "m-9", accountId: "a", change: "created" });
  // It asks at once whether something has changed.
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await asked.opened;
  const done = page.waitForEvent("requestfinished", (request) => request.url().endsWith("/batch"));
  await settle(page, "Message moved to the trash.");
  await done;
  await page.waitForTimeout(200);
  held.open();
  await row(page, /About m-9,/).waitFor();
  assert.equal(await row(page, /About m-2,/).count(), 0);
  await page.context().close();
});

test("the toolbar acts on what the reader shows", async () => {
  const { page, batches } = await openMadeUp([message("m-1"), message("m-2"), message("m-3")]);
  await row(page, /About m-1,/).click();
  await page.getByRole("heading", { name: "About m-1" }).waitFor();
  await tick(page, /About m-2,/);
  await page.getByText("1 message is marked. What you do now is done to it.").waitFor();
  await page.getByRole("button", { name: "Flag" }).click();
  await row(page, /^Flagged, .*About m-2,/).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("heading", { name: "About m-1" }).waitFor();
  // Marked and not any more: the keyboard is there, but the reader is not.
  await row(page, /About m-2,/).click({ modifiers: ["Control"] });
  await page.getByText("1 message is marked.").waitFor();
  await row(page, /About m-2,/).click({ modifiers: ["Control"] });
  await page.getByRole("heading", { name: "About m-1" }).waitFor();
  await page.getByRole("button", { name: "Delete" }).click();
  await row(page, /About m-1,/).waitFor({ state: "detached" });
  const done = page.waitForEvent("requestfinished", (request) => request.url().endsWith("/batch"));
  await settle(page, "Message moved to the trash.");
  await done;
  assert.deepEqual(batches, [{ ids: ["m-2"], set: { isFlagged: true } }, { ids: ["m-1"], set: { folderId: "trash" } }]);

  await page.setViewportSize(NARROW);
  await tick(page, /About m-2,/);
  await page.getByRole("option", { name: /About m-2,/, selected: true }).waitFor();
  await tick(page, /About m-3,/);
  await page.getByText("2 messages are marked. What you do now is done to all of them.").waitFor();
  await page.getByRole("button", { name: "Back to the list" }).click();
  await row(page, /About m-2,/).click();
  await page.getByRole("heading", { name: "About m-2" }).waitFor();
  await page.context().close();
});

test("a key that is held deletes one message, and each that was deleted can be taken back", async () => {
  const { page, batches } = await openMadeUp(Array.from({ length: 7 }, (_, index) => message(`m-${index}`)));
  await row(page, /About m-6,/).waitFor();
  await page.getByRole("listbox").focus();
  // Down again before it was up is a key that repeats itself.
  for (let count = 0; count < 4; count += 1) await page.keyboard.down("Delete");
  await page.keyboard.up("Delete");
  await row(page, /About m-0,/).waitFor({ state: "detached" });
  assert.equal(await page.getByRole("option").count(), 6);
  for (let count = 0; count < 3; count += 1) await page.keyboard.down("j");
  await page.keyboard.up("j");
  await page.locator("#row-m-4.active").waitFor();
  for (let count = 0; count < 5; count += 1) await page.keyboard.press("Delete");
  await page.locator(".toast").nth(5).waitFor();
  for (let count = 0; count < 6; count += 1) await page.keyboard.press("z");
  await page.getByRole("option").nth(6).waitFor();
  assert.deepEqual(batches, []);
  await page.context().close();
});

test("as the page goes, what waits is done and outlives it, and what was thrown away can still be taken back", async () => {
  const { page, batches } = await openMadeUp([message("m-1")]);
  const form = page.getByRole("region", { name: "Write a message" });
  await row(page, /About m-1,/).click();
  await page.getByRole("button", { name: "Delete" }).click();
  await page.keyboard.press("c");
  await form.getByLabel("Text").fill("The first");
  await form.getByRole("button", { name: "Throw away" }).click();
  await toast(page, "Thrown away.").waitFor();
  const done = page.waitForEvent("requestfinished", (request) => request.url().endsWith("/batch"));
  await page.evaluate(() => dispatchEvent(new Event("pagehide")));
  await done;
  assert.deepEqual(batches, [{ ids: ["m-1"], set: { folderId: "trash" } }]);
  assert.deepEqual(await page.evaluate(() => window.outliving), ["/api/messages/batch"]);
  // Another message that is written meanwhile makes room, and has an Undo of its own, though it has a subject alone.
  await page.getByRole("button", { name: "Write" }).click();
  await form.getByLabel("Subject").fill("The second");
  await toast(page, "Thrown away.").getByRole("button", { name: "Undo" }).click();
  await page.waitForFunction(() => document.querySelector(".compose textarea")?.value === "The first");
  await toast(page, "Thrown away.").getByRole("button", { name: "Undo" }).click();
  await page.waitForFunction(() => document.querySelector(".compose [name=subject]")?.value === "The second");
  await page.context().close();
});

/** A page on which a message is written, the tries to send it, and what becomes of the next ones. */
async function openWriting() {
  const { page } = await openMadeUp([]);
  const [form, tries, outcomes] = [page.getByRole("region", { name: "Write a message" }), [], []];
  await page.route("**/api/outbox", (route) => {
    tries.push({ key: route.request().headers()["idempotency-key"], ...route.request().postDataJSON() });
    return outcomes.shift()(route);
  });
  await page.route("**/api/outbox/*", (route) => route.fulfill({ json: {} }));
  const write = async () => {
    await page.getByRole("button", { name: "Write" }).click();
    await form.getByLabel("To", { exact: true }).fill(GRACE);
    await form.getByLabel("Text").fill("At noon.");
  };
  const send = (...next) => (outcomes.push(...next), form.getByRole("button", { name: "Send" }).click());
  const isTold = (text) => form.getByRole("alert").filter({ hasText: text }).waitFor();
  await write();
  return { page, form, tries, write, send, isTold };
}

const accept = (route) => route.fulfill({ status: 202, json: { id: "sent" } });
const refuse = (...refused) => (route) => route.fulfill(refusal(...refused));

test("a message whose answer was lost is sent again as it was, and a refusal that is kept does not keep it from being sent", async () => {
  const { page, form, tries, write, send, isTold } = await openWriting();
  await send((route) => route.abort());
  await isTold("The service does not answer.");
  await send(refuse(500, "Internal server error", "It failed."));
  await isTold("The service has a problem");
  await send(accept);
  await toast(page, "It is sent in").getByRole("button", { name: "Undo" }).click();
  assert.deepEqual(tries.slice(1), [tries[0], tries[0]]);

  await form.getByLabel("Text").waitFor();
  await send((route) => route.abort());
  await isTold("The service does not answer.");
  await form.getByLabel("Text").fill("At one.");
  await send(refuse(422, "Unprocessable", "Use a new key."));
  await isTold("It was sent as it was before your last changes: look into the outbox.");
  await send(accept);
  await settle(page, "It is sent in");
  const [, , , lost, changed, anew] = tries;
  assert.deepEqual([lost.key === tries[0].key, changed.key === lost.key, anew.key === changed.key], [false, true, false]);
  assert(changed.sendAt > lost.sendAt && anew.text === "At one.");

  await write();
  await send(refuse(409, "Conflict", "A file was not put."));
  await isTold("A file was not put.");
  await send(refuse(409, "Conflict", "A request with this Idempotency-Key is being worked on."));
  await isTold("is being worked on");
  await send(accept);
  await settle(page, "It is sent in");
  const [kept, atWork, accepted] = tries.slice(6);
  assert.notEqual(kept.key, atWork.key);
  assert.deepEqual(accepted, atWork);
  await page.context().close();
});

test("while it is being sent nothing of it changes, and Undo is offered for as long as there is time", async () => {
  const { page, form, tries, send } = await openWriting();
  await send((route) => route.fulfill({
    ...refusal(429, "Rate limit exceeded", "Too many requests."),
    headers: { "Retry-After": "8", "Access-Control-Allow-Origin": PAGE_URL, "Access-Control-Expose-Headers": "Retry-After" },
  }), accept);
  await form.getByRole("button", { name: "Sending …" }).waitFor();
  assert(await page.evaluate(() => document.activeElement.closest(".compose") !== null), "keys are not the page's");
  await form.getByLabel("Text").focus();
  await page.keyboard.type("c#?");
  assert.equal(await form.getByLabel("Text").inputValue(), "At noon.");
  for (const name of ["Throw away", "Attach files", "Sending …"]) assert(await form.getByRole("button", { name }).isDisabled(), name);
  assert(await form.getByLabel("From").isDisabled());
  const dataTransfer = await page.evaluateHandle(() => {
    const data = new DataTransfer();
    data.items.add(new File(["moth"], "moth.txt"));
    return data;
  });
  await form.dispatchEvent("drop", { dataTransfer });
  assert.equal(await form.getByText("moth.txt").count(), 0);
  await toast(page, "It is being sent.").waitFor();
  assert.equal(await toast(page, "It is being sent.").getByRole("button", { name: "Undo" }).count(), 0);
  assert.deepEqual(tries[1], tries[0]);
  await form.waitFor({ state: "detached" });
  await page.context().close();
});

test("a forward does not go without its files, which are asked for at once and again", async () => {
  const files = ["terms.pdf", "plan.pdf"].map((filename, index) =>
    ({ id: String(index), filename, contentType: "application/pdf", size: 100, contentId: null, isInline: false }));
  const { page } = await openMadeUp([message("m-1", { attachments: files })]);
  const form = page.getByRole("region", { name: "Write a message" });
  const [asked, held, bodies] = [gate(), gate(), []];
  const outcomes = [
    (route) => route.abort(),
    async (route) => (asked.open(), await held.opened, route.abort()),
    (route) => route.fulfill({ json: { attachments: files.map(({ id, filename }) => ({ uploadId: `u-${id}`, filename })) } }),
  ];
  await page.route("**/api/messages/m-1/uploads", (route) => (bodies.push(route.request().postDataJSON()), outcomes.shift()(route)));
  const sent = [];
  await page.route("**/api/outbox", (route) => (sent.push(route.request().postDataJSON()), accept(route)));
  await row(page, /About m-1,/).click();
  await page.getByText("It is short.").waitFor();
  await page.keyboard.press("f");
  await form.getByText("The service does not answer.").nth(1).waitFor();
  await form.getByLabel("To", { exact: true }).fill(GRACE);
  await form.getByRole("button", { name: "Send" }).click();
  await form.getByRole("alert").filter({ hasText: "A file could not be attached" }).waitFor();
  await form.getByRole("button", { name: "Try again" }).first().click();
  await form.getByText("On its way …").nth(1).waitFor();
  await asked.opened;
  await form.getByRole("button", { name: "Send" }).click();
  await form.getByRole("alert").filter({ hasText: "A file is still on its way" }).waitFor();
  // What fails while it is thrown away is begun anew with its Undo.
  await form.getByRole("button", { name: "Throw away" }).click();
  const lost = page.waitForEvent("requestfailed", (request) => request.url().endsWith("/uploads"));
  held.open();
  await lost;
  await page.waitForTimeout(300);
  await toast(page, "Thrown away.").getByRole("button", { name: "Undo" }).click();
  await form.getByText("100 bytes").nth(1).waitFor();
  assert.deepEqual(bodies, Array(3).fill({ attachmentIds: ["0", "1"] }));
  await form.getByRole("button", { name: "Send" }).click();
  await settle(page, "It is sent in");
  assert.deepEqual(sent[0].attachments, [{ uploadId: "u-0" }, { uploadId: "u-1" }]);
  await page.context().close();
});

test("a file whose link has expired is announced anew, and one whose answer was lost is not", async () => {
  const { page, form } = await openWriting();
  const keys = [];
  await page.route("**/api/uploads", (route) => {
    keys.push(route.request().headers()["idempotency-key"]);
    const url = new URL("/api/store", route.request().url()).href;
    return route.fulfill({ status: 201, json: { id: "u", url, headers: { "content-type": "text/plain" }, expiresAt: 1 } });
  });
  const outcomes = [(route) => route.abort(), (route) => route.fulfill({ status: 403, body: "Expired" }), (route) => route.fulfill({ status: 200 })];
  await page.route("**/api/store", (route) => outcomes.shift()(route));
  const file = { name: "moth.txt", mimeType: "text/plain", buffer: Buffer.from("a moth\n".repeat(1000)) };
  await form.getByLabel("Files to attach").setInputFiles(file);
  for (const problem of ["The service does not answer.", "HTTP status 403"]) {
    await form.getByText(problem).waitFor();
    await form.getByRole("button", { name: "Try again" }).click();
  }
  await form.getByText("7 kB").waitFor();
  assert.deepEqual([keys.length, keys[1] === keys[0], keys[2] === keys[0]], [3, true, false]);
  await page.context().close();
});

test("a synchronisation is asked after sparingly, and what it brought is seen when it ends", async () => {
  const mail = await openMadeUp([message("m-1")]);
  const { page } = mail;
  let status = "syncing";
  await page.route("**/api/accounts/*/sync", (route) => {
    const isRequest = route.request().method() === "POST";
    if (!isRequest) mail.asked.push("sync");
    return route.fulfill({ status: isRequest ? 202 : 200, json: { status, progress: null } });
  });
  await row(page, /About m-1,/).waitFor();
  await page.waitForTimeout(1_000);
  mail.asked.length = 0;
  await page.getByRole("button", { name: "Look for new mail" }).click();
  await page.getByText("Looking for mail …").nth(1).waitFor();
  await page.waitForTimeout(9_000);
  const count = (what) => mail.asked.filter((one) => one === what).length;
  assert.equal(count("sync"), 4, "two of each account");
  assert(count("GET /api/changes") <= 2, mail.asked.join());
  status = "idle";
  mail.messages.push(message("m-2"));
  mail.changes.push({ type: "message", id: "m-2", accountId: "a", change: "created" });
  await row(page, /About m-2,/).waitFor();
  await page.getByText("Looking for mail …").first().waitFor({ state: "detached" });
  await page.context().close();
});

test("an account takes the place of the keyboard with it", async () => {
  const mail = await openMadeUp([message("m-1"), message("m-4", { accountId: "b", folderId: "g" })]);
  const { page } = mail;
  await page.route("**/api/accounts/*", (route) => {
    mail.accounts.pop();
    return route.fulfill({ json: {} });
  });
  for (let count = 0; count < 2; count += 1) await row(page, /About m-4,/).click({ modifiers: ["Control"] });
  await page.locator("#row-m-4.active").waitFor();
  await page.getByRole("button", { name: "Made up pop3" }).click();
  await page.getByRole("button", { name: "Remove …" }).click();
  await page.getByRole("button", { name: "Remove it from here for good" }).click();
  await toast(page, "b@mail.example is removed.").waitFor();
  await row(page, /About m-4,/).waitFor({ state: "detached" });
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await page.keyboard.press("Enter");
  await page.waitForTimeout(200);
  assert(!page.url().includes("/m/"), page.url());
  await page.context().close();
});

test("no password goes to servers that DNS alone names before somebody has said that they are right", async () => {
  const page = await open();
  const found = (emailAddress, evidence) => ({
    emailAddress, incoming: [{ protocol: "imap", hostname: "imap.elsewhere.example", port: 993, encryption: "tls", username: emailAddress }],
    smtp: [], oauth2: null, appPassword: null, source: "srv", evidence,
  });
  const warning = "srv: imap.elsewhere.example is outside example.org, which DNS alone says: confirm before a password is sent";
  await page.route("**/api/autoconfig?*", (route) => {
    const address = new URL(route.request().url()).searchParams.get("emailAddress");
    return route.fulfill({ json: found(address, address.startsWith("jane") ? ["srv: found", warning] : ["srv: found"]) });
  });
  let tests = 0;
  await page.route("**/api/accounts/test", (route) => {
    tests += 1;
    const incoming = { service: "imap", success: false, code: "authentication", message: "No." };
    return route.fulfill({ json: { success: false, incoming, smtp: null } });
  });
  const look = async (address) => {
    await page.getByLabel("Your mail address").fill(address);
    await page.getByRole("button", { name: "Go on" }).click();
    await page.getByText("Is this your provider?").waitFor();
  };
  await page.getByRole("button", { name: "Add an account" }).click();
  await look("jane@example.org");
  await page.getByText(warning).waitFor();
  await page.getByLabel("Password").fill("a password");
  await page.getByRole("button", { name: "Test and save" }).click();
  await page.waitForFunction(() => document.activeElement.getAttribute("name") === "sure");
  assert.equal(tests, 0);
  await page.getByLabel("This is my provider").check();
  await page.getByRole("button", { name: "Test and save" }).click();
  await page.getByRole("alert").filter({ hasText: "Correct the name or the password" }).waitFor();
  assert.equal(tests, 1);
  await page.getByRole("button", { name: "Another address" }).click();
  await look("joe@example.org");
  assert.equal(await page.getByLabel("This is my provider").count(), 0);
  assert.equal(await page.getByText("srv: found").isVisible(), false);
  await page.context().close();
});
