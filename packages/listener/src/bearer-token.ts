const bearer = /^Bearer ([\x21-\x7e]{1,256})$/i;

/** Returns the bearer token in a header `Authorization`; `undefined` if the header is missing or has no bearer token. */
export function bearerToken(authorization: string | undefined): string | undefined {
  return bearer.exec(authorization ?? "")?.[1];
}
