/** The chart of throughput, second by second. It has a chunk of its own. */

import { type ReactNode, useEffect, useRef, useState } from "react";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { seconds } from "../bus/events";
import { useAsk } from "../bus/useAsk";
import type { Counts } from "../contract.gen";
import { clock } from "../lib/format";

/** In seconds. What is longer than the page has been open for comes from `lane.stats`, minute by minute. */
const SPANS = { "1 minute": 60, "5 minutes": 300, "15 minutes": 15 * 60, "24 hours": 24 * 3600 } as const;
const BY_MINUTES = new Set<keyof typeof SPANS>(["15 minutes", "24 hours"]);
/** `lane.stats` is written down every few seconds. */
const WRITTEN_MS = 3000;
/** A day is drawn in steps of so many minutes. */
const DAY_STEP = 10;
const HEIGHT = 190;

function data(span: number): uPlot.AlignedData {
  const end = Math.floor(Date.now() / 1000) - 1;
  const by = new Map(seconds.map((each) => [each.at, each]));
  const step = span > 300 ? 5 : 1;
  const at: number[] = [];
  const rows: number[][] = [[], [], []];
  for (let from = end - span; from < end; from += step) {
    let [created, completed, failed] = [0, 0, 0];
    for (let second = from; second < from + step; second += 1) {
      const found = by.get(second);
      created += found?.created ?? 0;
      completed += found?.completed ?? 0;
      failed += found?.failed ?? 0;
    }
    at.push(from);
    rows[0]?.push(created / step);
    rows[1]?.push(completed / step);
    rows[2]?.push(failed / step);
  }
  return [at, ...rows] as uPlot.AlignedData;
}

/** The same from `lane.stats`, per second on average over each step. */
function byMinutes(minutes: readonly Counts[], span: number): uPlot.AlignedData {
  const step = span > 3600 ? DAY_STEP : 1;
  const end = Math.floor(Date.now() / 60_000) + 1;
  const by = new Map(minutes.map((each) => [Math.floor(each.at / 60_000), each]));
  const at: number[] = [];
  const rows: number[][] = [[], [], []];
  for (let from = Math.ceil((end - span / 60) / step) * step; from < end; from += step) {
    const found = Array.from({ length: step }, (_, n) => by.get(from + n)).filter((each) => each !== undefined);
    at.push(from * 60);
    (["created", "completed", "failed"] as const).forEach((name, row) => rows[row]?.push(found.reduce((sum, each) => sum + each[name], 0) / step / 60));
  }
  return [at, ...rows] as uPlot.AlignedData;
}

export default function Chart(): ReactNode {
  const box = useRef<HTMLDivElement>(null);
  const [span, setSpan] = useState<keyof typeof SPANS>("5 minutes");
  const long = BY_MINUTES.has(span);
  const stats = useAsk("lane.stats", long ? { minutes: SPANS[span] / 60 } : null, (event) => event.entity === "execution" && event.to !== null, WRITTEN_MS);
  const minutes = stats.data?.minutes;

  useEffect(() => {
    const host = box.current;
    if (!host) return;
    // A canvas knows no variables: the browser says what each is in this theme.
    const color = (name: string): string => {
      host.style.color = `var(${name})`;
      return getComputedStyle(host).color;
    };
    const axis = { stroke: color("--faint"), grid: { stroke: color("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    const line = (label: string, stroke: string): uPlot.Series => ({ label, stroke: color(stroke), width: 1.5, points: { show: false } });
    const now = (): uPlot.AlignedData => (long ? byMinutes(minutes ?? [], SPANS[span]) : data(SPANS[span]));
    const plot = new uPlot(
      {
        width: host.clientWidth,
        height: HEIGHT,
        cursor: { drag: { x: false, y: false } },
        legend: { live: false },
        scales: { y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
        axes: [{ ...axis, size: 26, values: (_, ticks) => ticks.map((each) => clock(each * 1000)) }, { ...axis, size: 38 }],
        series: [{}, line("created", "--c-ready"), line("completed", "--c-completed"), line("failed", "--c-failed")],
      },
      now(),
      host,
    );
    const timer = setInterval(() => plot.setData(now()), 1000);
    const sized = new ResizeObserver(() => plot.setSize({ width: host.clientWidth, height: HEIGHT }));
    sized.observe(host);
    return () => {
      clearInterval(timer);
      sized.disconnect();
      plot.destroy();
    };
  }, [span, long, minutes]);

  return (
    <div className="chart">
      <div className="chips" role="group" aria-label="Span">
        {(Object.keys(SPANS) as (keyof typeof SPANS)[]).map((each) => (
          <button key={each} type="button" aria-pressed={each === span} onClick={() => setSpan(each)}>
            {each}
          </button>
        ))}
      </div>
      <div ref={box} role="img" aria-label="Executions created, completed and failed a second" style={{ minHeight: HEIGHT + 30 }} />
    </div>
  );
}
