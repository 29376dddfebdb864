/** Matches a valid name of a store or an environment: a letter, and then letters, digits, - and _. */
export const storeName = /^[A-Za-z][A-Za-z0-9_-]*$/;
