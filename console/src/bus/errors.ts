/** An error as the contract has them, or one that this console makes of what NATS says. */
export class AskError extends Error {
  constructor(
    readonly code: string,
    message: string,
    readonly detail: unknown = null,
  ) {
    super(message);
  }
}
