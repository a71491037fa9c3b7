import { defineConfig } from "vitest/config";

export default defineConfig({
  base: "./", // the server fills in the way to /ui/, whatever the path prefix of a proxy
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false } },
  server: { proxy: { "/v1": "http://127.0.0.1:8000" } },
  test: { css: true }, // a test reads the colours
});
