/** Dead letters: published messages that could not be applied, why not, and how to publish them again. */

import { useNavigate, useSearch } from "@tanstack/react-router";
import { type ReactNode } from "react";
import { publishStored, root } from "../bus/link";
import { type Stored, page, streamState } from "../bus/trail";
import { useLoad } from "../bus/useAsk";
import { count, instant, preview } from "../lib/format";
import { Json } from "../ui/Json";
import { confirm } from "../ui/Confirm";
import { Listed } from "../ui/Listed";
import { quoted } from "../ui/Lines";
import type { Column } from "../ui/Table";
import { Ago, Copy, Empty, Facts, Page, Panel, PublishButton } from "../ui/parts";

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

const own = (letter: Stored): [string, string][] => letter.headers.filter(([name]) => !ADDED.test(name));

function publish(letter: Stored): string {
  const headers = own(letter).map(([name, value]) => ` -H ${quoted(`${name}:${value}`)}`);
  return `nats pub ${quoted(subject(letter))}${headers.join("")} ${quoted(decoder.decode(letter.body))}`;
}

const COLUMNS: Column<Stored>[] = [
  { name: "When", width: "6rem", cell: (x) => <Ago at={x.at} /> },
  { name: "Subject", width: "minmax(5rem, 1fr)", cell: (x) => <span className="mono">{subject(x)}</span> },
  { name: "Why", width: "minmax(5rem, 1.4fr)", cell: (x) => <span className="bad-text">{reason(x)}</span> },
  { name: "Body", width: "minmax(8rem, 1fr)", wide: true, cell: (x) => <span className="mono faint">{preview(decoder.decode(x.body))}</span> },
];

/** Why a letter cannot be published again, or null. */
function off(letter: Stored): string | null {
  if (subject(letter) === `${root()}.audit`) return "it is an event that could not be written down, and no message that somebody published";
  if (header(letter, "Penstock-Dead-Size")) return "it was too large to be kept whole";
  return null;
}

function again(letter: Stored): void {
  confirm({
    title: "Publish again",
    says: `The same message, on ${subject(letter)}. The letter stays here; a second time within two minutes is one and the same message.`,
    line: publish(letter),
    cli: `dead publish ${letter.seq}`,
    go: () => publishStored(subject(letter), [...own(letter), ["Nats-Msg-Id", `dead-${letter.seq}`]], letter.body),
  });
}

interface Letters {
  items: Stored[];
  cursor: null;
  all: number;
}

async function load(): Promise<Letters> {
  const state = await streamState("DEAD");
  const items = state.messages ? await page("DEAD", { seq: Math.max(state.first_seq, state.last_seq - MOST + 1) }, MOST) : [];
  return { items: items.reverse(), cursor: null, all: state.messages };
}

export function DeadLetters(): ReactNode {
  const { letter } = useSearch({ from: "/dead" });
  const navigate = useNavigate();
  const dead = useLoad(load, (event) => /_(rejected|dropped)$/.test(event.event));
  const chosen = dead.data?.items.find((each) => String(each.seq) === letter);
  return (
    <Page
      title="Dead letters"
      lead="Signals, observations and events that were published and could not be applied."
      extra={
        <button type="button" onClick={dead.reload}>
          Look again
        </button>
      }
    >
      <Listed
        answer={dead}
        label="Dead letters"
        columns={COLUMNS}
        idOf={(x) => String(x.seq)}
        onOpen={(x) => void navigate({ to: "/dead", search: letter === String(x.seq) ? {} : { letter: String(x.seq) } })}
        empty={<Empty title="No dead letters">Everything that was published has been applied.</Empty>}
      />
      {dead.data && dead.data.all > dead.data.items.length ? <p className="faint">The newest {count(dead.data.items.length)} of {count(dead.data.all)}.</p> : null}
      {chosen ? (
        <Panel
          title={`Letter ${chosen.seq}`}
          extra={
            <span className="buttons">
              <Copy text={publish(chosen)}>copy as nats pub</Copy>
              <PublishButton subject={subject(chosen)} off={off(chosen)} onClick={() => again(chosen)}>
                Publish again
              </PublishButton>
            </span>
          }
        >
          <Facts of={[["Subject", <span key="s" className="mono">{subject(chosen)}</span>], ["Why", reason(chosen)], ["When", instant(chosen.at)], ["Message id", header(chosen, "Penstock-Message-Id")]]} />
          <Json value={body(chosen)} label="Body" />
        </Panel>
      ) : null}
    </Page>
  );
}
