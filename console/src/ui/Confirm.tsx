/** What is done without a verb: it asks first all the same, and says what the same is on the command line. */

import type { ReactNode } from "react";
import { Store, useStore } from "../lib/store";
import { Modal, Question } from "./Question";

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
  const close = (): void => step.set(null);
  return (
    <Modal open={asked !== null} close={close} says="confirm-says">
      {asked ? (
        <Question
          title={asked.title}
          says={asked.says}
          id="confirm-says"
          nats={asked.line}
          cli={asked.cli}
          go={async () => {
            await asked.go();
            close();
          }}
        />
      ) : null}
    </Modal>
  );
}
