import { type ReactNode, useState } from "react";
import { count } from "../lib/format";
import { Copy } from "./parts";

/** So many entries of one object or array are drawn before the reader asks for more. */
const STEP = 100;

/** Any JSON value as a tree. */
export function Json({ value, label }: { value: unknown; label: string }): ReactNode {
  if (value === null || value === undefined) return <div className="json faint">null</div>;
  return (
    <div className="json" role="group" aria-label={label} tabIndex={0}>
      <div className="json-copy">
        <Copy text={JSON.stringify(value, null, 2)} />
      </div>
      <Node value={value} depth={0} />
    </div>
  );
}

function Node({ value, name, depth }: { value: unknown; name?: string; depth: number }): ReactNode {
  const [open, setOpen] = useState(depth < 2);
  const [most, setMost] = useState(STEP);
  const key = name === undefined ? null : <span className="j-key">{name}: </span>;
  if (value === null || typeof value !== "object") {
    const kind = value === null ? "null" : typeof value;
    return (
      <div className="j-line">
        {key}
        <span className={`j-${kind}`}>{typeof value === "string" ? JSON.stringify(value) : String(value)}</span>
      </div>
    );
  }
  const entries = Object.entries(value);
  const [left, right] = Array.isArray(value) ? ["[", "]"] : ["{", "}"];
  if (entries.length === 0) {
    return (
      <div className="j-line">
        {key}
        {left}
        {right}
      </div>
    );
  }
  return (
    <div>
      <button type="button" className="j-fold" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span aria-hidden="true">{open ? "▾" : "▸"}</span> {key}
        {open ? left : `${left} ${count(entries.length)} ${right}`}
      </button>
      {open ? (
        <div className="j-inner">
          {entries.slice(0, most).map(([each, inner]) => (
            <Node key={each} name={each} value={inner} depth={depth + 1} />
          ))}
          {entries.length > most ? (
            <button type="button" className="quiet" onClick={() => setMost(most + STEP * 10)}>
              {count(entries.length - most)} more
            </button>
          ) : null}
        </div>
      ) : null}
      {open ? right : null}
    </div>
  );
}
