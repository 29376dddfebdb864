import type { Command } from "commander";
import type { Surroundings } from "./context.ts";
import { declareKv } from "./declarations/kv.ts";
import { commonOutputOptions, newProgram, outputOptions } from "./new-program.ts";

/** Returns the commands of `keyward-kv`. `keyward kv` has the same commands. */
export function kvProgramFor(surroundings: Surroundings): Command {
  const program = outputOptions(
    newProgram(
      surroundings,
      "A key-value store over HTTP, for HttpStore of @keyward/http-kv and for the http driver of unstorage.",
    ),
  );
  declareKv(program, async () => {
    const { Output } = await import("./terminal/output.ts");
    const { env, signal } = surroundings;
    return { env, signal, output: new Output(surroundings, commonOutputOptions(program)) };
  });
  return program;
}
