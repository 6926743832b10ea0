/** One input for each field of a JSON Schema; what has no input of its own is edited as JSON. The value is the one truth. */

import { type ReactNode, useEffect, useState } from "react";
import { type Schema, type Wrong, example, neededOf, propertiesOf, typeOf, whole } from "../lib/schema";

interface Part {
  schema: Schema;
  root: Schema;
  value: unknown;
  /** undefined: leave it out. */
  onChange: (value: unknown) => void;
  /** The names that lead to it, with dots between; "" for the whole. */
  at: string;
  name: string;
  needed: boolean;
  wrong: readonly Wrong[];
}

/** Whether a form says more than the JSON would: it is an object with fields. */
export const hasFields = (schema: Schema): boolean => propertiesOf(whole(schema, schema)).length > 0;

export function SchemaForm({ schema, value, onChange, wrong, label }: Pick<Part, "schema" | "value" | "onChange" | "wrong"> & { label: string }): ReactNode {
  return <Group schema={schema} root={schema} value={value} onChange={onChange} at="" name={label} needed wrong={wrong} />;
}

function Group(part: Part): ReactNode {
  const of = whole(part.schema, part.root);
  const record = (typeof part.value === "object" && part.value !== null && !Array.isArray(part.value) ? part.value : {}) as Record<string, unknown>;
  const needed = neededOf(of);
  return (
    <fieldset className="fields">
      <legend>
        {part.name}
        {part.needed ? null : <small> optional</small>}
      </legend>
      {propertiesOf(of).map(([name, schema]) => (
        <One
          key={name}
          schema={schema}
          root={part.root}
          value={record[name]}
          at={part.at ? `${part.at}.${name}` : name}
          name={String(whole(schema, part.root)["title"] ?? name)}
          needed={needed.has(name)}
          wrong={part.wrong}
          onChange={(value) => {
            const { [name]: _, ...rest } = record;
            part.onChange(value === undefined ? rest : { ...record, [name]: value });
          }}
        />
      ))}
    </fieldset>
  );
}

function One(part: Part): ReactNode {
  const of = whole(part.schema, part.root);
  if (typeOf(of) === "object" && propertiesOf(of).length && (part.needed || part.value !== undefined)) return <Group {...part} />;
  const id = `field-input-${part.at}`;
  const says = part.wrong.filter((each) => each.at === part.at);
  const about = of["description"];
  return (
    <div className="field">
      <label htmlFor={id}>
        {part.name}
        {part.needed ? null : <small> optional</small>}
      </label>
      <Input part={part} of={of} id={id} />
      {typeof about === "string" ? <small className="faint">{about}</small> : null}
      {says.map((each) => (
        <small key={each.says} className="field-wrong" role="alert">
          {part.name} {each.says}
        </small>
      ))}
    </div>
  );
}

/** An empty input of what is not needed leaves it out. */
function Input({ part, of, id }: { part: Part; of: Schema; id: string }): ReactNode {
  const { value, onChange, needed } = part;
  const common = { id, name: `input.${part.at}` };
  const text = value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value);
  const put = (next: string, read: (text: string) => unknown = (each) => each): void => onChange(next === "" && !needed ? undefined : read(next));
  const type = typeOf(of);
  if (Array.isArray(of["enum"])) {
    const choices = of["enum"] as unknown[];
    return (
      <select {...common} value={choices.findIndex((each) => each === value)} onChange={(event) => onChange(event.target.value === "-1" ? undefined : choices[Number(event.target.value)])}>
        {needed && choices.includes(value) ? null : <option value={-1}>none</option>}
        {choices.map((each, index) => (
          <option key={index} value={index}>
            {String(each)}
          </option>
        ))}
      </select>
    );
  }
  if (type === "boolean") {
    return <input {...common} type="checkbox" className="check" checked={value === true} onChange={(event) => onChange(event.target.checked || (needed ? false : undefined))} />;
  }
  if (type === "integer" || type === "number") {
    // What is no number yet is kept as it was written, and told as wrong.
    const read = (each: string): unknown => (each.trim() === "" || Number.isNaN(Number(each)) ? each : Number(each));
    return <Written {...common} inputMode="numeric" text={text} put={(next) => put(next, read)} />;
  }
  if (type === "string" && of["format"] === "date-time") {
    return <input {...common} type="datetime-local" step={1} value={localOf(text)} onChange={(event) => put(event.target.value, (each) => new Date(each).toISOString())} />;
  }
  if (type === "string" && of["format"] === "date") return <input {...common} type="date" value={text} onChange={(event) => put(event.target.value)} />;
  if (type === "string") return <input {...common} value={text} autoComplete="off" spellCheck={false} onChange={(event) => put(event.target.value)} />;
  return <JsonInput {...common} value={value === undefined && needed ? example(of, part.root) : value} onChange={onChange} />;
}

/** A text of its own, so that `1.` and `-` can be written on the way to a number. */
function Written({ text, put, ...common }: { id: string; name: string; inputMode: "numeric"; text: string; put: (text: string) => void }): ReactNode {
  const [written, setWritten] = useState(text);
  useEffect(() => setWritten((old) => (old.trim() !== "" && Number(old) === Number(text) ? old : text)), [text]);
  return (
    <input
      {...common}
      value={written}
      autoComplete="off"
      onChange={(event) => {
        setWritten(event.target.value);
        put(event.target.value);
      }}
    />
  );
}

function JsonInput({ value, onChange, ...common }: { id: string; name: string; value: unknown; onChange: (value: unknown) => void }): ReactNode {
  const [text, setText] = useState(() => (value === undefined ? "" : JSON.stringify(value, null, 2)));
  let bad = false;
  try {
    if (text.trim()) JSON.parse(text);
  } catch {
    bad = true;
  }
  return (
    <>
      <textarea
        {...common}
        className="mono"
        rows={Math.min(8, Math.max(2, text.split("\n").length))}
        spellCheck={false}
        value={text}
        onChange={(event) => {
          setText(event.target.value);
          try {
            onChange(event.target.value.trim() ? (JSON.parse(event.target.value) as unknown) : undefined);
          } catch {
            // The last JSON that was whole stays; what is written says below that it is none.
          }
        }}
      />
      {bad ? (
        <small className="field-wrong" role="alert">
          this is no JSON yet; what was there before it is sent
        </small>
      ) : null}
    </>
  );
}

/** A time as `<input type=datetime-local>` takes it, in local time. */
function localOf(text: string): string {
  const at = Date.parse(text);
  if (Number.isNaN(at)) return "";
  return new Date(at - new Date(at).getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
}
