/** The kinds that workers have told of, for the form to submit with. */

import { ask } from "./link";
import type { KindInfo } from "../contract.gen";
import { type Schema, whole } from "../lib/schema";
import { Store } from "../lib/store";

export const kinds = new Store<readonly KindInfo[]>([]);
export const kindNames = new Store<readonly string[]>([]);

/** Ask for them anew. A form works without them, so a failure is not told. */
export async function loadKinds(): Promise<void> {
  try {
    kinds.set((await ask("kind.list", { limit: 100 })).items);
  } catch {
    kinds.set([]);
  }
  kindNames.set(kinds.get().map((each) => each.kind));
}

/** The JSON Schema of a kind's input, if a worker has told of it. */
export function schemaOf(kind: string, known: readonly KindInfo[]): Schema | null {
  return known.find((each) => each.kind === kind)?.input ?? null;
}

/** What a kind takes, in a line: each field with its type, those that are not needed with a question mark. */
export function takes(kind: string): string | null {
  const known = kinds.get().find((each) => each.kind === kind);
  if (!known?.input) return known?.description || null;
  const of = whole(known.input, known.input);
  const needed = new Set((of["required"] ?? []) as string[]);
  const fields = Object.entries((of["properties"] ?? {}) as Record<string, Schema>).map(
    ([name, each]) => `${name}${needed.has(name) ? "" : "?"}: ${String(each["type"] ?? "any")}`,
  );
  return [known.description, fields.length ? `Takes ${fields.join(", ")}.` : `Takes ${String(of["type"] ?? "anything")}.`].filter(Boolean).join(" ");
}
