const bearer = /^Bearer ([\x21-\x7e]{1,256})$/i;

/** Returns the token in a header `Authorization`; `undefined` for a header without one. */
export function bearerToken(authorization: string | undefined): string | undefined {
  return bearer.exec(authorization ?? "")?.[1];
}
