import { EncryptedStore, Keyring } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";
import { type Command, Redis } from "ioredis";
import { afterAll, beforeAll, beforeEach, expect, it, onTestFinished, vi } from "vitest";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../../test/servers/redis.ts";
import { findValkeyServers } from "../../../test/servers/valkey.ts";

const hourMs = 3_600_000;
/** Reply of PEXPIRETIME for a key that does not expire, and for a key that does not exist. */
const [never, missing] = [-1, -2];

// The Redis of many distributions has no SET IFEQ, so the store sends it the form for older servers.
const servers = { "any server": await findRedisServers(), "a server with SET IFEQ": await findValkeyServers() };

for (const [name, found] of Object.entries(servers)) {
  describeWithRedis(found, `a replacement with an expiry on ${name}`, () => {
    let node: RedisNode;
    let client: Redis;
    let store: RedisStore;
    beforeAll(async () => {
      node = await startRedis(found);
      client = new Redis(node.url);
      store = new RedisStore(client);
    });
    afterAll(async () => {
      client.disconnect();
      await node.stop();
    });
    beforeEach(async () => {
      await client.flushall();
      await client.script("FLUSH");
    });

    const expiryOf = (key: string) => client.pexpiretime(`keyward::${key}`);

    /** Returns the name and the number of arguments of each command that replaces records. */
    function watchCommands(): [name: string, count: number][] {
      const sent: [string, number][] = [];
      const send = client.sendCommand.bind(client);
      const watch = vi.spyOn(client, "sendCommand").mockImplementation((command: Command, ...rest) => {
        const { name: word } = command;
        if (/^(?:set|eval|evalsha)$/i.test(word)) sent.push([word.toUpperCase(), command.args.length]);
        return send(command, ...rest);
      });
      onTestFinished(() => watch.mockRestore());
      return sent;
    }

    it("a replacement sets, removes or keeps the expiry of one record to the millisecond", async () => {
      const [old, far] = [Date.now() + hourMs, Date.now() + 2 * hourMs];
      await store.set("key", "0", old);
      expect(await store.replace("key", "0", "1")).toBe(true);
      expect(await expiryOf("key")).toBe(old - 1);
      expect(await store.replace("key", "0", "2", far)).toBe(false);
      expect(await expiryOf("key")).toBe(old - 1);
      expect(await store.replace("key", "1", "2", far)).toBe(true);
      expect(await expiryOf("key")).toBe(far - 1);
      expect(await store.replace("key", "2", "3", far + 0.2)).toBe(true);
      expect(await expiryOf("key")).toBe(far);
      expect(await store.replace("key", "3", "4", null)).toBe(true);
      expect(await expiryOf("key")).toBe(never);
      expect(await store.replace("key", "4", "5", Number.POSITIVE_INFINITY)).toBe(true);
      expect(await expiryOf("key")).toBe(2 ** 48 - 2);
      expect(await store.get("key")).toBe("5");
      expect(await store.replace("new", undefined, "0", far)).toBe(true);
      expect(await expiryOf("new")).toBe(far - 1);
      expect(await store.replace("new", undefined, "1", null)).toBe(false);
      expect(await expiryOf("new")).toBe(far - 1);
    });

    it.each([Number.NEGATIVE_INFINITY, -1, 0, 1, 2, Date.now() - 60_000])(
      "a replacement removes the record if the new expiry is %d",
      async (expires) => {
        const errors = async () => /errorstat_ERR:count=(\d+)/.exec(await client.info("errorstats"))?.[1];
        await store.set("key", "old", Date.now() + hourMs);
        expect(await store.replace("key", "old", "old")).toBe(true);
        const before = await errors();
        expect(await store.replace("key", "other", "new", expires)).toBe(false);
        expect(await store.get("key")).toBe("old");
        expect(await store.replace("key", "old", "new", expires)).toBe(true);
        expect(await store.has("key")).toBe(false);
        expect(await expiryOf("key")).toBe(missing);
        expect(await store.replace("key", undefined, "new", expires)).toBe(true);
        expect(await store.has("key")).toBe(false);
        expect((await store.scan()).entries).toEqual([]);
        // The removed record leaves no expiry behind.
        expect(await store.replace("key", undefined, "newer")).toBe(true);
        expect(await expiryOf("key")).toBe(never);
        // The server refuses the time 0, and the store would then treat a newer server like an older one.
        expect(await errors()).toBe(before);
      },
    );

    it("a batch of replacements sets, removes and keeps expiries with few scripts", async () => {
      const [old, far] = [Date.now() + hourMs, Date.now() + 2 * hourMs];
      const kinds = [
        { expires: undefined, expiry: old - 1 },
        { expires: null, expiry: never },
        { expires: far, expiry: far - 1 },
        { expires: 0, expiry: missing },
      ];
      const changes = Array.from({ length: 150 }, (_, index) => {
        const { expires, expiry } = kinds[index % kinds.length] ?? { expires: undefined, expiry: never };
        // The store has another value than the replacement expects.
        const isLost = index % 37 === 0;
        return { key: `key ${index}`, expected: isLost ? "other" : "old", next: `${index}`, expires, expiry, isLost };
      });
      const entries = changes.map(({ key }) => ({ key, value: "old", expires: old }));
      await store.setMany(entries);
      // From now on, the server knows the scripts, and the store knows the form that the server needs.
      await store.replaceMany(changes);
      await store.setMany(entries);
      const sent = watchCommands();
      expect(await store.replaceMany(changes)).toEqual(changes.map(({ isLost }) => !isLost));
      expect(sent).toEqual([64, 64, 22].map((records) => ["EVALSHA", 2 + 4 * records]));
      for (const { key, next, expiry, isLost } of changes) {
        expect(await expiryOf(key), key).toBe(isLost ? old - 1 : expiry);
        expect(await store.get(key), key).toBe(isLost ? "old" : expiry === missing ? undefined : next);
      }
    });

    it("a script that replaces records gets no argument for expiries if none of its replacements has an expiry", async () => {
      const keys = Array.from({ length: 64 }, (_, index) => `key ${index}`);
      await store.setMany(keys.map((key) => ({ key, value: "old" })));
      const changes = keys.map((key) => ({ key, expected: "old", next: "old" }));
      await store.replaceMany(changes);
      await store.replace("key 0", "old", "old");
      const sent = watchCommands();
      await store.replaceMany([
        ...changes,
        { key: "new", expected: undefined, next: "new", expires: Date.now() + hourMs },
      ]);
      expect(await store.replace("key 0", "old", "new")).toBe(true);
      const [many, added, one] = sent;
      expect(many).toEqual(["EVALSHA", 2 + 3 * keys.length]);
      expect(added).toEqual(["SET", 5]);
      // The digest, the number of keys, the key and both values; or SET with IFEQ and KEEPTTL.
      expect([
        ["EVALSHA", 5],
        ["SET", 5],
      ]).toContainEqual(one);
      expect(sent).toHaveLength(3);
    });

    it("several replacements of one record are applied in their order", async () => {
      const far = Date.now() + hourMs;
      await store.set("key", "0", far);
      const replaced = await store.replaceMany([
        { key: "key", expected: "0", next: "1", expires: 1 },
        { key: "other", expected: undefined, next: "0" },
        { key: "key", expected: undefined, next: "2", expires: far },
        { key: "key", expected: "2", next: "3" },
        { key: "other", expected: "0", next: "1", expires: far },
        { key: "other", expected: "1", next: "2", expires: null },
      ]);
      expect(replaced).toEqual(replaced.map(() => true));
      expect(await store.getMany(["key", "other"])).toEqual(["3", "2"]);
      expect([await expiryOf("key"), await expiryOf("other")]).toEqual([far - 1, never]);
    });

    it.each([2 * hourMs, -2 * hourMs])(
      "a replaced record expires by the server's clock, even if the clock of the process is %d ms ahead",
      async (aheadMs) => {
        const now = Date.now;
        const clock = vi.spyOn(Date, "now").mockImplementation(() => now() + aheadMs);
        onTestFinished(() => clock.mockRestore());
        const [future, past] = [now() + hourMs, now() - hourMs];
        const keys = ["alone", "first", "second"];
        await store.setMany(keys.map((key) => ({ key, value: "0" })));
        const changes = (expected: string, next: string, expires: number) =>
          ["first", "second"].map((key) => ({ key, expected, next, expires }));
        expect(await store.replace("alone", "0", "1", future)).toBe(true);
        expect(await store.replace("new", undefined, "1", future)).toBe(true);
        expect(await store.replaceMany(changes("0", "1", future))).toEqual([true, true]);
        for (const key of [...keys, "new"]) expect(await expiryOf(key)).toBe(future - 1);
        expect(await store.replace("alone", "1", "2", past)).toBe(true);
        expect(await store.replace("newer", undefined, "2", past)).toBe(true);
        expect(await store.replaceMany(changes("1", "2", past))).toEqual([true, true]);
        expect(await store.hasMany([...keys, "newer"])).toEqual([false, false, false, false]);
      },
    );

    it("a batch of replacements writes no record if one expiry is invalid", async () => {
      await store.setMany(["first", "second"].map((key) => ({ key, value: "old" })));
      const changes = [Date.now() + hourMs, Number.NaN].map((expires, index) => {
        return { key: ["first", "second"][index] ?? "", expected: "old", next: "new", expires };
      });
      await expect(store.replaceMany(changes)).rejects.toMatchObject({ code: "VALUE_INVALID" });
      expect(await store.getMany(["first", "second"])).toEqual(["old", "old"]);
    });

    it("a replacement with an expiry in the past removes the record, and the record stays removed when the server restarts", async () => {
      await store.setMany(["alone", "first", "second"].map((key) => ({ key, value: "old" })));
      expect(await store.replace("alone", "old", "new", 1)).toBe(true);
      const changes = ["first", "second"].map((key) => ({ key, expected: "old", next: "new", expires: 1 }));
      expect(await store.replaceMany(changes)).toEqual([true, true]);
      await node.kill();
      await node.restart();
      await expect.poll(() => store.has("alone").catch(() => undefined), { timeout: 10_000 }).toBe(false);
      expect((await store.scan()).entries).toEqual([]);
    });

    it("a new encrypted record does not get the expiry of an old record that has expired only by the clock of the process", async () => {
      const encrypted = new EncryptedStore(store, { keys: Keyring.generate(), reencrypt: "off" });
      const expires = Date.now() + 3_000;
      await encrypted.set("key", "old", expires);
      const ahead = vi.spyOn(Date, "now").mockReturnValue(expires + 5_000);
      onTestFinished(() => ahead.mockRestore());
      expect(await encrypted.get("key")).toBeUndefined();
      expect(await encrypted.replace?.("key", undefined, "new")).toBe(true);
      expect(await expiryOf("key")).toBe(never);
      expect(await encrypted.touch?.("key", expires + hourMs)).toBe(true);
      expect(await expiryOf("key")).toBe(expires + hourMs - 1);
      expect(await encrypted.get("key")).toBe("new");
    });
  });
}
