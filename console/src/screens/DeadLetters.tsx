/** Dead letters: published messages that could not be applied, why not, and how to publish them again. */

import { type ReactNode, useCallback, useState } from "react";
import { root } from "../bus/link";
import { type Stored, page, streamState } from "../bus/trail";
import { useLoad } from "../bus/useAsk";
import { count, instant, preview } from "../lib/format";
import { Json } from "../ui/Json";
import { type Column, Table } from "../ui/Table";
import { Ago, Copy, Empty, Facts, Failure, Page, Panel, Waiting } from "../ui/parts";

const MOST = 1000;
const decoder = new TextDecoder();
/** Headers that Penstock has added to the message. */
const ADDED = /^(Penstock-Dead-|Penstock-Message-Id|Nats-Msg-Id)/;

const header = (letter: Stored, name: string): string => letter.headers.find(([each]) => each === name)?.[1] ?? "";
const reason = (letter: Stored): string => header(letter, "Penstock-Dead-Reason");
/** The subject on which it was published. */
const subject = (letter: Stored): string => letter.subject.replace(`${root()}.dead.`, `${root()}.`);

function body(letter: Stored): unknown {
  const text = decoder.decode(letter.body);
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return text;
  }
}

const quoted = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

function publish(letter: Stored): string {
  const own = letter.headers.filter(([name]) => !ADDED.test(name)).map(([name, value]) => ` -H ${quoted(`${name}:${value}`)}`);
  return `nats pub ${quoted(subject(letter))}${own.join("")} ${quoted(decoder.decode(letter.body))}`;
}

const COLUMNS: Column<Stored>[] = [
  { name: "When", width: "6rem", cell: (x) => <Ago at={x.at} /> },
  { name: "Subject", width: "minmax(5rem, 1fr)", cell: (x) => <span className="mono">{subject(x)}</span> },
  { name: "Why", width: "minmax(5rem, 1.4fr)", cell: (x) => <span className="bad-text">{reason(x)}</span> },
  { name: "Body", width: "minmax(8rem, 1fr)", wide: true, cell: (x) => <span className="mono faint">{preview(decoder.decode(x.body))}</span> },
];

export function DeadLetters(): ReactNode {
  const load = useCallback(async (): Promise<{ letters: Stored[]; all: number }> => {
    const state = await streamState("DEAD");
    if (state.messages === 0) return { letters: [], all: 0 };
    const letters = await page("DEAD", { seq: Math.max(state.first_seq, state.last_seq - MOST + 1) }, MOST);
    return { letters: letters.reverse(), all: state.messages };
  }, []);
  const dead = useLoad(load, (event) => /_(rejected|dropped)$/.test(event.event));
  const [chosen, setChosen] = useState<Stored | null>(null);
  return (
    <Page title="Dead letters" lead="Signals, observations and events that were published and could not be applied.">
      {dead.error ? <Failure error={dead.error} retry={dead.reload} /> : null}
      {dead.data ? (
        <Table
          tall
          label="Dead letters"
          columns={COLUMNS}
          rows={dead.data.letters}
          idOf={(x) => String(x.seq)}
          onOpen={setChosen}
          empty={<Empty title="No dead letters">Everything that was published has been applied.</Empty>}
        />
      ) : dead.error ? null : (
        <Waiting />
      )}
      {dead.data && dead.data.all > dead.data.letters.length ? <p className="faint">The newest {count(dead.data.letters.length)} of {count(dead.data.all)}.</p> : null}
      {chosen ? (
        <Panel title={`Letter ${chosen.seq}`} extra={<Copy text={publish(chosen)}>copy as nats pub, to publish it again</Copy>}>
          <Facts of={[["Subject", <span key="s" className="mono">{subject(chosen)}</span>], ["Why", reason(chosen)], ["When", instant(chosen.at)], ["Message id", header(chosen, "Penstock-Message-Id")]]} />
          <Json value={body(chosen)} label="Body" />
        </Panel>
      ) : null}
    </Page>
  );
}
