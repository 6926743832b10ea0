// Publishes a signal, an observation or an event to Penstock, from JavaScript (docs/publishing.md).
import { connect, headers } from "@nats-io/transport-node";
import { jetstream } from "@nats-io/jetstream";

const [servers, kind, ...args] = process.argv.slice(2);
const root = process.env.PENSTOCK_ROOT ?? "penstock";

// Subject, headers and body. The message id makes publishing again harmless: make it of what the message is about.
const kinds = {
  signal: ([waitpoint, name, token, body]) => [
    `signal.${waitpoint}.${name}`, { "Penstock-Token": token, "Nats-Msg-Id": `${waitpoint}-${name}` }, body,
  ],
  observation: ([flow, run_id, task, status]) => [
    `observation.${flow}`, { "Nats-Msg-Id": `${run_id}-${task}-${status}` }, JSON.stringify({ run_id, task, status }),
  ],
  event: ([topic, correlation, body]) => [
    `event.${topic}`, { "Penstock-Correlation-Id": correlation, "Nats-Msg-Id": `${topic}-${correlation}` }, body,
  ],
};

const [subject, named, body] = kinds[kind](args);
const told = headers();
for (const [name, value] of Object.entries(named)) told.set(name, value);
const connection = await connect({ servers });
await jetstream(connection).publish(`${root}.${subject}`, body ?? "", { headers: told });
await connection.close();
