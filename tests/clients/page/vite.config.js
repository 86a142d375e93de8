import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  logLevel: "error",
  resolve: { alias: { xmlbuilder2: "/no-xml.js" } },
  worker: { format: "es" },
  build: {
    target: "es2022",
    outDir: "dist",
    minify: false,
    modulePreload: { polyfill: false },
    chunkSizeWarningLimit: 20000,
  },
});
