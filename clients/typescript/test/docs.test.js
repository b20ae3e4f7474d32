import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import ts from "typescript";

const ROOT = new URL("../", import.meta.url).pathname;

/** What the pages leave to the reader's application. */
const APPLICATION = `
import type { Fault, Folder, Message, NewAccount } from "email-service-client";
declare const input: NewAccount, session: { token: string };
declare const message: Message, ids: string[], archive: Folder, file: File;
declare function currentToken(): string;
declare function showFaults(faults: readonly Fault[]): void;
declare function showTaken(): void;
declare function show(id: string, subject: string | null): void;
declare function showFailure(message: string, requestId?: string): void;
`;

/** The page's TypeScript as one module: imports and the client at the top, the calls in a function. */
function moduleOf(page) {
  const blocks = [...readFileSync(`${ROOT}${page}`, "utf8").matchAll(/^```ts\n(.*?)^```/gms)].map(([, code]) => code);
  assert(blocks.length > 0, `${page} has no TypeScript`);
  const [first, ...others] = blocks;
  return `${APPLICATION}${first}\nexport async function calls() {\n${others.join("\n")}\n}\n`;
}

/** The compiler's faults in a module of this text. */
function faults(text) {
  const options = {
    module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2022, lib: ["lib.es2022.d.ts", "lib.dom.d.ts"],
    types: [], strict: true, exactOptionalPropertyTypes: true, noEmit: true,
  };
  // In the package, so that its name means what it exports.
  const name = `${ROOT}snippets.ts`;
  const host = ts.createCompilerHost(options);
  const { readFile, fileExists } = host;
  host.fileExists = (file) => file === name || fileExists(file);
  host.readFile = (file) => (file === name ? text : readFile(file));
  const found = ts.getPreEmitDiagnostics(ts.createProgram([name], options, host));
  return found.map(({ messageText }) => ts.flattenDiagnosticMessageText(messageText, "\n"));
}

for (const page of ["../../docs/API.md", "README.md"]) {
  test(`the TypeScript of ${page} compiles against the client`, () => {
    assert.deepEqual(faults(moduleOf(page)), []);
  });
}

test("a snippet that calls what is not there is found", () => {
  const text = moduleOf("README.md").replace("listAccounts", "listAllAccounts");
  assert.match(faults(text).join(), /listAllAccounts/);
});
