// Pages in a real browser use the built client. `cargo verify` starts the service and says where it is.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

const { API_URL, CHROMIUM, TOKEN, HASTY_TOKEN } = process.env;
/** The origin that CORS_ORIGINS names by default, and one that is another for a browser, on the same server. */
const [OWN, FOREIGN] = ["http://localhost:3000", "http://127.0.0.1:3000"];
const ACCOUNT = {
  accountName: "Work",
  emailAddress: "jane@example.com",
  protocol: "imap",
  hostname: "imap.example.com",
  port: 993,
  username: "jane",
  password: "correct horse battery staple",
};

let browser;
const server = createServer(async (request, response) => {
  const isClient = request.url === "/client.js";
  response.setHeader("Content-Type", isClient ? "text/javascript" : "text/html");
  response.end(isClient ? await readFile(new URL("../dist/index.js", import.meta.url)) : "<!doctype html><title>Page</title>");
});

before(async () => {
  await new Promise((resolve, reject) => server.on("error", reject).listen(3000, "127.0.0.1", resolve));
  browser = await chromium.launch({
    executablePath: CHROMIUM,
    // Chromium's own sandbox refuses root. The rest keeps it from calling anybody but us.
    args: [
      "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update",
      "--disable-gpu", "--disable-quic", "--disable-sync", "--host-resolver-rules=MAP localhost 127.0.0.1",
    ],
  });
});

after(async () => {
  await browser?.close();
  server.close();
});

/** Runs `script` in a page of `origin`, with a client, and returns what it returns. */
async function inPage(origin, script, argument) {
  const page = await browser.newPage();
  await page.goto(origin);
  const preflights = [];
  const developer = await page.context().newCDPSession(page);
  await developer.send("Network.enable");
  developer.on("Network.requestWillBeSent", ({ request }) => request.method === "OPTIONS" && preflights.push(request.url));
  const result = await page.evaluate(
    `(async () => {
      const { ApiError, Client } = await import("/client.js");
      const client = (token, options) => new Client({ baseUrl: ${JSON.stringify(API_URL)}, token: () => token, ...options });
      const refusal = (call) => call.then(() => "no refusal", (error) => ({
        kind: error.kind, status: error.status, requestId: error.requestId, retryAfter: error.retryAfter,
        name: error.name, details: error.details?.map(({ field }) => field),
      }));
      return (${script})({ client, refusal }, ${JSON.stringify(argument)});
    })()`,
  );
  await page.close();
  return { result, preflights };
}

test("a page creates, lists, reads, updates and deletes, after preflights", async () => {
  const { result, preflights } = await inPage(OWN, async ({ client }, { TOKEN, ACCOUNT }) => {
    const api = client(TOKEN);
    const created = await api.createAccount(ACCOUNT);
    const { accounts } = await api.listAccounts();
    const read = await api.getAccount(created.id);
    const updated = await api.updateAccount(created.id, { syncInterval: 600 });
    const deleted = await api.deleteAccount(created.id);
    const { pagination } = await api.listAccounts();
    return { created, listed: accounts.map(({ id }) => id), read, updated, deleted, left: pagination.total };
  }, { TOKEN, ACCOUNT });
  assert.equal(result.created.emailAddress, ACCOUNT.emailAddress);
  assert.equal(result.created.password, undefined);
  assert.deepEqual(result.listed, [result.created.id]);
  assert.deepEqual(result.read, result.created);
  assert.equal(result.updated.syncInterval, 600);
  assert.equal(result.deleted.id, result.created.id);
  assert.equal(result.left, 0);
  // One for each path: the browser remembers what is allowed there.
  const paths = ["/api/accounts", `/api/accounts/${result.created.id}`];
  assert.deepEqual(preflights, paths.map((path) => API_URL + path));
});

test("a page can read refusals", async () => {
  const { result } = await inPage(OWN, async ({ client, refusal }, { TOKEN, ACCOUNT }) => {
    const api = client(TOKEN);
    const { id } = await api.createAccount(ACCOUNT);
    const taken = await refusal(api.createAccount(ACCOUNT));
    const invalid = await refusal(api.createAccount({ ...ACCOUNT, port: 0 }));
    const nobody = await refusal(client("no token").listAccounts());
    await api.deleteAccount(id);
    return { taken, invalid, nobody, gone: await refusal(api.deleteAccount(id)) };
  }, { TOKEN, ACCOUNT });
  assert.deepEqual([result.taken.status, result.taken.kind], [409, "Conflict"]);
  assert.deepEqual([result.invalid.kind, result.invalid.details], ["Invalid request", ["port"]]);
  assert.deepEqual([result.nobody.status, result.nobody.kind], [401, "Unauthorized"]);
  assert.deepEqual([result.gone.status, result.gone.kind], [404, "Not found"]);
  assert.match(result.nobody.requestId, /./);
});

test("a page can read the rate limit", async () => {
  const { result } = await inPage(OWN, async ({ client, refusal }, { HASTY_TOKEN, API_URL }) => {
    const api = client(HASTY_TOKEN, { retries: 0 });
    const ask = () => fetch(`${API_URL}/api/accounts`, { headers: { Authorization: `Bearer ${HASTY_TOKEN}` } });
    const statuses = (await Promise.all(Array.from({ length: 80 }, ask))).map(({ status }) => status);
    const headers = Object.fromEntries((await ask()).headers);
    return { refused: statuses.filter((status) => status === 429).length, headers, error: await refusal(api.listAccounts()) };
  }, { HASTY_TOKEN, API_URL });
  // Some fifty are let in: of a Redis that takes longer than its 100 ms each process counts for itself for a second.
  assert(result.refused >= 1 && result.refused <= 30, `${result.refused} of 80 refused`);
  assert.deepEqual([result.error.status, result.error.kind], [429, "Rate limit exceeded"]);
  assert(result.error.retryAfter > 0 && result.error.retryAfter <= 60_000);
  assert.equal(result.headers["x-ratelimit-limit"], "50");
  assert.equal(result.headers["x-ratelimit-remaining"], "0");
  for (const name of ["x-ratelimit-reset", "ratelimit", "ratelimit-policy", "retry-after", "x-request-id"]) {
    assert(result.headers[name], `${name} is not readable: ${JSON.stringify(result.headers)}`);
  }
});

test("the browser refuses a page of a foreign origin", async () => {
  const { result } = await inPage(FOREIGN, async ({ client, refusal }, { TOKEN, ACCOUNT }) => {
    const api = client(TOKEN);
    return [await refusal(api.listAccounts()), await refusal(api.createAccount(ACCOUNT))];
  }, { TOKEN, ACCOUNT });
  for (const refusal of result) assert.deepEqual([refusal.name, refusal.status], ["TypeError", undefined]);
  const { result: left } = await inPage(OWN, async ({ client }, { TOKEN }) => (await client(TOKEN).listAccounts()).pagination.total, { TOKEN });
  assert.equal(left, 0, "the foreign page's create reached the service");
});

test("the reference page shows the operations and asks nobody else", async () => {
  const page = await browser.newPage();
  const [complaints, hosts] = [[], new Set()];
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => request.url().startsWith("http") && hosts.add(new URL(request.url()).origin));
  await page.goto(`${API_URL}/docs`);
  await page.getByText("Register an account").waitFor();
  assert.deepEqual([...hosts], [API_URL]);
  assert.deepEqual(complaints, []);
  await page.close();
});
