/** JSON Schemas as workers tell them of their kinds: values to begin with, and what is wrong with a value. */

export type Schema = Record<string, unknown>;

const DEEPEST = 8;

/** The schema itself, where it is a reference into `root` or a choice between something and null. */
export function whole(schema: Schema, root: Schema, depth = 0): Schema {
  if (depth > DEEPEST) return {};
  const name = /^#\/\$defs\/(.+)$/.exec(String(schema["$ref"] ?? ""))?.[1];
  const found = name && (root["$defs"] as Record<string, Schema> | undefined)?.[name];
  if (found) {
    const { $ref: _, ...rest } = schema;
    return { ...whole(found, root, depth + 1), ...rest };
  }
  const choices = choicesOf(schema);
  if (choices.length === 1) {
    const { anyOf: _, oneOf: __, allOf: ___, ...rest } = schema;
    return { ...whole(choices[0] as Schema, root, depth + 1), ...rest };
  }
  return schema;
}

/** What it may be besides null. */
function choicesOf(schema: Schema): Schema[] {
  const choices = (schema["anyOf"] ?? schema["oneOf"] ?? schema["allOf"] ?? []) as Schema[];
  return choices.filter((each) => each["type"] !== "null");
}

const takesNull = (schema: Schema): boolean =>
  typesOf(schema).includes("null") || ((schema["anyOf"] ?? schema["oneOf"] ?? []) as Schema[]).some((each) => each["type"] === "null");

function typesOf(schema: Schema): string[] {
  const type = schema["type"];
  return Array.isArray(type) ? type.map(String) : type === undefined ? [] : [String(type)];
}

/** The one type that it has besides null, or "" where there are several or none is told. */
export function typeOf(schema: Schema): string {
  const types = typesOf(schema).filter((each) => each !== "null");
  return types.length === 1 ? (types[0] ?? "") : "";
}

export function propertiesOf(schema: Schema): [string, Schema][] {
  return Object.entries((schema["properties"] ?? {}) as Record<string, Schema>);
}

export const neededOf = (schema: Schema): ReadonlySet<string> => new Set((schema["required"] ?? []) as string[]);

/** A value to begin with: defaults, required fields, and nothing yet for the rest. */
export function example(schema: Schema, root: Schema = schema, depth = 0): unknown {
  const of = whole(schema, root);
  if ("default" in of) return of["default"];
  if (Array.isArray(of["enum"])) return of["enum"][0] as unknown;
  if ("const" in of) return of["const"];
  const type = typeOf(of);
  if (type === "object" && depth < DEEPEST) {
    const needed = neededOf(of);
    return Object.fromEntries(propertiesOf(of).filter(([key]) => needed.has(key)).map(([key, each]) => [key, example(each, root, depth + 1)]));
  }
  return { array: [], object: {}, string: "", integer: 0, number: 0, boolean: false }[type] ?? null;
}

export interface Wrong {
  /** The field's names, with dots between. */
  at: string;
  says: string;
}

const within = (at: string, name: string): string => (at ? `${at}.${name}` : name);

/** What does not fit, as far as a form can say: types, required fields, bounds, patterns, dates. The worker decides. */
export function wrongs(value: unknown, schema: Schema, root: Schema = schema, at = "", depth = 0): Wrong[] {
  const of = whole(schema, root);
  const no = (says: string): Wrong[] => [{ at, says }];
  if (depth > DEEPEST || (value === null && (takesNull(schema) || takesNull(of)))) return [];
  if (Array.isArray(of["enum"]) && !of["enum"].includes(value)) return no(`takes one of ${of["enum"].map((each) => JSON.stringify(each)).join(", ")}`);
  if ("const" in of && of["const"] !== value) return no(`takes ${JSON.stringify(of["const"])} only`);
  switch (typeOf(of)) {
    case "integer":
      if (!Number.isInteger(value)) return no("takes a whole number");
      return bounds(value as number, of, no);
    case "number":
      if (typeof value !== "number") return no("takes a number");
      return bounds(value, of, no);
    case "boolean":
      return typeof value === "boolean" ? [] : no("takes true or false");
    case "string":
      return typeof value === "string" ? texts(value, of, no) : no("takes text");
    case "array":
      if (!Array.isArray(value)) return no("takes a list");
      return of["items"] && typeof of["items"] === "object"
        ? value.flatMap((each, index) => wrongs(each, of["items"] as Schema, root, within(at, String(index)), depth + 1))
        : [];
    case "object": {
      if (typeof value !== "object" || value === null || Array.isArray(value)) return no("takes an object");
      const record = value as Record<string, unknown>;
      const missing = [...neededOf(of)].filter((name) => !(name in record)).map((name) => ({ at: within(at, name), says: "is needed" }));
      const inner = propertiesOf(of).flatMap(([name, each]) => (name in record ? wrongs(record[name], each, root, within(at, name), depth + 1) : []));
      return [...missing, ...inner];
    }
    default:
      return [];
  }
}

function bounds(value: number, of: Schema, no: (says: string) => Wrong[]): Wrong[] {
  const bound = (name: string): number | undefined => (typeof of[name] === "number" ? of[name] : undefined);
  if (value < (bound("minimum") ?? -Infinity)) return no(`is at least ${String(of["minimum"])}`);
  if (value > (bound("maximum") ?? Infinity)) return no(`is at most ${String(of["maximum"])}`);
  if (value <= (bound("exclusiveMinimum") ?? -Infinity)) return no(`is more than ${String(of["exclusiveMinimum"])}`);
  if (value >= (bound("exclusiveMaximum") ?? Infinity)) return no(`is less than ${String(of["exclusiveMaximum"])}`);
  return [];
}

function texts(value: string, of: Schema, no: (says: string) => Wrong[]): Wrong[] {
  if (typeof of["minLength"] === "number" && value.length < of["minLength"]) return no(`has at least ${of["minLength"]} characters`);
  if (typeof of["maxLength"] === "number" && value.length > of["maxLength"]) return no(`has at most ${of["maxLength"]} characters`);
  if (typeof of["pattern"] === "string" && !matches(of["pattern"], value)) return no(`has the form ${of["pattern"]}`);
  if (of["format"] === "date-time" && Number.isNaN(Date.parse(value))) return no("takes a date and a time");
  if (of["format"] === "date" && !/^\d{4}-\d\d-\d\d$/.test(value)) return no("takes a date");
  return [];
}

function matches(pattern: string, value: string): boolean {
  try {
    return new RegExp(pattern, "u").test(value);
  } catch {
    return true; // another dialect of regular expressions: the worker decides
  }
}
