import assert from "node:assert/strict";
import { test } from "node:test";

import { ApiError, Client, SignInError } from "../dist/index.js";

/** A client whose fetch gives these answers in turn, and what it was asked. */
function scripted(answers, options = {}) {
  const asked = [];
  const fetch = async (url, init) => {
    asked.push({ url, ...init });
    const [status, body, headers] = answers.shift();
    return new Response(typeof body === "string" ? body : JSON.stringify(body), { status, headers });
  };
  return { client: new Client({ baseUrl: "https://api.example.com/", token: () => "t", fetch, ...options }), asked };
}

const refusal = (error, more) => ({ error, message: "m", requestId: "r", ...more });

test("a call has its method, path, body and a fresh token", async () => {
  let tokens = 0;
  const { client, asked } = scripted([[201, { id: "1" }], [200, {}], [200, {}]], { token: async () => `t${++tokens}` });
  assert.deepEqual(await client.createAccount({ accountName: "Work" }), { id: "1" });
  await client.listAccounts({ limit: 10, offset: 20 });
  await client.deleteAccount("a/b");
  assert.deepEqual(asked.map(({ method, url }) => `${method} ${url}`), [
    "POST https://api.example.com/api/accounts",
    "GET https://api.example.com/api/accounts?limit=10&offset=20",
    "DELETE https://api.example.com/api/accounts/a%2Fb",
  ]);
  assert.deepEqual(asked.map(({ headers }) => headers.Authorization), ["Bearer t1", "Bearer t2", "Bearer t3"]);
  assert.equal(asked[0].body, '{"accountName":"Work"}');
  assert.equal(asked[1].headers["Content-Type"], undefined);
});

test("a call that makes something has a key where one is given", async () => {
  const { client, asked } = scripted([[201, {}], [201, {}]]);
  await client.createAccount({}, { idempotencyKey: "k" });
  await client.createAccount({});
  assert.deepEqual(asked.map(({ headers }) => headers["Idempotency-Key"]), ["k", undefined]);
});

test("drafts are kept, changed, listed and deleted", async () => {
  const pages = [{ drafts: [{ id: "2" }], nextCursor: "2" }, { drafts: [{ id: "1" }], nextCursor: null }];
  const { client, asked } = scripted([[201, {}], [200, {}], [200, {}], [200, {}], [200, pages[0]], [200, pages[1]]]);
  await client.createDraft({ subject: "x" }, { idempotencyKey: "k" });
  await client.getDraft("a/b");
  await client.updateDraft("1", { version: 1, subject: "y" });
  await client.deleteDraft("1");
  const ids = [];
  for await (const { id } of client.allDrafts({ limit: 1 })) ids.push(id);
  assert.deepEqual(ids, ["2", "1"]);
  assert.deepEqual(asked.map(({ method, url }) => `${method} ${url}`), [
    "POST https://api.example.com/api/drafts",
    "GET https://api.example.com/api/drafts/a%2Fb",
    "PUT https://api.example.com/api/drafts/1",
    "DELETE https://api.example.com/api/drafts/1",
    "GET https://api.example.com/api/drafts?limit=1",
    "GET https://api.example.com/api/drafts?limit=1&cursor=2",
  ]);
  assert.equal(asked[0].headers["Idempotency-Key"], "k");
});

test("a message is put into the outbox, looked after, taken back and tried again", async () => {
  const { client, asked } = scripted([[202, {}], [200, {}], [200, {}], [200, {}], [202, {}]]);
  await client.sendMessage({ accountId: "1", to: [{ address: "a@example.com" }] }, { idempotencyKey: "k" });
  await client.listOutbox({ limit: 1, cursor: "2" });
  await client.getOutgoing("a/b");
  await client.cancelOutgoing("1");
  await client.retryOutgoing("1");
  assert.deepEqual(asked.map(({ method, url }) => `${method} ${url}`), [
    "POST https://api.example.com/api/outbox",
    "GET https://api.example.com/api/outbox?limit=1&cursor=2",
    "GET https://api.example.com/api/outbox/a%2Fb",
    "DELETE https://api.example.com/api/outbox/1",
    "POST https://api.example.com/api/outbox/1/retry",
  ]);
  assert.equal(asked[0].headers["Idempotency-Key"], "k");
});

test("a file is announced and put, without the token", async () => {
  const link = { id: "7", url: "https://store.example.com/7?signed", headers: { "content-type": "text/plain" }, expiresAt: 1 };
  const file = new Blob(["hello"], { type: "text/plain;charset=utf-8" });
  for (const status of [200, 412]) {
    const { client, asked } = scripted([[201, link], [status, ""]]);
    assert.equal(await client.upload(file, "a.txt"), "7");
    assert.deepEqual(JSON.parse(asked[0].body), { filename: "a.txt", contentType: "text/plain", size: 5 });
    assert.deepEqual([asked[1].method, asked[1].url, asked[1].headers, asked[1].body], ["PUT", link.url, link.headers, file]);
  }
  const { client } = scripted([[201, link], [403, "<Error/>"]]);
  await assert.rejects(client.upload(file, "a.txt"), (error) => error instanceof ApiError && error.status === 403);
});

test("settings are tried, an account is tried with or without other fields, and an address is looked up", async () => {
  const { client, asked } = scripted(Array.from({ length: 4 }, () => [200, {}]));
  await client.testSettings({ accountName: "Work" });
  await client.testAccount("a/b");
  await client.testAccount("1", { password: "p" });
  await client.findSettings("jane+x@bücher.example");
  assert.deepEqual(asked.map(({ method, url, body }) => [`${method} ${url}`, body]), [
    ["POST https://api.example.com/api/accounts/test", '{"accountName":"Work"}'],
    ["POST https://api.example.com/api/accounts/a%2Fb/test", undefined],
    ["POST https://api.example.com/api/accounts/1/test", '{"password":"p"}'],
    ["GET https://api.example.com/api/autoconfig?emailAddress=jane%2Bx%40b%C3%BCcher.example", undefined],
  ]);
});

test("a synchronisation is asked for, watched and ended, and its mail is listed", async () => {
  const { client, asked } = scripted(Array.from({ length: 5 }, () => [200, {}]));
  await client.requestSync("a/b");
  await client.getSync("1");
  await client.cancelSync("1");
  await client.listFolders("1");
  await client.listMessages({ accountId: "1", role: "inbox", isRead: false, before: 7, q: "50% & more", limit: 10, cursor: "c" });
  assert.deepEqual(asked.map(({ method, url }) => `${method} ${url}`), [
    "POST https://api.example.com/api/accounts/a%2Fb/sync",
    "GET https://api.example.com/api/accounts/1/sync",
    "DELETE https://api.example.com/api/accounts/1/sync",
    "GET https://api.example.com/api/accounts/1/folders",
    "GET https://api.example.com/api/messages?accountId=1&role=inbox&isRead=false&before=7&q=50%25+%26+more&limit=10&cursor=c",
  ]);
});

test("a message is read, and its bytes are blobs", async () => {
  const disposition = { "Content-Type": "image/png", "Content-Disposition": "attachment; filename=\"a.png\"" };
  const { client, asked } = scripted([[200, { text: "Hello" }], [200, "raw"], [200, "png", disposition], [404, refusal("Not found")]]);
  assert.deepEqual(await client.getMessage("a/b"), { text: "Hello" });
  assert.equal(await (await client.getRawMessage("1")).text(), "raw");
  const picture = await client.getAttachment("1", "2/3");
  assert.deepEqual([picture.type, await picture.text()], ["image/png", "png"]);
  await assert.rejects(client.getAttachment("1", "9"), { kind: "Not found" });
  assert.deepEqual(asked.map(({ method, url }) => `${method} ${url}`), [
    "GET https://api.example.com/api/messages/a%2Fb",
    "GET https://api.example.com/api/messages/1/raw",
    "GET https://api.example.com/api/messages/1/attachments/2%2F3",
    "GET https://api.example.com/api/messages/1/attachments/9",
  ]);
});

test("messages are changed and deleted, one by one or many at once", async () => {
  const { client, asked } = scripted(Array.from({ length: 4 }, () => [200, {}]));
  await client.updateMessage("a/b", { isRead: true });
  await client.deleteMessage("1");
  await client.deleteMessage("1", { permanent: true });
  await client.batchMessages({ ids: ["1"], delete: true });
  assert.deepEqual(asked.map(({ method, url, body }) => [`${method} ${url}`, body]), [
    ["PUT https://api.example.com/api/messages/a%2Fb", '{"isRead":true}'],
    ["DELETE https://api.example.com/api/messages/1", undefined],
    ["DELETE https://api.example.com/api/messages/1?permanent=true", undefined],
    ["POST https://api.example.com/api/messages/batch", '{"ids":["1"],"delete":true}'],
  ]);
});

test("all messages are those of all pages", async () => {
  const pages = [{ messages: [{ id: "1" }, { id: "2" }], nextCursor: "c" }, { messages: [{ id: "3" }], nextCursor: null }];
  const { client, asked } = scripted(pages.map((page) => [200, page]));
  const ids = [];
  for await (const { id } of client.allMessages({ isFlagged: true })) ids.push(id);
  assert.deepEqual(ids, ["1", "2", "3"]);
  assert.deepEqual(asked.map(({ url }) => url.split("?")[1]), ["limit=200&isFlagged=true", "limit=200&isFlagged=true&cursor=c"]);
});

test("changes are followed from answer to answer, past what passes, up to what does not", async () => {
  const change = { type: "message", id: "1", accountId: "2", change: "created" };
  const answer = (changes, cursor, hasMore = false) => [200, { changes, cursor, hasMore }];
  const { client, asked } = scripted(
    [
      answer([], "a"),
      answer([change, change], "b", true),
      answer([change], "c"),
      answer([], "d"),
      [500, refusal("Internal server error")],
      [502, "<html>"],
      [429, refusal("Rate limit exceeded"), { "Retry-After": "0" }],
      answer([change], "e"),
      [410, refusal("Gone")],
    ],
    { retries: 0 },
  );
  const seen = [];
  await assert.rejects(async () => {
    for await (const { changes, cursor } of client.followChanges({ pause: 0 })) seen.push([changes.length, cursor]);
  }, { kind: "Gone", status: 410 });
  assert.deepEqual(seen, [[0, "a"], [2, "b"], [1, "c"], [1, "e"]]);
  const since = asked.map(({ url }) => new URL(url).searchParams.get("since"));
  assert.deepEqual(since, [null, "a", "b", "c", "d", "d", "d", "d", "e"]);
});

test("who follows waits longer while nothing changes, asks again where there was no answer, and can be stopped", async () => {
  const waits = [];
  const { setTimeout } = globalThis;
  globalThis.setTimeout = (done, milliseconds) => setTimeout(done, waits.push(milliseconds) && 0);
  const stop = new AbortController();
  let questions = 0;
  const fetch = async () => {
    questions += 1;
    if (questions === 3) throw new TypeError("fetch failed");
    if (questions === 7) stop.abort();
    const changes = questions === 6 ? [{}] : [];
    return new Response(JSON.stringify({ changes, cursor: "c", hasMore: false }));
  };
  const client = new Client({ baseUrl: "https://api.example.com", token: () => "t", fetch });
  const following = async () => {
    for await (const _ of client.followChanges({ since: "c", pause: 100, longestPause: 1000, signal: stop.signal }));
  };
  await assert.rejects(following, { name: "AbortError" });
  globalThis.setTimeout = setTimeout;
  const most = [200, 400, 800, 1000, 1000, 100, 200];
  assert.equal(waits.length, most.length);
  waits.forEach((milliseconds, n) => assert(milliseconds <= most[n] && milliseconds >= most[n] * 0.75, `${n}: ${milliseconds}`));
});

test("a sign-in begins, and ends with what the page's address has", async () => {
  const { client, asked } = scripted([[201, { state: "s" }], [201, { id: "1" }], [200, { id: "1" }]]);
  await client.startSignIn({ provider: "google", redirectUri: "https://app.example.com/connected" });
  await client.finishSignIn("https://app.example.com/connected?state=s&code=4%2F0A&scope=x");
  await client.finishSignIn(new URL("https://app.example.com/connected?state=s&code=c"), { accountName: "Work" });
  assert.deepEqual(asked.map(({ url, body }) => [url, body]), [
    ["https://api.example.com/api/oauth2/authorizations", '{"provider":"google","redirectUri":"https://app.example.com/connected"}'],
    ["https://api.example.com/api/oauth2/accounts", '{"state":"s","code":"4/0A"}'],
    ["https://api.example.com/api/oauth2/accounts", '{"state":"s","code":"c","accountName":"Work"}'],
  ]);
});

test("who comes back from the provider without a code asks nobody", async () => {
  const { client, asked } = scripted([]);
  for (const [query, code] of [["state=s&error=access_denied", "access_denied"], ["state=s", "no_code"], ["code=c", "no_code"]]) {
    await assert.rejects(client.finishSignIn(`https://app.example.com/connected?${query}`), (error) => {
      assert(error instanceof SignInError);
      assert.equal(error.code, code);
      return true;
    });
  }
  assert.deepEqual(asked, []);
});

test("a refusal has kind, status, details and request id", async () => {
  const details = [{ field: "port", message: "is required" }];
  const { client } = scripted([[400, refusal("Invalid request", { details })]]);
  await assert.rejects(client.createAccount({}), (error) => {
    assert(error instanceof ApiError);
    assert.deepEqual([error.kind, error.status, error.details, error.requestId], ["Invalid request", 400, details, "r"]);
    return true;
  });
});

test("an answer that is not the service's is an error, too", async () => {
  const { client } = scripted([[502, "<html>"]]);
  await assert.rejects(client.listAccounts(), { kind: "Unexpected answer", status: 502 });
});

test("a 429 is waited out and repeated", async () => {
  const { client, asked } = scripted([[429, refusal("Rate limit exceeded"), { "Retry-After": "0" }], [200, { accounts: [] }]]);
  assert.deepEqual(await client.listAccounts(), { accounts: [] });
  assert.equal(asked.length, 2);
});

test("a wait is bounded in number and length", async () => {
  const busy = (seconds) => [429, refusal("Rate limit exceeded"), { "Retry-After": seconds }];
  const often = scripted([busy("0"), busy("0"), busy("0")], { retries: 2 });
  await assert.rejects(often.client.listAccounts(), { status: 429 });
  assert.equal(often.asked.length, 3);
  const long = scripted([busy("61")]);
  await assert.rejects(long.client.listAccounts(), { retryAfter: 61_000 });
  const unknown = scripted([[429, refusal("Rate limit exceeded")]]);
  await assert.rejects(unknown.client.listAccounts(), { retryAfter: undefined });
});

test("an abort ends the wait", async () => {
  const { client, asked } = scripted([[429, refusal("Rate limit exceeded"), { "Retry-After": "30" }]]);
  const started = Date.now();
  await assert.rejects(client.listAccounts({ signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
  assert(Date.now() - started < 5_000);
  assert.equal(asked.length, 1);
});

test("all accounts come page by page", async () => {
  const page = (ids, offset) => [200, { accounts: ids.map((id) => ({ id })), pagination: { total: 3, limit: 2, offset } }];
  const { client, asked } = scripted([page(["1", "2"], 0), page(["3"], 2)]);
  const ids = [];
  for await (const account of client.allAccounts({ limit: 2, state: "connectError" })) ids.push(account.id);
  assert.deepEqual(ids, ["1", "2", "3"]);
  assert.deepEqual(asked.map(({ url }) => new URL(url).search), [
    "?limit=2&offset=0&state=connectError",
    "?limit=2&offset=2&state=connectError",
  ]);
});
