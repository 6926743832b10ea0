/** How times, durations and ids are written. All take milliseconds. */

export function duration(ms: number | null | undefined): string {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  const past = Math.max(0, ms);
  if (past < 1000) return `${Math.round(past)} ms`;
  if (past < 60_000) return `${(past / 1000).toFixed(past < 10_000 ? 1 : 0)} s`;
  if (past < 3_600_000) return `${Math.floor(past / 60_000)} min ${Math.floor((past % 60_000) / 1000)} s`;
  if (past < 86_400_000) return `${Math.floor(past / 3_600_000)} h ${Math.floor((past % 3_600_000) / 60_000)} min`;
  return `${Math.floor(past / 86_400_000)} d ${Math.floor((past % 86_400_000) / 3_600_000)} h`;
}

export function ago(at: number, now: number): string {
  const past = now - at;
  if (Math.abs(past) < 1000) return "now";
  return past >= 0 ? `${coarse(past)} ago` : `in ${coarse(-past)}`;
}

function coarse(ms: number): string {
  if (ms < 60_000) return `${Math.floor(ms / 1000)} s`;
  if (ms < 3_600_000) return `${Math.floor(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.floor(ms / 3_600_000)} h`;
  return `${Math.floor(ms / 86_400_000)} d`;
}

const two = (n: number, width = 2): string => String(n).padStart(width, "0");

export function clock(at: number, withMs = false): string {
  const d = new Date(at);
  const base = `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}`;
  return withMs ? `${base}.${two(d.getMilliseconds(), 3)}` : base;
}

export function instant(at: number): string {
  const d = new Date(at);
  return `${d.getFullYear()}-${two(d.getMonth() + 1)}-${two(d.getDate())} ${clock(at)}`;
}

/** The end of an id tells it from its neighbours; its beginning is a time. */
export function shortId(id: string): string {
  return id.length > 20 ? `…${id.slice(-12)}` : id;
}

/** The instant at which the id was made: ids are `<partition>-<uuid7>`. */
export function idTime(id: string): number | null {
  const hex = /^\d+-([0-9a-f]{8})-([0-9a-f]{4})-7/.exec(id);
  return hex ? Number.parseInt(`${hex[1]}${hex[2]}`, 16) : null;
}

export function many(n: number, one: string): string {
  return `${count(n)} ${one}${n === 1 ? "" : "s"}`;
}

export function count(n: number): string {
  return n.toLocaleString("en");
}

export function preview(value: unknown, most = 90): string {
  if (value === null || value === undefined) return "";
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > most ? `${text.slice(0, most)}…` : text;
}
