/** What an action does, as lines to copy. */

import { type ReactNode } from "react";
import { natsWs, root } from "../bus/link";
import { Copy } from "./parts";

export const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

export function Lines({ nats, cli }: { nats: string | null; cli: string | null | undefined }): ReactNode {
  return (
    <details className="lines">
      <summary>The same on the command line</summary>
      {nats ? <Line label="nats" text={nats} /> : null}
      {cli ? <Line label="penstock" text={`penstock ${root() === "penstock" ? "" : `--root ${root()} `}${cli}`} /> : null}
      <p className="faint">against the NATS that speaks WebSocket at {natsWs()}</p>
    </details>
  );
}

function Line({ label, text }: { label: string; text: string }): ReactNode {
  return (
    <div className="line">
      <code tabIndex={0} aria-label={`${label} line`}>
        {text}
      </code>
      <Copy text={text}>copy</Copy>
    </div>
  );
}
