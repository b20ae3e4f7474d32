import { fileURLToPath } from "node:url";

import { defineConfig } from "vite";

export default defineConfig({
  resolve: { alias: { "email-service-client": fileURLToPath(new URL("../typescript/src/index.ts", import.meta.url)) } },
  // The page's policy takes files of its own server and nothing else.
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
});
