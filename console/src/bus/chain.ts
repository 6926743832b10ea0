/** Verify the audit trail's hash chain in the browser, as `penstock audit verify` does (docs/contract.md). */

/** The last two fields of an event: `,"prev_hash":"<64>","hash":"<64>"}`. */
const TAIL = 154;
const TAIL_FORM = /^,"prev_hash":"([0-9a-f]{64})","hash":"([0-9a-f]{64})"\}$/;
export const GENESIS = "0".repeat(64);

const encoder = new TextEncoder();
const decoder = new TextDecoder();

export interface Link {
  prev: string;
  hash: string;
  /** Whether `hash` is the SHA-256 of `prev` and the event's own bytes. */
  whole: boolean;
}

/** The link that an event's bytes are, or null if they are no event. */
export async function linkOf(body: Uint8Array): Promise<Link | null> {
  const found = TAIL_FORM.exec(decoder.decode(body.subarray(-TAIL)));
  if (!found?.[1] || !found[2]) return null;
  const form = body.subarray(0, -TAIL);
  const hashed = new Uint8Array(64 + form.length + 1);
  hashed.set(encoder.encode(found[1]));
  hashed.set(form, 64);
  hashed[hashed.length - 1] = 0x7d; // }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", hashed));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return { prev: found[1], hash: found[2], whole: hex === found[2] };
}

export interface Proof {
  events: number;
  strangers: number;
  first: number;
  last: number;
  lastHash: string;
  /** What is wrong, in words; empty if the chain is whole. */
  problems: string[];
}

/** A verifier that is fed messages in the order of the stream. */
export class Verifier {
  readonly proof: Proof = { events: 0, strangers: 0, first: 0, last: 0, lastHash: GENESIS, problems: [] };

  async feed(seq: number, body: Uint8Array): Promise<void> {
    const { proof } = this;
    const follows = proof.first === 0 ? seq === 1 : proof.events > 0;
    if (proof.first === 0) proof.first = seq;
    else if (seq !== proof.last + 1) proof.problems.push(`after ${proof.last} comes ${seq}: messages were removed`);
    proof.last = seq;
    const found = await linkOf(body);
    if (!found) {
      proof.strangers += 1;
      return;
    }
    if (!found.whole) proof.problems.push(`${seq}: its hash does not fit its content`);
    if (follows && found.prev !== proof.lastHash) proof.problems.push(`${seq}: its prev_hash is not the hash before it`);
    proof.events += 1;
    proof.lastHash = found.hash;
  }
}
