// A Penstock worker without our SDK, over NATS alone (docs/writing-a-worker.md): Node 20 or newer, @nats-io/transport-node.
import { connect } from "@nats-io/transport-node";
import { randomUUID } from "node:crypto";

const [servers = "127.0.0.1:4222", lane = "default"] = process.argv.slice(2);
const root = process.env.PENSTOCK_ROOT ?? "penstock";
const workerId = `js-${randomUUID()}`;
const TTL = 10_000; // of a lease, in ms: renewed three times in that time
const nats = await connect({ servers });

class Refused extends Error {
  constructor({ code, message, retryable }) {
    super(`${code}: ${message}`);
    Object.assign(this, { code, retryable });
  }
}

async function ask(verb, body, timeout = 5_000) {
  const reply = await nats.request(`${root}.v1.${verb}`, JSON.stringify(body), { timeout });
  const answer = reply.json();
  if (answer?.error) throw new Refused(answer.error);
  return answer;
}

// An outcome is sent until it is answered: every worker verb may be repeated with the same fence. A refusal that is not
// retryable says that the lease is not ours any more; then somebody else has the work, and nothing is to be done.
async function outcome(verb, body) {
  for (let pause = 200; ; pause = Math.min(pause * 2, 5_000)) {
    try {
      return await ask(verb, body);
    } catch (error) {
      if (error instanceof Refused && !["unavailable", "timeout", "valkey_unavailable"].includes(error.code)) {
        console.error(`${verb} was refused: ${error.message}`);
        return null;
      }
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

const handlers = {
  "js.double": async (task) => task.input * 2,
  "js.fail": async () => { throw new Error("no luck"); },
  // Runs twice: once to wait, and again when the signal has come.
  "js.wait": async (task, { fence, suspend }) => {
    if (!task.resumed) return suspend({ condition: { name: "go" } });
    const { items } = await ask("signal.resumed_by", fence);
    return items.map((signal) => signal.payload);
  },
};
const SUSPENDED = Symbol("the lease is given back");

async function work(task) {
  const { execution_id, attempt_index, lease_id, lease_epoch } = task;
  const fence = { execution_id, attempt_index, lease_id, lease_epoch };
  const stop = new AbortController();
  let lost = false;
  const renewals = setInterval(async () => {
    try {
      if ((await ask("lease.renew", { ...fence, lease_ttl_ms: TTL })).cancel_requested) stop.abort();
    } catch (error) {
      // Silence may pass: the lease lasts for a while. A refusal means that it is lost.
      if (error instanceof Refused && !error.retryable) { lost = true; stop.abort(); }
    }
  }, TTL / 3);
  const suspend = async (more) => {
    const reply = await outcome("lease.suspend", { ...fence, ...more });
    return reply?.outcome === "already_satisfied" ? handlers[task.kind]({ ...task, resumed: true }, { fence, suspend }) : SUSPENDED;
  };
  try {
    const result = await handlers[task.kind](task, { fence, suspend, signal: stop.signal });
    if (result !== SUSPENDED && !lost) await outcome("lease.complete", { ...fence, result: result ?? null });
  } catch (error) {
    if (!lost) await outcome("lease.fail", { ...fence, reason: String(error.message ?? error).slice(0, 4096) });
  } finally {
    clearInterval(renewals);
  }
}

let stopping = false;
for (const signal of ["SIGTERM", "SIGINT"]) process.on(signal, () => { stopping = true; });
const running = new Set();
while (!stopping) {
  try {
    const { tasks } = await ask(
      "work.next",
      { worker_id: workerId, lanes: [lane], kinds: Object.keys(handlers), max: 4, wait_ms: 2_000, lease_ttl_ms: TTL, start: true },
      10_000,
    );
    for (const task of tasks) {
      const work_ = work(task).finally(() => running.delete(work_));
      running.add(work_);
    }
  } catch (error) {
    console.error(`no work for now: ${error.message}`); // a scheduler that restarts, a reply that got lost
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}
await Promise.all(running);
await nats.drain();
