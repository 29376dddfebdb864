import { randomBytes } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { inspect } from "node:util";
import type { AuditLog, SecretsAdmin } from "@keyward/secrets";
import * as surface from "@keyward/secrets";
import { SecretValue } from "@keyward/secrets/reader";
import { describe, expect, expectTypeOf, it } from "vitest";
import { startService } from "./service.ts";

/** What a promise or a plain result contains. */
type ResultOf<Method> = Method extends (...given: never[]) => infer Result ? Awaited<Result> : never;

/** True if a type has a property `value`, or a `SecretValue`, at any depth. */
type HasValue<Type, Depth extends unknown[] = []> = Depth["length"] extends 8
  ? false
  : Type extends SecretValue
    ? true
    : Type extends string | number | boolean | undefined | null | symbol | bigint
      ? false
      : Type extends (...given: never[]) => unknown
        ? false
        : Type extends readonly (infer Item)[]
          ? HasValue<Item, [...Depth, unknown]>
          : "value" extends (string extends keyof Type ? never : keyof Type)
            ? true
            : true extends { [Key in keyof Type]-?: HasValue<Type[Key], [...Depth, unknown]> }[keyof Type]
              ? true
              : false;

/** The methods of `SecretsAdmin` whose result could contain a secret's value. */
type Revealing = {
  [Name in keyof SecretsAdmin]: true extends HasValue<ResultOf<SecretsAdmin[Name]>> ? Name : never;
}[keyof SecretsAdmin];

describe("SecretsAdmin", () => {
  it("has no method whose result type contains a secret's value", () => {
    expectTypeOf<Revealing>().toEqualTypeOf<never>();
    // The check itself finds a value.
    expectTypeOf<HasValue<{ readonly items: readonly { readonly value: string }[] }>>().toEqualTypeOf<true>();
    expectTypeOf<HasValue<{ readonly of: { readonly one: SecretValue } }>>().toEqualTypeOf<true>();
  });

  it("is exported by a package entry that exports nothing that can read values", () => {
    expect(Object.keys(surface).sort()).toEqual([
      "Caller",
      "SecretsAdmin",
      "SecretsError",
      "auditAnchor",
      "auditNamespace",
      "auditScope",
      "auditStore",
      "exportAudit",
      "hasAuditChains",
      "hasRight",
      "openAuditLog",
      "rolesWithRight",
      "scopeOfServiceRecord",
      "serviceNamespace",
      "verifyAudit",
    ]);
    expectTypeOf<AuditLog>().not.toHaveProperty("value");
  });
});

describe("the sources", () => {
  it("let only the reader parse the record of a value", () => {
    const source = join(import.meta.dirname, "..", "src");
    const files = readdirSync(source, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"));
    const importing = (module: string) =>
      files.filter((file) => new RegExp(`from "[^"]*${module}"`).test(readFileSync(join(source, file), "utf8"))).sort();
    expect(importing("value-reading.ts")).toEqual(["reader/secrets-reader.ts", "reader/value-check.ts"]);
    expect(importing("value-check.ts")).toEqual(["records-check.ts"]);
    expect(importing("secrets-reader.ts")).toEqual(["reader.ts"]);
    expect(importing("reader/secret-value.ts")).toEqual(["reader.ts"]);
  });
});

describe("SecretValue", () => {
  it("does not show its value unless reveal() is called", () => {
    const text = randomBytes(16).toString("hex");
    const value = new SecretValue(text);
    const shown = [
      `${value}`,
      JSON.stringify({ value }),
      inspect({ value }, { showHidden: true, depth: 9 }),
      String(value),
    ];
    expect(shown.join()).not.toContain(text);
    expect(value.reveal()).toBe(text);
  });
});

describe("what SecretsAdmin returns, throws and records", () => {
  it("never contains a value", async () => {
    const { admin, as, audit, problems } = await startService();
    const value = `test-${randomBytes(16).toString("hex")}`;
    const seen: unknown[] = [];
    await admin.createServer(as.admin, { slug: "github", url: "https://example.com" });
    seen.push(await admin.setSecret(as.admin, "github", { name: "TOKEN", value }));
    seen.push(
      await admin
        .setSecret(as.admin, "github", { name: "PAIR", value, rule: { kind: "basic" } })
        .catch((error: unknown) => error),
    );
    seen.push(
      await admin
        .setSecret(as.admin, "github", { name: "TOKEN", value }, { ifRevision: 99 })
        .catch((error: unknown) => error),
    );
    seen.push(await admin.setSecret(as.admin, "unknown", { name: "TOKEN", value }).catch((error: unknown) => error));
    seen.push(await admin.setSecret(as.member, "github", { name: "TOKEN", value }).catch((error: unknown) => error));
    seen.push(await admin.setSecret(as.admin, "github", { name: value, value: "x" }).catch((error: unknown) => error));
    seen.push(await admin.listSecrets(as.admin, "github"), await admin.getServer(as.admin, "github"));
    seen.push(
      await admin.census(as.operator),
      await admin.checkRecords(admin.localOperator()),
      admin,
      audit.kept,
      problems,
    );
    const shown = inspect(seen, { depth: 12, showHidden: true, maxStringLength: null });
    // The name of the last secret was the value itself, which a caller could have sent by mistake.
    expect(shown).not.toContain(value);
    expect(shown).toContain("TOKEN");
  });
});
