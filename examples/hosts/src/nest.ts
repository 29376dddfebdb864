// Nest: a cache of responses that is encrypted. Decorators need a build, such as `nest build`, or Vitest in the tests.
import "reflect-metadata";
import type { KeywardKeyv } from "@keyward/core";
import { CacheInterceptor, CacheModule } from "@nestjs/cache-manager";
import { Controller, Get, Inject, Module, Param, type Type, UseInterceptors } from "@nestjs/common";
import { Keyv } from "keyv"; // version 5, as in cache-manager

/** Looks up the user with this name. */
export type LookUp = (name: string) => Promise<object>;

const lookUpToken = Symbol("lookUp");

@Controller("users")
@UseInterceptors(CacheInterceptor)
class UsersController {
  readonly #lookUp: LookUp;

  constructor(@Inject(lookUpToken) lookUp: LookUp) {
    this.#lookUp = lookUp;
  }

  @Get(":name")
  user(@Param("name") name: string): Promise<object> {
    return this.#lookUp(name);
  }
}

/**
 * A module that caches its responses in a Keyv that `createKeyv` made.
 *
 * @param report is called with each error. If a response cannot be decrypted, CacheInterceptor answers as for a missing
 * response, and logs that Keyward refuses to overwrite it.
 */
export function usersModule(responses: KeywardKeyv, lookUp: LookUp, report: (error: unknown) => void): Type {
  const keyv = new Keyv({ store: responses, useKeyPrefix: false, throwOnErrors: true });
  keyv.on("error", report);

  @Module({
    imports: [CacheModule.register({ stores: keyv, ttl: 10 * 60_000 })],
    controllers: [UsersController],
    providers: [{ provide: lookUpToken, useValue: lookUp }],
  })
  class UsersModule {}
  return UsersModule;
}
