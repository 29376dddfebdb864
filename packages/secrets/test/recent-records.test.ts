import { SecretsReader } from "@keyward/secrets/reader";
import { expect, it, onTestFinished, vi } from "vitest";
import { RecentRecords } from "../src/records/recent-records.ts";
import { serverKey } from "../src/records/record-keys.ts";
import { serverRecord } from "../src/records/server-record.ts";
import { ServiceStore } from "../src/store/service-store.ts";
import { startService, valuesOf } from "./service.ts";

it("the record of a server is checked again only after a change, and each change is read", async () => {
  const service = await startService();
  const { admin, as, store, keys } = service;
  await admin.createServer(as.admin, { slug: "github", url: "https://mcp.example.com/mcp" });
  const records = new ServiceStore({ store, keys });
  const reader = new SecretsReader({ store, keys });
  onTestFinished(async () => {
    await records.disconnect();
    await reader.close();
  });
  const key = serverKey(as.admin.workspace ?? "", "github");
  const first = (await records.read(serverRecord, key))?.value;
  expect((await records.read(serverRecord, key))?.value).toBe(first);
  for (const value of ["first-test-value-0123", "second-test-value-456"]) {
    await admin.setSecret(as.admin, "github", { name: "TOKEN", value });
    expect(await valuesOf({ ...service, reader }, "github")).toEqual({ TOKEN: value });
  }
  expect((await records.read(serverRecord, key))?.value).not.toEqual(first);
});

it("RecentRecords forgets the records that were read longest ago", () => {
  const recent = new RecentRecords<object>();
  const check = vi.fn((text: string) => ({ text }));
  for (let number = 0; number < 1_000; number++) recent.get(`record ${number}`, check);
  recent.get("record 0", check);
  expect(check).toHaveBeenCalledTimes(1_000);
  for (let number = 1_000; number < 3_001; number++) recent.get(`record ${number}`, check);
  recent.get("record 0", check);
  expect(check).toHaveBeenCalledTimes(3_002);
});

it("RecentRecords freezes the records that calls share", () => {
  const record = new RecentRecords<{ readonly list: string[] }>().get("", () => ({ list: [] }));
  expect(() => record.list.push("changed")).toThrow("not extensible");
});
