/** The filters above a list. */

import { type ReactNode, useEffect, useState } from "react";
import { State } from "./parts";

/** The filter of a list by status: one of them, or all where `all` is given. Other filters stand below it. */
export function Statuses<S extends string>({ of, at, all, go, children }: { of: readonly S[]; at: S | undefined; all?: boolean; go: (status: S | undefined) => void; children?: ReactNode }): ReactNode {
  return (
    <div className="filters">
      <div className="chips" role="group" aria-label="Status">
        {all ? (
          <button type="button" aria-pressed={!at} onClick={() => go(undefined)}>
            all
          </button>
        ) : null}
        {of.map((each) => (
          <button key={each} type="button" aria-pressed={at === each} onClick={() => go(each)}>
            <State of={each} />
          </button>
        ))}
      </div>
      {children ? <div className="inputs">{children}</div> : null}
    </div>
  );
}

export interface FilterProps {
  label: string;
  hint?: string;
  value: string | undefined;
  /** Called a moment after the last key. */
  go: (text: string | undefined) => void;
  /** Whether the key `/` goes to it. */
  search?: boolean;
  type?: "number" | "datetime-local";
}

export function Filter({ label, hint, value, go, search, type }: FilterProps): ReactNode {
  const [text, setText] = useState(value ?? "");
  useEffect(() => setText(value ?? ""), [value]);
  useEffect(() => {
    if (text === (value ?? "")) return;
    const timer = setTimeout(() => go(text || undefined), 250);
    return () => clearTimeout(timer);
  });
  return (
    <label className="filter">
      <span>{label}</span>
      <input
        type={type}
        min={type === "number" ? 0 : undefined}
        value={text}
        placeholder={hint ?? "any"}
        data-search={search ? "" : undefined}
        onChange={(event) => setText(event.target.value.trim())}
        spellCheck={false}
        autoComplete="off"
      />
    </label>
  );
}

/** Whether a name holds a text, whatever the case. */
export const holds = (name: string, text: string | undefined): boolean => !text || name.toLowerCase().includes(text.toLowerCase());
