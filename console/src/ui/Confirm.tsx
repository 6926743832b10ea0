/** What is done without a verb: it asks first all the same, and says what the same is on the command line. */

import * as Dialog from "@radix-ui/react-dialog";
import { type ReactNode, useState } from "react";
import { AskError } from "../bus/errors";
import { Store, useStore } from "../lib/store";
import { Lines } from "./Lines";
import { Failure } from "./parts";

interface Step {
  title: string;
  says: string;
  line: string;
  cli: string;
  go: () => Promise<void>;
}

const step = new Store<Step | null>(null);

export const confirm = (of: Step): void => step.set(of);

export function ConfirmDialog(): ReactNode {
  const asked = useStore(step);
  return (
    <Dialog.Root open={asked !== null} onOpenChange={(open) => !open && step.set(null)}>
      <Dialog.Portal>
        <Dialog.Overlay className="overlay" />
        <Dialog.Content className="dialog" aria-describedby="confirm-says">
          {asked ? <Confirm of={asked} /> : null}
        </Dialog.Content>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

function Confirm({ of }: { of: Step }): ReactNode {
  const [error, setError] = useState<AskError | null>(null);
  const [busy, setBusy] = useState(false);
  const go = async (): Promise<void> => {
    setBusy(true);
    setError(null);
    try {
      await of.go();
      step.set(null);
    } catch (problem) {
      setError(problem instanceof AskError ? problem : new AskError("internal", String(problem)));
    } finally {
      setBusy(false);
    }
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void go();
      }}
    >
      <Dialog.Title>{of.title}</Dialog.Title>
      <Dialog.Description id="confirm-says">{of.says}</Dialog.Description>
      {error ? <Failure error={error} /> : null}
      <Lines nats={of.line} cli={of.cli} />
      <footer>
        <Dialog.Close asChild>
          <button type="button">Cancel</button>
        </Dialog.Close>
        <button type="submit" className="primary" disabled={busy}>
          {of.title}
        </button>
      </footer>
    </form>
  );
}
