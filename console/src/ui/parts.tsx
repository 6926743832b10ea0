/** The small parts that all screens are made of. */

import { Link } from "@tanstack/react-router";
import { type ReactNode, useEffect, useState } from "react";
import type { AskError } from "../bus/errors";
import { refusal } from "../bus/link";
import { denied, link } from "../bus/link";
import { Store, useStore } from "../lib/store";
import { ago, idTime, instant, shortId } from "../lib/format";

/** The present second: one timer for all times that are shown relative to now. */
const now = new Store(Date.now());
setInterval(() => now.set(Date.now()), 1000);
export const useNow = (): number => useStore(now);

export function Ago({ at }: { at: number | null | undefined }): ReactNode {
  const present = useNow();
  if (at === null || at === undefined) return <span className="faint">–</span>;
  return (
    <time dateTime={new Date(at).toISOString()} title={instant(at)} className="num">
      {ago(at, present)}
    </time>
  );
}

export function State({ of, reason }: { of: string; reason?: string | null }): ReactNode {
  return (
    <span className={`state s-${of}`}>
      <i aria-hidden="true" />
      {of.replace("_", " ")}
      {reason ? <small>{reason.replace("_", " ")}</small> : null}
    </span>
  );
}

export function ExecutionLink({ id, full = false }: { id: string; full?: boolean }): ReactNode {
  const at = idTime(id);
  return (
    <Link to="/executions/$id" params={{ id }} className="mono" title={`${id}${at ? `\nmade ${instant(at)}` : ""}`}>
      {full ? id : shortId(id)}
    </Link>
  );
}

export function Page({ title, extra, children, lead }: { title: ReactNode; extra?: ReactNode; lead?: ReactNode; children: ReactNode }): ReactNode {
  return (
    <>
      <header className="page-head">
        <div>
          <h1>{title}</h1>
          {lead ? <p className="lead">{lead}</p> : null}
        </div>
        {extra ? <div className="head-extra">{extra}</div> : null}
      </header>
      {children}
    </>
  );
}

export function Panel({ title, extra, children, id }: { title: ReactNode; extra?: ReactNode; children: ReactNode; id?: string }): ReactNode {
  return (
    <section className="panel" id={id}>
      <header>
        <h2>{title}</h2>
        {extra}
      </header>
      {children}
    </section>
  );
}

export function Empty({ title, children }: { title: string; children?: ReactNode }): ReactNode {
  return (
    <div className="empty">
      <strong>{title}</strong>
      {children ? <div>{children}</div> : null}
    </div>
  );
}

export function Failure({ error, retry }: { error: AskError; retry?: () => void }): ReactNode {
  return (
    <div className="note bad" role="alert">
      <div>
        <strong className="mono">{error.code}</strong> {error.message}
      </div>
      {retry ? (
        <button type="button" onClick={retry}>
          Try again
        </button>
      ) : null}
    </div>
  );
}

/** What a screen shows until its first answer: nothing moves, and it says what it waits for. */
export function Waiting(): ReactNode {
  const [slow, setSlow] = useState(false);
  useEffect(() => {
    const timer = setTimeout(() => setSlow(true), 800);
    return () => clearTimeout(timer);
  }, []);
  return (
    <div className="empty" aria-busy="true">
      {slow ? "waiting for the answer" : "\u00a0"}
    </div>
  );
}

export function Facts({ of }: { of: [string, ReactNode][] }): ReactNode {
  return (
    <dl className="facts">
      {of.map(([name, value]) =>
        value === null || value === undefined || value === "" ? null : (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ),
      )}
    </dl>
  );
}

interface ButtonProps {
  onClick: () => void;
  children: ReactNode;
  kind?: "danger" | "primary";
  off?: string | null;
}

/** A button for what a verb does, greyed out with the reason where this user's NATS permissions do not reach. */
export function VerbButton({ verb, ...props }: ButtonProps & { verb: string }): ReactNode {
  useStore(denied);
  useStore(link);
  return <Greyable {...props} verb={verb} off={refusal(verb) ?? props.off} />;
}

/** The same for what publishes to a subject: nats-server says at the first try whether the user may. */
export function PublishButton({ subject, ...props }: ButtonProps & { subject: string }): ReactNode {
  const why = useStore(denied).get(subject);
  return <Greyable {...props} off={why ?? props.off} />;
}

function Greyable(props: ButtonProps & { verb?: string }): ReactNode {
  const why = props.off ?? null;
  return (
    <button
      type="button"
      className={props.kind}
      aria-disabled={why ? true : undefined}
      title={why ?? undefined}
      data-verb={props.verb}
      onClick={why ? undefined : props.onClick}
    >
      {props.children}
      {why ? <span className="sr"> (not available: {why})</span> : null}
    </button>
  );
}

export function Copy({ text, children }: { text: string | (() => string); children?: ReactNode }): ReactNode {
  const [done, setDone] = useState(false);
  return (
    <button
      type="button"
      className="quiet"
      onClick={() => {
        void navigator.clipboard.writeText(typeof text === "string" ? text : text());
        setDone(true);
        setTimeout(() => setDone(false), 1200);
      }}
    >
      {done ? "copied" : (children ?? "copy")}
    </button>
  );
}
