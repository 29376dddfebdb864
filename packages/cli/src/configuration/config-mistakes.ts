import { isAbsolute } from "node:path";
import { KeywardError } from "@keyward/core";
import type { ConfigOptions, ConfigSettings, GatewaySettings, RotationSettings } from "./config-options.ts";
import { gatewayStoreNames, storeName } from "./store-name.ts";

type Names<Options> = Readonly<Record<keyof Options, true>>;

const settingNames: Names<ConfigSettings> = {
  keys: true,
  stores: true,
  scope: true,
  accept: true,
  rotation: true,
  gateway: true,
};
const gatewayNames: Names<GatewaySettings> = { store: true, audit: true };
const optionNames: Names<ConfigOptions> = { ...settingNames, folder: true, environments: true };
const rotationNames: Names<RotationSettings> = {
  graceMs: true,
  maxPerSecond: true,
  unregisteredMs: true,
  replicasWithinMs: true,
};
/** The range of each setting of a rotation. The longest grace is ten years. */
const rotationBounds: Readonly<Record<keyof RotationSettings, readonly [least: number, most: number]>> = {
  graceMs: [0, 315_360_000_000],
  maxPerSecond: [1, 1_000_000_000],
  unregisteredMs: [0, 2 ** 30],
  replicasWithinMs: [1, 2 ** 30],
};

/**
 * Checks the content of a configuration file, and returns it.
 *
 * @throws KeywardError `VALUE_INVALID` that lists every mistake.
 */
export function requireConfigOptions(given: unknown): ConfigOptions {
  if (isConfigOptions(given)) return given;
  throw new KeywardError("VALUE_INVALID", `The configuration has mistakes. ${mistakesIn(given).join(" ")}`, {
    hint: "Correct the configuration at the places that the message names.",
  });
}

function isConfigOptions(given: unknown): given is ConfigOptions {
  return mistakesIn(given).length === 0;
}

/** Returns each mistake in a configuration, as a sentence that begins with its place. A value is never repeated. */
function mistakesIn(given: unknown): readonly string[] {
  const found = new Mistakes();
  if (!found.requireNames("", given, optionNames)) return found.sentences;
  found.inSettings("", given);
  const { folder, environments } = given;
  if (folder !== undefined && (typeof folder !== "string" || !isAbsolute(folder))) {
    found.add("folder", "must be the absolute path of a folder, such as `import.meta.dirname`");
  }
  if (environments !== undefined && found.requireObject("environments", environments)) {
    for (const [name, settings] of Object.entries(environments)) {
      const place = `environments.${name}`;
      if (!storeName.test(name))
        found.add(place, "is not a valid name: a name begins with a letter, and has letters, digits, - and _ after it");
      if (found.requireNames(`${place}.`, settings, settingNames)) found.inSettings(`${place}.`, settings);
    }
  }
  return found.sentences;
}

class Mistakes {
  readonly sentences: string[] = [];

  add(place: string, problem: string): void {
    this.sentences.push(`${place} ${problem}.`);
  }

  inSettings(prefix: string, settings: Readonly<Record<string, unknown>>): void {
    const { keys, stores, scope, accept, rotation, gateway } = settings;
    if (keys !== undefined) this.#requireSource(`${prefix}keys`, keys);
    if (stores !== undefined && this.requireObject(`${prefix}stores`, stores)) {
      for (const [name, source] of Object.entries(stores)) {
        const place = `${prefix}stores.${name}`;
        if (storeName.test(name)) this.#requireSource(place, source);
        else
          this.add(
            place,
            "is not a valid name: a name begins with a letter, and has letters, digits, - and _ after it",
          );
        if (gateway !== undefined && gatewayStoreNames.some((reserved) => reserved === name)) {
          this.add(place, "has the name of a store that the setting `gateway` has already");
        }
      }
    }
    if (gateway !== undefined) this.#inGateway(`${prefix}gateway`, gateway);
    if (scope !== undefined && typeof scope !== "string" && typeof scope !== "function") {
      this.add(
        `${prefix}scope`,
        "must be the name of a scope, or a function that returns this name for the address of a record",
      );
    }
    if (accept !== undefined && !Array.isArray(accept))
      this.add(`${prefix}accept`, "must be a list of foreign formats");
    if (rotation !== undefined && this.requireNames(`${prefix}rotation.`, rotation, rotationNames)) {
      for (const [name, [least, most]] of Object.entries(rotationBounds)) {
        const value = rotation[name];
        if (value === undefined) continue;
        if (!Number.isSafeInteger(value) || Number(value) < least || Number(value) > most) {
          this.add(`${prefix}rotation.${name}`, `must be an integer between ${least} and ${most}`);
        }
      }
    }
  }

  #inGateway(place: string, gateway: unknown): void {
    if (!this.requireNames(`${place}.`, gateway, gatewayNames)) return;
    const { store, audit } = gateway;
    this.#requireSource(`${place}.store`, store);
    if (typeof audit === "string" && audit.trim() !== "" && !/^[a-z][a-z0-9+.-]+:/i.test(audit)) return;
    this.add(`${place}.audit`, "must be the path of a file, such as `.keyward/audit.db`");
  }

  requireNames(
    prefix: string,
    given: unknown,
    names: Readonly<Record<string, true>>,
  ): given is Readonly<Record<string, unknown>> {
    if (!this.requireObject(prefix === "" ? "The configuration" : prefix.slice(0, -1), given)) return false;
    for (const name of Object.keys(given)) {
      if (Object.hasOwn(names, name)) continue;
      // A name of another form may be a value that was written in the wrong place.
      const shown = storeName.test(name) ? name : "(a name that is not shown)";
      this.add(`${prefix}${shown}`, `is not a setting. The settings here are ${Object.keys(names).join(", ")}`);
    }
    return true;
  }

  requireObject(place: string, given: unknown): given is Readonly<Record<string, unknown>> {
    if (typeof given === "object" && given !== null && !Array.isArray(given)) return true;
    this.add(place, "must be an object");
    return false;
  }

  #requireSource(place: string, source: unknown): void {
    if (typeof source === "function" || (typeof source === "string" && source.trim() !== "")) return;
    this.add(place, "must be a text, such as `file:production.keyring` or `sqlite:sessions.sqlite`, or a function");
  }
}
