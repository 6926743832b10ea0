// BullMQ on ioredis. Same roles and JSON lines as common.py. Run it in the folder where its packages are installed.
import { createRequire } from "node:module";

const require = createRequire(`${process.cwd()}/`);
const { Queue, QueueEvents, Worker } = require("bullmq");

const TEXT = "x".repeat(98);
const [role, url, json] = process.argv.slice(2);
const options = JSON.parse(json);
const { hostname: host, port } = new URL(url);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };

const say = (answer) => process.stdout.write(`${JSON.stringify(answer)}\n`);
const now = () => Number(process.hrtime.bigint()) / 1e9;

async function create({ count, batch, producers }) {
  let left = Math.floor(count / batch);
  const jobs = Array.from({ length: batch }, () => ({ name: "noop", data: TEXT }));
  const queues = Array.from({ length: producers }, () => new Queue("noop", { connection }));
  await Promise.all(queues.map((queue) => queue.waitUntilReady()));
  const started = now();
  await Promise.all(
    queues.map(async (queue) => {
      while (left-- > 0) await queue.addBulk(jobs);
    }),
  );
  say({ seconds: now() - started });
  process.exit();
}

function work({ concurrency, count }) {
  let ran = 0;
  const noop = async () => {
    ran += 1;
    if (ran === 1) say({ first: now() });
    if (ran === count) say({ last: now() });
  };
  new Worker("noop", noop, { connection, concurrency });
}

async function latency({ count, seconds, warm_up }) {
  const queue = new Queue("noop", { connection });
  const events = new QueueEvents("noop", { connection });
  await events.waitUntilReady();
  const roundTrip = async () => (await queue.add("noop", TEXT)).waitUntilFinished(events, 30_000);
  for (let i = 0; i < warm_up; i++) await roundTrip();
  const samples = [];
  const end = now() + seconds;
  while (samples.length < count && now() < end) {
    const started = now();
    await roundTrip();
    samples.push(now() - started);
  }
  say({ samples });
  process.exit();
}

await { create, work, latency }[role](options);
