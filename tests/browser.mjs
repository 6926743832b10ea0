// A browser for tests/browser.py: it takes pieces of JavaScript on its standard input, a line of JSON each, runs them
// with `page` (playwright's) and `args`, and answers each with a line of JSON.
import { createRequire } from "node:module";
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";

const [packages, executablePath] = process.argv.slice(2);
const require = createRequire(packages);
const { chromium } = require("playwright-core");
const AXE = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const PATIENCE_MS = 45_000;

// Chromium's sandbox needs namespaces that containers do not give to root.
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-dev-shm-usage"] });
const AsyncFunction = (async () => {}).constructor;
let page;
let errors = [];

async function fresh({ width = 1280, height = 800, colorScheme = "light" }) {
  await page?.context().close();
  const context = await browser.newContext({ viewport: { width, height }, colorScheme, reducedMotion: "reduce" });
  page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
}

/**
 * What axe has against the page as it is, in the rules of WCAG 2.2 A and AA, or in `rules` only.
 *
 * To describe the nodes that pass is most of axe's work, and is left out.
 */
async function axe(rules) {
  if (!(await page.evaluate(() => "axe" in globalThis))) await page.evaluate(AXE);
  const violations = await page.evaluate(async (rules) => {
    const runOnly = rules ?? ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"];
    const found = await globalThis.axe.run(document, { runOnly, resultTypes: ["violations"], iframes: false });
    return found.violations.map(({ id, nodes }) => ({ id, nodes: nodes.map(({ target, failureSummary }) => ({ target, failureSummary })) }));
  }, rules);
  return violations.map((each) => `${each.id}: ${each.nodes.map((n) => `${n.target} ${n.failureSummary}`).slice(0, 3)}`);
}

for await (const line of createInterface({ input: process.stdin })) {
  const { code, args } = JSON.parse(line);
  let answer;
  try {
    const value = await new AsyncFunction("page", "args", "fresh", "axe", code)(page, args, fresh, axe);
    answer = { value: value ?? null, errors };
  } catch (error) {
    const seen = await page?.locator("body").innerText({ timeout: 1000 }).catch(() => "");
    answer = { failed: `${error.message}\n\nthe page shows:\n${(seen ?? "").slice(0, 3000)}`, errors };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
await browser.close();
