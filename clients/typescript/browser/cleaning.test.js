// Cleaned mail in a real browser: nothing of the hostile samples runs, asks anybody or leaves its box, whatever our own
// reading of them says; and the honest ones keep their words and links. `cargo run -p xtask -- browser` cleans them and
// says where they are.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, before, test } from "node:test";

import { chromium } from "playwright-core";

const { CHROMIUM, CLEANED } = process.env;
const { hostile, honest, spliced, fuzzed } = JSON.parse(await readFile(CLEANED, "utf8"));

/** What a page has around the mail: neither a policy nor a sandbox, so that only the cleaning is looked at. */
const document = (body) => `<!doctype html><meta charset="utf-8"><title>Page</title><body>${body}`;
const EMPTY = document('<div id="mail" style="position:absolute;left:50px;top:50px;width:600px"></div>');

let browser, origin;
/** What each path is answered with; the second is of the mail's own picture. */
const pages = new Map([["/", EMPTY], ["/attachments/1", ""]]);
const server = createServer((request, response) => {
  response.setHeader("Content-Type", "text/html; charset=utf-8");
  response.end(pages.get(request.url) ?? "");
});

before(async () => {
  await new Promise((resolve, reject) => server.on("error", reject).listen(0, "127.0.0.1", resolve));
  origin = `http://127.0.0.1:${server.address().port}`;
  browser = await chromium.launch({
    executablePath: CHROMIUM,
    // As in accounts.test.js.
    args: [
      "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update",
      "--disable-gpu", "--disable-quic", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ],
  });
});

after(async () => {
  await browser?.close();
  server.close();
});

/** The ways in which a page shows mail. Each returns the frame that has it. */
const WAYS = {
  async innerHTML(page, html) {
    // Written and read again, as editors do.
    await page.evaluate((html) => {
      const mail = window.document.getElementById("mail");
      mail.innerHTML = html;
      for (let times = 0; times < 2; times += 1) mail.innerHTML = String(mail.innerHTML);
    }, html);
    return page.mainFrame();
  },
  async srcdoc(page, html) {
    const frame = await page.evaluateHandle((html) => {
      const frame = window.document.createElement("iframe");
      frame.srcdoc = html;
      return new Promise((resolve) => {
        frame.onload = () => resolve(frame);
        window.document.getElementById("mail").replaceChildren(frame);
      });
    }, document(`<div id="mail">${html}</div>`));
    return frame.asElement().contentFrame();
  },
  async navigation(page, html, path) {
    pages.set(path, document(`<div id="mail">${html}</div>`));
    // A refresh may be faster.
    await page.goto(origin + path).catch(() => {});
    return page.mainFrame();
  },
};

/** A window that shows one mail after the other. */
class Viewer {
  #way;
  #context;
  #page;
  #did = [];

  constructor(way) {
    this.#way = way;
  }

  async #open() {
    this.#did = [];
    if (!this.#context) {
      this.#context = await browser.newContext();
      await this.#context.route("**/*", (route) => {
        const url = new URL(route.request().url());
        if (url.origin === origin && pages.has(url.pathname)) return route.continue();
        this.#did.push(`asked for ${url}`);
        return route.fulfill({ contentType: "text/javascript", body: "alert('from elsewhere')" });
      });
    }
    this.#page = await this.#context.newPage();
    this.#page.on("popup", (popup) => {
      this.#did.push("opened a window");
      return popup.close();
    });
    this.#page.on("dialog", (dialog) => {
      this.#did.push(`said ${dialog.message()}`);
      return dialog.dismiss().catch(() => {});
    });
    await this.#page.goto(origin);
  }

  /** Shows it, does to each element what a reader might do, and returns what came of it. */
  async show(html, path) {
    if (!this.#page) await this.#open();
    const [page, did] = [this.#page, this.#did];
    const inspected = [];
    // A page may be in its own way: a refresh without end, a question that waits for its answer.
    let timer;
    const late = new Promise((_, reject) => { timer = setTimeout(reject, 5000, new Error("it does not come to rest")); });
    const looked = async () => {
      const frame = await WAYS[this.#way](page, html, path);
      await frame.evaluate(poke);
      // What is about to happen has happened.
      await frame.evaluate(() => new Promise((resolve) => setTimeout(() => requestAnimationFrame(resolve), 20)));
      inspected.push(...(await frame.evaluate(inspect)));
      if (page.url() !== origin + (this.#way === "navigation" ? path : "/")) did.push(`went to ${page.url()}`);
    };
    await Promise.race([looked(), late]).catch((error) => did.push(`left: ${error}`));
    clearTimeout(timer);
    // What did something may do more.
    if (did.length > 0) {
      this.#page = undefined;
      // Not waited for: it may be in the midst of a question.
      page.close().catch(() => {});
    }
    return { did, inspected };
  }

  async close() {
    await this.#context?.close();
  }
}

/** In the page: every event that somebody's handler may wait for. */
function poke() {
  // Links may be followed; that is what they are for.
  window.document.addEventListener("click", (event) => event.target.closest?.("a[href^=http],a[href^=mailto],a[href^=tel]") && event.preventDefault(), true);
  for (const element of window.document.querySelectorAll("#mail, #mail *")) {
    for (const name of ["mouseover", "mouseenter", "pointerenter", "pointerover", "focus", "blur", "load", "error", "toggle", "begin", "dragstart", "submit", "input", "keydown"]) {
      element.dispatchEvent(new Event(name, { bubbles: true, cancelable: true }));
    }
    element.focus?.();
    element.click?.();
  }
}

/** In the page: what is there and may not be. */
function inspect() {
  const ELEMENTS = new Set(("a abbr acronym address article aside b bdi bdo big blockquote br caption center cite code col colgroup dd del dfn "
    + "dir div dl dt em figcaption figure font footer h1 h2 h3 h4 h5 h6 header hr i img ins kbd li main mark nav ol p pre q s samp section small "
    + "span strike strong sub sup table tbody td tfoot th thead tr tt u ul wbr rp rt ruby").split(" "));
  const ATTRIBUTES = new Set(("align alt bgcolor border cellpadding cellspacing color colspan data-remote-src dir face height href lang nowrap rel "
    + "role rowspan size src start style target title type valign width").split(" "));
  const found = [];
  const mail = window.document.getElementById("mail");
  const box = mail.getBoundingClientRect();
  for (const element of mail.querySelectorAll("*")) {
    const name = element.localName;
    if (element.namespaceURI !== "http://www.w3.org/1999/xhtml" || !ELEMENTS.has(name)) found.push(`<${name}>`);
    for (const attribute of element.getAttributeNames()) {
      if (!ATTRIBUTES.has(attribute)) found.push(`<${name} ${attribute}>`);
    }
    if (element.hasAttribute("href")) {
      // ":" is what no browser understands, and follows.
      if (!["http:", "https:", "mailto:", "tel:", ":"].includes(element.protocol)) found.push(`link to ${element.href}`);
      if (element.target !== "_blank" || !["noopener", "noreferrer", "nofollow"].every((word) => element.relList.contains(word))) found.push("link with an opener");
    }
    if (element.hasAttribute("src") && !/^(data:image\/(png|jpeg|jpg|gif|webp|bmp);base64,|\/attachments\/)/.test(element.getAttribute("src"))) found.push(`picture ${element.getAttribute("src")}`);
    if (element.shadowRoot) found.push("a shadow");
    const style = window.getComputedStyle(element);
    const expected = {
      position: "static", zIndex: "auto", transform: "none", backgroundImage: "none", listStyleImage: "none", borderImageSource: "none",
      maskImage: "none", filter: "none", animationName: "none", content: "normal", shapeOutside: "none", clipPath: "none",
    };
    for (const [property, value] of Object.entries(expected)) {
      if (style[property] !== value && style[property] !== undefined) found.push(`${property}: ${style[property]}`);
    }
    if (/url|var/.test(style.cursor)) found.push(`cursor: ${style.cursor}`);
    for (const side of ["Top", "Right", "Bottom", "Left"]) {
      if (parseFloat(style[`margin${side}`]) < 0) found.push(`margin${side}: ${style[`margin${side}`]}`);
    }
    const place = element.getBoundingClientRect();
    if (place.width && (place.left < box.left - 1 || place.top < box.top - 1)) found.push(`<${name}> is outside`);
  }
  // What is in the page's own names.
  if (typeof window.document.getElementById !== "function" || typeof window.document.cookie !== "string" || window.config) found.push("clobbered");
  return found;
}

/** Shows all of them, and returns what came of each. */
async function show(way, kind, bodies) {
  const viewer = new Viewer(way);
  const results = [];
  for (const [index, body] of bodies.entries()) results.push(await viewer.show(body, `/${kind}/${index}`));
  await viewer.close();
  return results;
}

for (const way of Object.keys(WAYS)) {
  test(`nothing of ${hostile.length} hostile samples does anything, shown by ${way}`, async () => {
    assert(hostile.length >= 80);
    const results = await show(way, "cleaned", hostile.map(({ cleaned }) => cleaned.html));
    const failed = results.map((result, index) => ({ ...hostile[index], ...result }));
    assert.deepEqual(failed.filter(({ did, inspected }) => did.length > 0 || inspected.length > 0), []);
  });
}

for (const [how, least, samples] of [["pieced together from two", 5000, spliced], ["found by the fuzzer", 500, fuzzed]]) {
  test(`nothing of ${samples.length} samples does anything that were ${how}`, async () => {
    assert(samples.length >= least);
    const viewer = new Viewer("innerHTML");
    const isBad = ({ did, inspected }) => did.length > 0 || inspected.length > 0;
    for (let start = 0; start < samples.length; start += 50) {
      const some = samples.slice(start, start + 50);
      const together = some.map(({ cleaned }) => `<div>${cleaned}</div>`).join("");
      if (!isBad(await viewer.show(together, "/"))) continue;
      // Which of them was it?
      for (const { html, cleaned } of some) assert(!isBad(await viewer.show(cleaned, "/")), `${html}\nbecame\n${cleaned}`);
      assert.fail(`samples ${start} to ${start + 49} do something together`);
    }
    await viewer.close();
  });
}

test("of samples as they came this tells", async () => {
  // Each that does something costs a window.
  const some = hostile.filter((_, index) => index % 3 === 0);
  const results = await show("navigation", "raw", some.map(({ html }) => html));
  const count = (key) => results.filter((result) => result[key].length > 0).length;
  // Some need an older browser, and some a page around them.
  assert(count("did") >= some.length / 3, `only ${count("did")} did something`);
  assert(count("inspected") >= some.length / 3, `only ${count("inspected")} have something`);
});

test("honest mail keeps its words and links", async () => {
  const words = (text) => text.replace(/[\s\u200b-\u200d\u034f]+/g, " ").trim();
  assert(honest.length >= 10);
  for (const [index, { name, html, cleaned }] of honest.entries()) {
    const shown = [];
    for (const [kind, body] of [["raw", html], ["cleaned", document(cleaned.html)]]) {
      const page = await browser.newPage();
      await page.route("**/*", (route) => (new URL(route.request().url()).origin === origin ? route.continue() : route.abort()));
      pages.set(`/honest/${kind}/${index}`, body);
      await page.goto(`${origin}/honest/${kind}/${index}`);
      shown.push(await page.evaluate(() => ({
        text: window.document.body.innerText,
        links: Array.from(window.document.links, (link) => ({ text: link.innerText, href: link.href })),
      })));
      await page.close();
    }
    const [raw, clean] = shown.map(({ text, links }) => ({
      text: words(text),
      links: links.map(({ text, href }) => ({ text: words(text), href })),
    }));
    assert.deepEqual(clean, raw, name);
    assert(raw.text.length > 20 && raw.links.length > 0, name);
  }
});
