/** Rows sorted by key, the greatest first, that take single changes without being sorted anew. */
export class SortedRows<T> {
  private rows: T[] = [];
  private readonly known = new Set<string>();

  constructor(
    private readonly idOf: (row: T) => string,
    private readonly keyOf: (id: string) => string,
  ) {}

  /** The rows as they are now: another array after each change, so that it can be compared. */
  snapshot(): readonly T[] {
    return this.rows.slice();
  }

  has(id: string): boolean {
    return this.known.has(id);
  }

  clear(): void {
    this.rows = [];
    this.known.clear();
  }

  put(row: T): void {
    const id = this.idOf(row);
    const at = this.place(id);
    if (this.known.has(id)) this.rows[at] = row;
    else {
      this.rows.splice(at, 0, row);
      this.known.add(id);
    }
  }

  remove(id: string): void {
    if (!this.known.delete(id)) return;
    this.rows.splice(this.place(id), 1);
  }

  /** The index at which the id stands, or would stand. */
  private place(id: string): number {
    const key = this.keyOf(id);
    let low = 0;
    let high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.keyOf(this.idOf(this.rows[middle] as T)) > key) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
