/** The kinds that workers have told of, for the form to submit with. */

import { ask } from "../bus/link";
import type { KindInfo } from "../contract.gen";
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

type Schema = Record<string, unknown>;

/** A value to begin with that has the shape of a JSON Schema: its defaults, its required fields, and zeros for the rest. */
export function example(schema: Schema, whole: Schema = schema, depth = 0): unknown {
  if ("default" in schema) return schema["default"];
  if (Array.isArray(schema["enum"])) return schema["enum"][0] as unknown;
  if ("const" in schema) return schema["const"];
  const name = /^#\/\$defs\/(.+)$/.exec(String(schema["$ref"] ?? ""))?.[1];
  if (name) {
    const found = (whole["$defs"] as Record<string, Schema> | undefined)?.[name];
    return found && depth < 8 ? example(found, whole, depth + 1) : null;
  }
  const choices = (schema["anyOf"] ?? schema["oneOf"]) as Schema[] | undefined;
  if (choices?.[0]) return example(choices[0], whole, depth + 1);
  const type = Array.isArray(schema["type"]) ? (schema["type"][0] as unknown) : schema["type"];
  if (type === "object") {
    const properties = Object.entries((schema["properties"] ?? {}) as Record<string, Schema>);
    const needed = new Set((schema["required"] ?? []) as string[]);
    return Object.fromEntries(properties.filter(([key]) => needed.has(key)).map(([key, of]) => [key, example(of, whole, depth + 1)]));
  }
  return { array: [], string: "", integer: 0, number: 0, boolean: false }[String(type)] ?? null;
}

/** What a kind takes, in a line: each field with its type, those that are not needed with a question mark. */
export function takes(kind: string): string | null {
  const known = kinds.get().find((each) => each.kind === kind);
  if (!known?.input) return known?.description || null;
  const schema = known.input;
  const ref = /^#\/\$defs\/(.+)$/.exec(String(schema["$ref"] ?? ""))?.[1];
  const of = (ref && (schema["$defs"] as Record<string, Schema> | undefined)?.[ref]) || schema;
  const needed = new Set((of["required"] ?? []) as string[]);
  const fields = Object.entries((of["properties"] ?? {}) as Record<string, Schema>).map(
    ([name, each]) => `${name}${needed.has(name) ? "" : "?"}: ${String(each["type"] ?? "any")}`,
  );
  return [known.description, fields.length ? `Takes ${fields.join(", ")}.` : `Takes ${String(of["type"] ?? "anything")}.`].filter(Boolean).join(" ");
}
