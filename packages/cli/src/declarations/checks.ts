import type { Command } from "commander";
import type { OpenContext } from "../context.ts";

/** Declares the commands that look at the keys, the stores and the processes, and change nothing. */
export function declareChecks(program: Command, context: OpenContext): void {
  program
    .command("replicas")
    .description("List the processes that are registered in the stores, with the keys that they hold.")
    .action(async () => await (await import("../commands/records.ts")).showReplicas(await context()));
  program
    .command("doctor")
    .description("Check the keys and the stores, and print what to do about each problem. Changes nothing.")
    .action(async () => await (await import("../commands/doctor.ts")).doctor(await context()));
}
