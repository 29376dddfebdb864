/** The form of the name of a store or an environment. */
export const storeName = /^[A-Za-z][A-Za-z0-9_-]*$/;
