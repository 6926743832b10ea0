/** A table whose rows are drawn only where they are seen, with one row that the keyboard is on. */

import { useVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, type ReactNode, useEffect, useRef, useState } from "react";

export interface Column<T> {
  name: string;
  /** A CSS grid track, such as `7rem` or `minmax(8rem, 1fr)`. */
  width: string;
  cell: (row: T) => ReactNode;
  /** Left off on narrow screens. */
  wide?: boolean;
  numeric?: boolean;
}

/** As in the style sheet. */
const ROW_PX = 33;
/** Browsers make no element taller than 33,554,428 px: rows behind these could not be reached. */
const MOST_ROWS = 1_000_000;
const AHEAD_PX = 1500;

export interface TableProps<T> {
  label: string;
  columns: Column<T>[];
  rows: readonly T[];
  idOf: (row: T) => string;
  onOpen?: (row: T) => void;
  onEnd?: () => void;
  empty: ReactNode;
  /** Whether the table fills the page and scrolls by itself; else it is as tall as its rows. */
  tall?: boolean;
  /** Whether it is as wide as its columns need, and is moved sideways where the page has less room. */
  broad?: boolean;
}

/** The least width of a column. */
const least = ({ width }: Column<never>): string => /^minmax\(([^,]+),/.exec(width)?.[1] ?? width;

export function Table<T>(props: TableProps<T>): ReactNode {
  const { rows, columns, onEnd } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const [at, setAt] = useState(-1);
  const narrow = useNarrow();
  const shown = narrow ? columns.filter((each) => !each.wide) : columns;
  const tracks = shown.map((each) => each.width).join(" ");
  const minWidth = props.broad ? `calc(${shown.map(least).join(" + ")} + ${shown.length * 12 + 40}px)` : undefined;
  const virtual = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW_PX,
    overscan: 12,
    getItemKey: (index) => props.idOf(rows[index] as T),
  });

  useEffect(() => {
    const keys = (event: globalThis.KeyboardEvent): void => {
      if (isTyping(event) || event.metaKey || event.ctrlKey || event.altKey) return;
      const step = { j: 1, k: -1 }[event.key];
      if (step) {
        event.preventDefault();
        setAt((old) => {
          const next = Math.min(rows.length - 1, Math.max(0, old + step));
          virtual.scrollToIndex(next);
          return next;
        });
      } else if (event.key === "Enter" && document.activeElement === document.body) {
        const row = rows[at];
        if (row !== undefined) props.onOpen?.(row);
      }
    };
    if (props.tall) window.addEventListener("keydown", keys);
    return () => window.removeEventListener("keydown", keys);
  });

  const onScroll = (): void => {
    const box = scroller.current;
    if (box && onEnd && rows.length < MOST_ROWS && box.scrollHeight - box.scrollTop - box.clientHeight < AHEAD_PX) onEnd();
  };
  useEffect(onScroll, [rows.length]);

  const open = (row: T) => (event: KeyboardEvent): void => {
    if (event.key === "Enter" && event.target === event.currentTarget) props.onOpen?.(row);
  };

  return (
    <div className={`table${props.tall ? " tall" : ""}${props.broad ? " broad" : ""}`} role="table" aria-label={props.label} aria-rowcount={rows.length}>
      <div className="thead" role="rowgroup" style={{ minWidth }}>
        <div className="tr" role="row" style={{ gridTemplateColumns: tracks }}>
          {shown.map((each) => (
            <div key={each.name} role="columnheader" className={each.numeric ? "right" : undefined}>
              {each.name}
            </div>
          ))}
        </div>
      </div>
      <div className="tbody" role="rowgroup" ref={scroller} onScroll={onScroll} tabIndex={rows.length ? 0 : -1} style={{ minWidth }}>
        {rows.length === 0 ? (
          <div role="row">
            <div role="cell">{props.empty}</div>
          </div>
        ) : (
          <div role="presentation" style={{ height: virtual.getTotalSize(), position: "relative" }}>
            {virtual.getVirtualItems().map((item) => {
              const row = rows[item.index] as T;
              return (
                <div
                  key={item.key}
                  role="row"
                  aria-rowindex={item.index + 1}
                  data-id={props.idOf(row)}
                  className={`tr${item.index === at ? " at" : ""}${props.onOpen ? " opens" : ""}`}
                  style={{ gridTemplateColumns: tracks, transform: `translateY(${item.start}px)` }}
                  onClick={(event) => {
                    const target = event.target as HTMLElement;
                    // React hands on what is clicked in a menu of the row, too, which the page has elsewhere.
                    if (!event.currentTarget.contains(target) || target.closest("a, button, input")) return;
                    setAt(item.index);
                    props.onOpen?.(row);
                  }}
                  onKeyDown={open(row)}
                >
                  {shown.map((each) => (
                    <div key={each.name} role="cell" className={each.numeric ? "right num" : undefined}>
                      {each.cell(row)}
                    </div>
                  ))}
                </div>
              );
            })}
          </div>
        )}
      </div>
    </div>
  );
}

export function isTyping(event: globalThis.KeyboardEvent): boolean {
  const target = event.target as HTMLElement;
  return target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName);
}

export function useNarrow(): boolean {
  const [narrow, setNarrow] = useState(() => matchMedia("(max-width: 760px)").matches);
  useEffect(() => {
    const query = matchMedia("(max-width: 760px)");
    const change = (): void => setNarrow(query.matches);
    query.addEventListener("change", change);
    return () => query.removeEventListener("change", change);
  }, []);
  return narrow;
}
