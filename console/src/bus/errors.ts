/** An error as the contract has them, or one that this console makes of what NATS says. */
export class AskError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly detail: unknown = null,
  ) {
    super(message);
  }

  /** Whatever was thrown, as such an error. */
  static of(problem: unknown): AskError {
    return problem instanceof AskError ? problem : new AskError("internal", String(problem));
  }
}
