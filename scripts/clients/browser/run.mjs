// node run.mjs FOLDER [CHROMIUM]: transformers.js in a headless Chromium classifies the texts stored with an export.
// Needs `npm install --ignore-scripts` in this folder (the scripts fetch Node's native runtime, which is not used).
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { dirname, extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const [folder, browser = "chromium"] = process.argv.slice(2);
const roots = {
  "/models/exported/": folder,
  "/library/": join(here, "node_modules/@huggingface/transformers/dist"),
  "/wasm/": join(here, "node_modules/onnxruntime-web/dist"),
};
const types = { ".html": "text/html", ".mjs": "text/javascript", ".js": "text/javascript", ".json": "application/json", ".wasm": "application/wasm" };
const requested = new Set();

function respond(request, response, done) {
  const path = new URL(request.url, "http://here").pathname;
  if (request.method === "POST") {
    let body = "";
    request.on("data", (part) => (body += part));
    request.on("end", () => (response.end(), done(JSON.parse(body))));
    return;
  }
  const [prefix, root] = Object.entries(roots).find(([start]) => path.startsWith(start)) ?? [];
  const file = prefix ? join(root, normalize(path.slice(prefix.length))) : join(here, "page.html");
  try {
    const content = readFileSync(file);
    if (prefix) requested.add(path);
    response.writeHead(200, { "content-type": types[extname(file)] ?? "application/octet-stream" });
    response.end(content);
  } catch {
    response.writeHead(404).end();
  }
}

const profile = mkdtempSync(join(tmpdir(), "browser-"));
let chromium;
const result = await new Promise((done) => {
  const server = createServer((request, response) => respond(request, response, done));
  server.listen(0, "127.0.0.1", () => {
    const url = `http://127.0.0.1:${server.address().port}/`;
    const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", `--user-data-dir=${profile}`];
    chromium = spawn(browser, [...flags, url], { stdio: "ignore", detached: true });
    chromium.on("error", (error) => done({ error: String(error) }));
  });
  setTimeout(() => done({ error: "no result in 120 s" }), 120_000).unref();
});
try {
  process.kill(-chromium.pid);
} catch {}
setTimeout(() => rmSync(profile, { recursive: true, force: true, maxRetries: 5 }), 500);

if (result.error) {
  console.log(`transformers.js: FAILED: ${result.error}`);
  process.exitCode = 1;
} else {
  const selfCheck = JSON.parse(readFileSync(join(folder, "onnx/self_check.json")));
  const { id2label } = JSON.parse(readFileSync(join(folder, "config.json")));
  const entry = selfCheck.files["model_quantized.onnx"];
  let wrong = 0;
  let worst = 0;
  result.predictions.forEach(({ label, score }, n) => {
    const names = Object.keys(id2label).sort((a, b) => a - b).map((id) => id2label[id]);
    const exponentials = entry.logits[n].map((value) => Math.exp(value - Math.max(...entry.logits[n])));
    const stored = exponentials[names.indexOf(label)] / exponentials.reduce((a, b) => a + b);
    worst = Math.max(worst, Math.abs(score - stored));
    if (entry.labels[n] !== null && entry.labels[n] !== label) wrong += 1;
    console.log(`  ${label.padEnd(10)} ${score.toFixed(4)}  ${selfCheck.cases[n].text.slice(0, 60)}`);
  });
  const passed = wrong === 0 && worst <= entry.tolerance;
  console.log(`files requested: ${[...requested].filter((path) => path.startsWith("/models/")).sort().join(" ")}`);
  console.log(`in ${result.agent.split(" ").find((word) => word.includes("Chrome"))}`);
  const count = `${result.predictions.length} texts, ${wrong} other labels, probabilities within ${worst.toPrecision(1)}`;
  console.log(`transformers.js ${result.version}: ${count} - ${passed ? "passed" : "FAILED"}`);
  process.exitCode = passed ? 0 : 1;
}
setTimeout(() => process.exit(), 1500);
