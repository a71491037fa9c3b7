// Compresses the built scripts and styles, prints the size of the scripts, and fails if it exceeds the budget.
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const BUDGET = 120_000; // bytes of compressed JavaScript
const DIR = "dist/assets";
let script = 0;
for (const name of readdirSync(DIR).filter((name) => /\.(js|css)$/.test(name))) {
  const packed = gzipSync(readFileSync(`${DIR}/${name}`), { level: 9 });
  writeFileSync(`${DIR}/${name}.gz`, packed);
  if (name.endsWith(".js")) script += packed.length;
}
console.log(`JavaScript: ${(script / 1000).toFixed(1)} kB gzip of ${BUDGET / 1000} kB`);
if (script > BUDGET) process.exit(1);

// The API reference is a separate page, so it does not count towards the budget.
for (const name of ["swagger-ui-bundle.js", "swagger-ui.css"]) {
  copyFileSync(`node_modules/swagger-ui-dist/${name}`, `dist/docs/${name}`);
  writeFileSync(`dist/docs/${name}.gz`, gzipSync(readFileSync(`dist/docs/${name}`), { level: 9 }));
}
