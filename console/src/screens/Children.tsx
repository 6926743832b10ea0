/** The executions that one has made, and those that these have made, as a tree that opens level by level. */

import { Link } from "@tanstack/react-router";
import { type ReactNode, useCallback, useRef, useState } from "react";
import type { AuditEvent } from "../bus/events";
import { useList } from "../bus/useAsk";
import type { ExecutionRow } from "../contract.gen";
import { count, preview } from "../lib/format";
import { Ago, ExecutionLink, Failure, Panel, State } from "../ui/parts";

/** So many children are drawn; the list of executions has all. */
const DRAWN = 200;

function useChildren(parent: string): ReturnType<typeof useList<"execution.search">> {
  const known = useRef(new Set<string>());
  const mine = useCallback((event: AuditEvent) => known.current.has(event.id) || event.data?.["parent_id"] === parent, [parent]);
  const answer = useList("execution.search", { filter: { parent_id: parent } }, mine);
  known.current = new Set(answer.data?.items.map((each) => each.execution_id));
  return answer;
}

export function Children({ of }: { of: string }): ReactNode {
  const children = useChildren(of);
  if (children.error) return <Panel title="Children"><Failure error={children.error} retry={children.reload} /></Panel>;
  if (!children.data?.items.length) return null;
  return (
    <Panel
      title="Children"
      extra={
        <Link to="/executions" search={{ parent: of }}>
          {count(children.data.items.length)}{children.data.cursor ? " and more" : ""}, as a list
        </Link>
      }
    >
      <Rows of={children.data.items} />
    </Panel>
  );
}

function Rows({ of }: { of: readonly ExecutionRow[] }): ReactNode {
  return (
    <ul className="plain-list tree" aria-label="Children">
      {of.slice(0, DRAWN).map((each) => (
        <Row key={each.execution_id} of={each} />
      ))}
      {of.length > DRAWN ? <li className="faint">{count(of.length - DRAWN)} older ones are in the list</li> : null}
    </ul>
  );
}

function Row({ of: x }: { of: ExecutionRow }): ReactNode {
  const [open, setOpen] = useState(false);
  return (
    <li data-child={x.execution_id}>
      <button type="button" className="quiet fold" aria-expanded={open} aria-label={`Children of ${x.execution_id}`} onClick={() => setOpen(!open)}>
        {open ? "▾" : "▸"}
      </button>
      <State of={x.state} reason={x.reason} /> <strong>{x.kind}</strong> <ExecutionLink id={x.execution_id} /> <Ago at={x.created_at} />
      {x.failure && x.state !== "completed" ? <span className="bad-text"> {preview(x.failure["reason"] ?? x.failure)}</span> : null}
      {open ? <Below of={x.execution_id} /> : null}
    </li>
  );
}

function Below({ of }: { of: string }): ReactNode {
  const children = useChildren(of);
  if (children.error) return <Failure error={children.error} retry={children.reload} />;
  if (!children.data) return null;
  return children.data.items.length ? <Rows of={children.data.items} /> : <p className="faint">It has made none.</p>;
}
