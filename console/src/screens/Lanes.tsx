/** Lanes: what waits in each, for how long, and the brakes. */

import { Link, useNavigate, useSearch } from "@tanstack/react-router";
import { type ReactNode } from "react";
import { pagesOf } from "../bus/forAll";
import { useList, useSome } from "../bus/useAsk";
import type { Lane } from "../contract.gen";
import { count, duration } from "../lib/format";
import { Filter, holds } from "../ui/Filters";
import { ForAll, Runs } from "../ui/ForAll";
import { Listed } from "../ui/Listed";
import type { Column } from "../ui/Table";
import { Empty, Page, State, VerbButton } from "../ui/parts";
import { laneOffers } from "./operating";

const LIVE = ["ready", "running", "retry_wait", "scheduled", "suspended"] as const;

function Depth({ lane, state }: { lane: Lane; state: string }): ReactNode {
  const n = lane.depth[state] ?? 0;
  return n ? (
    <Link to="/executions" search={{ lane: lane.lane, state }}>
      {count(n)}
    </Link>
  ) : (
    <span className="faint">0</span>
  );
}

const COLUMNS: Column<Lane>[] = [
  { name: "Lane", width: "minmax(5rem, 1fr)", cell: (x) => <><strong>{x.lane}</strong>{x.status === "active" ? null : <small> {x.status}</small>}</> },
  { name: "Status", wide: true, width: "5.5rem", cell: (x) => <State of={x.status} /> },
  ...LIVE.map(
    (state): Column<Lane> => ({
      name: state.replace("_", " "),
      width: "4.3rem",
      numeric: true,
      wide: state !== "ready",
      cell: (x) => <Depth lane={x} state={state} />,
    }),
  ),
  { name: "Failed", width: "3.8rem", numeric: true, wide: true, cell: (x) => <Depth lane={x} state="failed" /> },
  {
    name: "Oldest ready",
    width: "5.8rem",
    numeric: true,
    wide: true,
    cell: (x) => (x.oldest_ready_age_ms === null ? <span className="faint">–</span> : duration(x.oldest_ready_age_ms)),
  },
  {
    name: "Brakes",
    width: "8rem",
    cell: (x) => (
      <span className="buttons">
        {laneOffers(x)
          .filter((each) => !each.off)
          .map((each) => (
            <VerbButton key={each.name} verb={each.verb} onClick={each.go}>
              {each.name}
            </VerbButton>
          ))}
      </span>
    ),
  },
];

export function Lanes(): ReactNode {
  const { text } = useSearch({ from: "/lanes" });
  const navigate = useNavigate();
  const wants = (x: Lane): boolean => holds(x.lane, text);
  const lanes = useSome(
    useList("lane.list", {}, (event) => event.entity === "execution" || event.entity === "lane"),
    wants,
  );
  return (
    <Page
      title="Lanes"
      lead="A lane is a queue that workers name. Pausing hands nothing out; draining lets nothing in."
      extra={
        <ForAll
          screen="/lanes"
          list={lanes.data}
          pages={pagesOf("lane.list", {}, wants)}
          offersOf={laneOffers}
          actions={[["lane.pause", "Pause"], ["lane.drain", "Drain"], ["lane.resume", "Resume"]]}
          which={text ? `lanes whose names hold ${text}` : "no filter: all lanes"}
        />
      }
    >
      <Runs screen="/lanes" />
      <div className="filters">
        <div className="inputs">
          <Filter search label="Name" value={text} go={(next) => void navigate({ to: "/lanes", search: next ? { text: next } : {}, replace: true })} />
        </div>
      </div>
      <Listed
        answer={lanes}
        label="Lanes"
        columns={COLUMNS}
        idOf={(x) => x.lane}
        empty={<Empty title={text ? "No lane matches this filter" : "No lanes yet"}>A lane exists once an execution was created in it.</Empty>}
      />
    </Page>
  );
}
