import react from "@vitejs/plugin-react";
import { defineConfig } from "vite";

export default defineConfig({
  plugins: [react()],
  build: { outDir: "../shared/penstock/console/static", emptyOutDir: true, target: "es2022", chunkSizeWarningLimit: 2000 },
});
