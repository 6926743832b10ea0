/** The frame of every list that a verb answers: its failure, its table, and what is said while nothing is there yet. */

import { type ReactNode } from "react";
import type { Answer, List } from "../bus/useAsk";
import { Table, type TableProps } from "./Table";
import { Failure, Waiting } from "./parts";

export function Listed<T>({ answer, ...table }: Omit<TableProps<T>, "rows" | "tall" | "onEnd"> & { answer: Answer<List<T>> & { more?: () => void } }): ReactNode {
  return (
    <>
      {answer.error ? <Failure error={answer.error} retry={answer.reload} /> : null}
      {answer.data ? <Table tall rows={answer.data.items} onEnd={answer.more} {...table} /> : answer.error ? null : <Waiting />}
    </>
  );
}
