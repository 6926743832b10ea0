/** One action: its verb, its request, what it asks first, and the same as a line to copy. */

import { type ReactNode, useRef, useState } from "react";
import { kinds, schemaOf } from "../bus/kinds";
import { type VerbName, ask, subjectOf } from "../bus/link";
import type { Verbs } from "../contract.gen";
import { type Schema, type Wrong, wrongs } from "../lib/schema";
import { Store, useStore } from "../lib/store";
import { SchemaForm, hasFields } from "./SchemaForm";
import { quoted } from "./Lines";
import { Modal, Question } from "./Question";

export interface Field {
  name: string;
  label: string;
  kind: "text" | "number" | "json" | "choice";
  value: string;
  choices?: string[];
  hint?: string;
  /** Values to choose from; any other may be written too. */
  options?: Store<readonly string[]>;
  /** Values for other fields that come with this one, where nobody has written in those yet. */
  fill?: (value: string) => Record<string, string>;
  /** What is known of a value. */
  about?: (value: string) => string | null;
  /** Left out of the request where it is empty. */
  optional?: boolean;
  /** The kind whose input this is, so that there is one input for each of its fields if a worker has told of them. */
  inputOf?: (values: Record<string, string>) => string;
}

export interface Action<V extends VerbName = VerbName> {
  verb: V;
  title: string;
  /** What it will do, in one sentence. */
  says: string;
  danger?: boolean;
  fields?: Field[];
  /** The request, but for the fields. */
  request: Record<string, unknown>;
  /** Where the request differs from request and fields together. Throws Error for what cannot be sent. */
  make?: (values: Record<string, unknown>) => Record<string, unknown>;
  /** The same as a line of the `penstock` command, if there is one. */
  cli?: (request: Record<string, unknown>) => string;
  then?: ((reply: Verbs[V]["reply"]) => void) | undefined;
  /** What is done with the request, where it is not asked just once. */
  go?: (request: Record<string, unknown>) => void;
}

const current = new Store<Action | null>(null);

export function act<V extends VerbName>(action: Action<V>): void {
  current.set(action as unknown as Action);
}

export function ActDialog(): ReactNode {
  const action = useStore(current);
  return (
    <Modal open={action !== null} close={() => current.set(null)} says="act-says">
      {action ? <Form action={action} /> : null}
    </Modal>
  );
}

function Form({ action }: { action: Action }): ReactNode {
  const fields = action.fields ?? [];
  const [values, setValues] = useState<Record<string, string>>(() =>
    Object.fromEntries(fields.map((each) => [each.name, each.value])),
  );
  const written = useRef(new Set<string>());
  const change = (field: Field, value: string): void => {
    written.current.add(field.name);
    const more = Object.entries(field.fill?.(value) ?? {}).filter(([name]) => !written.current.has(name));
    setValues({ ...values, ...Object.fromEntries(more), [field.name]: value });
  };
  const known = useStore(kinds);
  const [asJson, setAsJson] = useState(false);
  const shapes = new Map<string, Schema>();
  for (const each of fields) {
    const schema = each.inputOf && schemaOf(each.inputOf(values), known);
    if (schema && !asJson && hasFields(schema)) shapes.set(each.name, schema);
  }
  const wrongOf = (field: Field): Wrong[] => {
    const schema = shapes.get(field.name);
    return schema ? wrongs(parsed(values[field.name] ?? ""), schema) : [];
  };

  let request: Record<string, unknown> | null = null;
  let wrong: string | null = null;
  try {
    request = requestOf(action, fields, values);
    const unfit = fields.flatMap(wrongOf)[0];
    if (unfit) throw new Error(unfit.at ? `${unfit.at} ${unfit.says}` : `the input ${unfit.says}`);
  } catch (problem) {
    request = null;
    wrong = problem instanceof Error ? problem.message : String(problem);
  }
  const nats = request && `nats req ${subjectOf(action.verb)} ${quoted(JSON.stringify(request))}`;
  const cli = request && action.cli?.(request);

  const go = async (): Promise<void> => {
    if (!request) return;
    if (action.go) action.go(request);
    const reply = action.go ? null : await ask(action.verb, request as never);
    current.set(null);
    if (reply) action.then?.(reply);
  };

  return (
    <Question title={action.title} says={action.says} id="act-says" nats={nats} cli={cli} danger={action.danger} go={request && go}>
      {fields.map((each) => (
        <FieldInput key={each.name} field={each} value={values[each.name] ?? ""} onChange={(value) => change(each, value)} schema={shapes.get(each.name)} wrong={wrongOf(each)} />
      ))}
      {shapes.size || asJson ? (
        <button type="button" className="quiet as-json" aria-pressed={asJson} onClick={() => setAsJson(!asJson)}>
          the input as JSON
        </button>
      ) : null}
      {wrong ? <p className="field-wrong" role="alert">{wrong}</p> : null}
    </Question>
  );
}

function requestOf(action: Action, fields: Field[], values: Record<string, string>): Record<string, unknown> {
  const read: Record<string, unknown> = { ...action.request };
  for (const field of fields) {
    const text = values[field.name] ?? "";
    if (text === "" && field.optional) continue;
    if (field.kind === "json") {
      try {
        read[field.name] = JSON.parse(text);
      } catch {
        throw new Error(`${field.label} is no JSON yet`);
      }
    } else if (field.kind === "number") {
      const number = Number(text);
      if (text === "" || !Number.isInteger(number)) throw new Error(`${field.label} takes a whole number`);
      read[field.name] = number;
    } else if (text === "" && !field.optional) {
      throw new Error(`${field.label} is missing`);
    } else read[field.name] = text;
  }
  return action.make ? action.make(read) : read;
}

/** What a text is as JSON; undefined if it is none. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}

function FieldInput({ field, value, onChange, schema, wrong }: { field: Field; value: string; onChange: (value: string) => void; schema: Schema | undefined; wrong: Wrong[] }): ReactNode {
  const id = `field-${field.name}`;
  if (schema) {
    return <SchemaForm key={JSON.stringify(schema)} schema={schema} label={field.label} value={parsed(value)} wrong={wrong} onChange={(next) => onChange(JSON.stringify(next, null, 2))} />;
  }
  const common = { id, name: field.name, value, onChange: (e: { target: { value: string } }) => onChange(e.target.value) };
  return (
    <div className="field">
      <label htmlFor={id}>
        {field.label}
        {field.optional ? <small> optional</small> : null}
      </label>
      {field.kind === "json" ? (
        <textarea {...common} rows={Math.min(14, Math.max(3, value.split("\n").length))} spellCheck={false} className="mono" />
      ) : field.kind === "choice" ? (
        <select {...common}>
          {field.choices?.map((each) => (
            <option key={each} value={each}>
              {each}
            </option>
          ))}
        </select>
      ) : (
        <input {...common} list={field.options && `${id}-options`} inputMode={field.kind === "number" ? "numeric" : undefined} autoComplete="off" spellCheck={false} />
      )}
      {field.options ? <Options id={`${id}-options`} of={field.options} /> : null}
      {field.about?.(value) ? <small className="faint">{field.about(value)}</small> : null}
      {field.hint ? <small className="faint">{field.hint}</small> : null}
    </div>
  );
}

function Options({ id, of }: { id: string; of: Store<readonly string[]> }): ReactNode {
  return (
    <datalist id={id}>
      {useStore(of).map((each) => (
        <option key={each} value={each} />
      ))}
    </datalist>
  );
}
