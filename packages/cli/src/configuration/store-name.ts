/** Matches a valid name of a store or an environment: a letter, and then letters, digits, - and _. */
export const storeName = /^[A-Za-z][A-Za-z0-9_-]*$/;

/** The names of the two stores that the setting `gateway` adds to the stores of a configuration. */
export const gatewayStoreNames = ["service", "audit"] as const;
