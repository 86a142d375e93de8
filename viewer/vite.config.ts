import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  resolve: { alias: { xmlbuilder2: "/src/no-xml.ts" } },
  build: {
    target: "es2022",
    outDir: "dist",
    // The service's Content-Security-Policy allows no inline script and no data: script.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: ["index.html", "docs.html", "benchmarks.html"] },
    // Cornerstone3D and vtk.js are one large library that the first picture needs anyway.
    chunkSizeWarningLimit: 4000,
  },
});
