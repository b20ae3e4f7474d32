// From a page's button by way of the provider's pages to synchronised mail. `cargo run -p xtask -- browser`
// starts the service, a provider and a mail server, and says where they are.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

const { API_URL, CHROMIUM, SIGN_IN_TOKEN, MAILBOX } = process.env;
const ORIGIN = "http://localhost:3000";

/** A page of the frontend: a button on one path, and what the provider sends the user back to on the other. */
const page = (script) => `<!doctype html><title>Page</title><button disabled>Connect</button><output></output>
  <script type="module">
    import { Client } from "/client.js";
    const api = new Client({ baseUrl: ${JSON.stringify(API_URL)}, token: () => ${JSON.stringify(SIGN_IN_TOKEN)} });
    const show = (value) => { document.querySelector("output").textContent = JSON.stringify(value); };
    ${script}
  </script>`;
const PAGES = {
  "/": page(`
    const button = document.querySelector("button");
    button.onclick = async () => {
      const emailAddress = new URLSearchParams(location.search).get("address");
      const { authorizationUrl } = await api.startSignIn({ provider: "local", redirectUri: "${ORIGIN}/connected", emailAddress });
      location.assign(authorizationUrl);
    };
    button.disabled = false;`),
  "/connected": page(`
    try {
      const { id, authType } = await api.finishSignIn(location.href, { accountName: "Private" });
      const { success } = await api.testAccount(id);
      const { state } = await api.getAccount(id);
      await api.requestSync(id);
      let mail = [];
      for (let tries = 0; mail.length === 0 && tries < 50; tries += 1) {
        await new Promise((resolve) => setTimeout(resolve, 300));
        mail = (await api.listMessages({ accountId: id })).messages;
      }
      show({ authType, success, state, subjects: mail.map(({ subject }) => subject) });
    } catch ({ name, code, message }) {
      show({ name, code, message });
    }`),
};

let browser;
const server = createServer(async (request, response) => {
  const { pathname } = new URL(request.url, ORIGIN);
  const isClient = pathname === "/client.js";
  response.setHeader("Content-Type", isClient ? "text/javascript" : "text/html");
  response.end(isClient ? await readFile(new URL("../dist/index.js", import.meta.url)) : PAGES[pathname]);
});

before(async () => {
  await new Promise((resolve, reject) => server.on("error", reject).listen(3000, "127.0.0.1", resolve));
  browser = await chromium.launch({
    executablePath: CHROMIUM,
    // As in accounts.test.js.
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

/** Presses the button as somebody with this address, and returns what the page says in the end. */
async function signIn(address) {
  // The provider's certificate is by an authority that the browser does not know.
  const tab = await browser.newPage({ ignoreHTTPSErrors: true });
  await tab.goto(`${ORIGIN}/?address=${encodeURIComponent(address)}`);
  await tab.getByRole("button", { name: "Connect" }).click();
  await tab.waitForURL(`${ORIGIN}/connected?*`);
  const said = await tab.locator("output:not(:empty)").textContent({ timeout: 20_000 });
  await tab.close();
  return JSON.parse(said);
}

test("a button, the provider's pages, and the mailbox's messages are there", async () => {
  const expected = { authType: "oauth2", success: true, state: "connected", subjects: ["Welcome"] };
  assert.deepEqual(await signIn(MAILBOX), expected);
});

test("who declines at the provider comes back to a page that says so", async () => {
  const said = await signIn("denied@mail.example");
  assert.deepEqual([said.name, said.code], ["SignInError", "access_denied"]);
});
