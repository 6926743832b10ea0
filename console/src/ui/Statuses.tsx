import { type ReactNode } from "react";
import { State } from "./parts";

/** The filter of a list by status: one of them, or all where `all` is given. */
export function Statuses<S extends string>({ of, at, all, go }: { of: readonly S[]; at: S | undefined; all?: boolean; go: (status: S | undefined) => void }): ReactNode {
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
    </div>
  );
}
