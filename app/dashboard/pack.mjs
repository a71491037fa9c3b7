// Packs what the browser loads, says how large it is, and fails when the script outgrows its budget.
import { copyFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const BUDGET = 120_000; // bytes of JavaScript, packed
const DIR = "dist/assets";
let script = 0;
for (const name of readdirSync(DIR).filter((one) => /\.(js|css)$/.test(one))) {
  const packed = gzipSync(readFileSync(`${DIR}/${name}`), { level: 9 });
  writeFileSync(`${DIR}/${name}.gz`, packed);
  if (name.endsWith(".js")) script += packed.length;
}
console.log(`JavaScript: ${(script / 1000).toFixed(1)} kB gzip of ${BUDGET / 1000} kB`);
if (script > BUDGET) process.exit(1);

// The API's reference is a page of its own, outside of the budget: nobody waits for it who does not ask for it.
for (const name of ["swagger-ui-bundle.js", "swagger-ui.css"]) {
  copyFileSync(`node_modules/swagger-ui-dist/${name}`, `dist/docs/${name}`);
  writeFileSync(`dist/docs/${name}.gz`, gzipSync(readFileSync(`dist/docs/${name}`), { level: 9 }));
}
