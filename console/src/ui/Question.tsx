/** What is asked before something is done: a window, what it says, the same as a line to copy, and the two buttons. */

import * as Dialog from "@radix-ui/react-dialog";
import { type ReactNode, useState } from "react";
import { AskError } from "../bus/errors";
import { Lines } from "./Lines";
import { Failure } from "./parts";

/** A window over the page. `says`: the id of the text in it that describes it. */
export function Modal(props: { open: boolean; close: () => void; says: string; children: ReactNode }): ReactNode {
  return (
    <Dialog.Root open={props.open} onOpenChange={(open) => !open && props.close()}>
      <Dialog.Portal>
        <Dialog.Overlay className="overlay" />
        <Dialog.Content className="dialog" aria-describedby={props.says}>
          {props.children}
        </Dialog.Content>
      </Dialog.Portal>
    </Dialog.Root>
  );
}

interface Asked {
  title: string;
  says: string;
  /** The id of the text `says`, as the window knows it. */
  id: string;
  nats: string | null;
  cli?: string | null | undefined;
  danger?: boolean | undefined;
  /** Null while it cannot be done. */
  go: (() => Promise<void>) | null;
  children?: ReactNode;
}

/** A form whose one button, named as its title, does what is asked. What that throws is shown, and the form stays. */
export function Question({ title, says, id, nats, cli, danger, go, children }: Asked): ReactNode {
  const [error, setError] = useState<AskError | null>(null);
  const [busy, setBusy] = useState(false);
  const submit = async (): Promise<void> => {
    if (!go) return;
    setBusy(true);
    setError(null);
    try {
      await go();
    } catch (problem) {
      setError(AskError.of(problem));
    } finally {
      setBusy(false);
    }
  };
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        void submit();
      }}
    >
      <Dialog.Title>{title}</Dialog.Title>
      <Dialog.Description id={id}>{says}</Dialog.Description>
      {children}
      {error ? <Failure error={error} /> : null}
      <Lines nats={nats} cli={cli} />
      <footer>
        <Dialog.Close asChild>
          <button type="button">Cancel</button>
        </Dialog.Close>
        <button type="submit" className={danger ? "danger solid" : "primary"} disabled={busy || !go}>
          {title}
        </button>
      </footer>
    </form>
  );
}
