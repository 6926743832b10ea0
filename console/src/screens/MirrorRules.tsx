/** Mirror rules: what turns other systems' messages into steps, how often each did, and what one would make of a sample. */

import { type ReactNode, useState } from "react";
import { AskError } from "../bus/errors";
import { ask } from "../bus/link";
import { useList } from "../bus/useAsk";
import type { MirrorRule, MirrorRulePut, MirrorRuleTested } from "../contract.gen";
import { count, preview } from "../lib/format";
import { act } from "../ui/Act";
import { Json } from "../ui/Json";
import { Offers } from "../ui/Offers";
import { Listed } from "../ui/Listed";
import type { Column } from "../ui/Table";
import { Ago, Empty, Failure, Page, Panel, VerbButton } from "../ui/parts";
import { offer } from "./actions";

const EXAMPLE = {
  name: "builds",
  subject: "ci.*.job",
  flow: { key: { token: 2 }, create: { controller_id: "ci", owner: "ci" } },
  run_id: { jmespath: "id" },
  task: { jmespath: "job" },
  status: { jmespath: "state", map: { passed: "succeeded", broken: "failed" } },
};
const SAMPLE = { subject: "ci.web.job", headers: {}, data: { id: "1", job: "lint", state: "passed" } };
const COUNTED = ["revision", "seen", "applied", "dropped", "last_error", "last_at"];

/** A rule as `mirror_rule.put` takes it: without what was counted, and without what is not set. */
const asPut = (rule: MirrorRule): object => Object.fromEntries(Object.entries(rule).filter(([name, value]) => !COUNTED.includes(name) && value !== null));

function put(rule: object, title: string): void {
  act({
    verb: "mirror_rule.put",
    title,
    says: "It replaces a rule of the same name, and takes effect within a second.",
    request: {},
    fields: [{ name: "rule", label: "Rule", kind: "json", value: JSON.stringify(rule, null, 2) }],
    make: ({ rule: given }) => given as Record<string, unknown>,
  });
}

const columns = (test: (rule: MirrorRule) => void): Column<MirrorRule>[] => [
  { name: "Rule", width: "minmax(5rem, 1fr)", cell: (x) => <strong>{x.name}</strong> },
  { name: "Subject", width: "minmax(8rem, 1fr)", cell: (x) => <span className="mono">{x.subject}</span> },
  { name: "Stream", width: "7rem", wide: true, cell: (x) => x.stream ?? <span className="faint">core NATS</span> },
  { name: "Seen", width: "4rem", numeric: true, wide: true, cell: (x) => count(x.seen) },
  { name: "Applied", width: "4rem", numeric: true, wide: true, cell: (x) => count(x.applied) },
  { name: "Dropped", width: "4rem", numeric: true, wide: true, cell: (x) => <span className={x.dropped ? "bad-text" : "faint"}>{count(x.dropped)}</span> },
  { name: "Last error", width: "minmax(7rem, 1.5fr)", wide: true, cell: (x) => (x.last_error ? <span className="bad-text">{preview(x.last_error)}</span> : <span className="faint">–</span>) },
  { name: "Last", width: "6rem", numeric: true, wide: true, cell: (x) => <Ago at={x.last_at} /> },
  {
    name: "Actions",
    width: "4.5rem",
    cell: (x) => (
      <Offers
        compact
        label={`Actions for the rule ${x.name}`}
        of={[
          { verb: "mirror_rule.test", name: "Test with a sample", off: null, go: () => test(x) },
          { verb: "mirror_rule.put", name: "Edit", off: null, go: () => put(asPut(x), "Save rule") },
          offer("Delete", null, { verb: "mirror_rule.delete", title: "Delete rule", says: `${x.name} follows no messages any more. The flows that it made stay.`, danger: true, request: { name: x.name }, cli: () => `mirror delete ${x.name}` }),
        ]}
      />
    ),
  },
];

export function MirrorRules(): ReactNode {
  const rules = useList("mirror_rule.list", {}, (event) => event.entity === "mirror_rule" || event.event.startsWith("observation") || event.event === "observed");
  const [tested, setTested] = useState<object | null>(null);
  return (
    <Page
      title="Mirror rules"
      lead="Rules that turn other systems' messages into steps of mirrored flows."
      extra={
        <>
          <VerbButton verb="mirror_rule.test" onClick={() => setTested(EXAMPLE)}>
            Test a rule
          </VerbButton>
          <VerbButton verb="mirror_rule.put" kind="primary" onClick={() => put(EXAMPLE, "Store rule")}>
            New rule
          </VerbButton>
        </>
      }
    >
      <Listed
        answer={rules}
        label="Mirror rules"
        columns={columns((rule) => setTested(asPut(rule)))}
        idOf={(x) => x.name}
        empty={<Empty title="No mirror rules">A rule follows a subject, and makes a flow of what it says.</Empty>}
      />
      {tested ? <Test key={JSON.stringify(tested)} rule={tested} /> : null}
    </Page>
  );
}

function Test({ rule }: { rule: object }): ReactNode {
  const [text, setText] = useState(JSON.stringify(rule, null, 2));
  const [sample, setSample] = useState(JSON.stringify(SAMPLE, null, 2));
  const [found, setFound] = useState<MirrorRuleTested | null>(null);
  const [error, setError] = useState<AskError | null>(null);
  const run = async (): Promise<void> => {
    setFound(null);
    setError(null);
    try {
      const request = { rule: JSON.parse(text) as MirrorRulePut, sample: JSON.parse(sample) as { subject: string } };
      setFound(await ask("mirror_rule.test", request));
    } catch (problem) {
      setError(problem instanceof AskError ? problem : new AskError("no_json", problem instanceof Error ? problem.message : String(problem)));
    }
  };
  return (
    <Panel title="Test" extra={<button type="button" className="primary" onClick={() => void run()}>What would it make?</button>}>
      <div className="columns even pad">
        <label className="field">
          <span>Rule</span>
          <textarea className="mono" rows={12} value={text} spellCheck={false} onChange={(e) => setText(e.target.value)} />
        </label>
        <label className="field">
          <span>Sample</span>
          <textarea className="mono" rows={12} value={sample} spellCheck={false} onChange={(e) => setSample(e.target.value)} />
        </label>
      </div>
      {error ? <Failure error={error} /> : null}
      {found?.dropped ? <p className="pad bad-text">It would drop it: {found.dropped}</p> : null}
      {found?.observation ? <Json value={{ flow: found.flow_id ?? found.key, observation: found.observation }} label="Observation" /> : null}
    </Panel>
  );
}
