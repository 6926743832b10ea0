/** What a durable function tells of itself (`task.state`), and which versions of its code have work that has not ended. */

import { type ReactNode, useCallback } from "react";
import { useAsk } from "../bus/useAsk";
import type { ExecutionRecord } from "../contract.gen";
import { count } from "../lib/format";
import { Json } from "../ui/Json";
import { Ago, ExecutionLink, Failure, Panel, State } from "../ui/parts";

export function Durable({ of: x }: { of: ExecutionRecord }): ReactNode {
  return x.journal ? (
    <>
      <Told of={x.execution_id} />
      {x.version ? <Versions kind={x.kind} mine={x.version} /> : null}
    </>
  ) : null;
}

function Told({ of }: { of: string }): ReactNode {
  const mine = useCallback((event: { id: string }) => event.id === of, [of]);
  const state = useAsk("execution.query", { execution_id: of }, mine);
  if (state.error) return <Panel title="State"><Failure error={state.error} retry={state.reload} /></Panel>;
  if (!state.data?.items.length) return null;
  return (
    <Panel title="State" extra={<span className="faint">as the function tells it</span>}>
      <Json value={Object.fromEntries(state.data.items.map((each) => [each.name, each.value]))} label="State" />
      <p className="panel-foot faint">
        Told <Ago at={Math.max(...state.data.items.map((each) => each.at))} />
      </p>
    </Panel>
  );
}

function Versions({ kind, mine }: { kind: string; mine: string }): ReactNode {
  const versions = useAsk("execution.versions", { kind }, (event) => event.entity === "execution" && (event.event === "version_recorded" || event.event === "completed"));
  if (versions.error) return <Panel title="Versions"><Failure error={versions.error} retry={versions.reload} /></Panel>;
  return (
    <Panel title="Versions" extra={<span className="faint">executions of {kind} that have not ended</span>}>
      <ul className="plain-list" aria-label="Versions">
        {versions.data?.items.map((each) => (
          <li key={each.version}>
            <span className="mono">{each.version}</span> {each.version === mine ? <State of="active" reason="this one" /> : null} {count(each.open)} open
            {each.oldest ? (
              <>
                , the oldest <ExecutionLink id={each.oldest} />
              </>
            ) : null}
          </li>
        ))}
        {versions.data?.items.length === 0 ? <li className="faint">None has any open execution: this one ran on {mine}.</li> : null}
      </ul>
    </Panel>
  );
}
