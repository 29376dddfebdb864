/** The form of the name of a store or an environment. */
export const storeName = /^[A-Za-z][A-Za-z0-9_-]*$/;

/** The names of the stores that a configuration with the setting `gateway` has besides `stores`. */
export const gatewayStoreNames = ["service", "audit"] as const;
