// Reads an AsyncAPI document from standard input with its own parser. Prints, as JSON, what is wrong with it.
import { Parser } from "@asyncapi/parser";
import { text } from "node:stream/consumers";

const { document, diagnostics } = await new Parser().parse(await text(process.stdin));
const wrong = diagnostics.filter((each) => each.severity <= 1);
console.log(JSON.stringify({ operations: document?.operations().all().length ?? 0, wrong }));
