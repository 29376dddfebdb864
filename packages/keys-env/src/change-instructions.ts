import { resolve } from "node:path";
import { type ChangeInstruction, type KeyringChange, KeywardError } from "@keyward/core";

// These texts are read by operators in the middle of a rotation. They contain ids, paths and names of environment
// variables, and never key material: each command makes a new key where the key is stored.

/** The file in a directory of keys that holds the id of the primary key. */
export const primaryFile = "primary";

const restart =
  "Make the change for every process that uses these keys and for the process that runs the rotation, and restart the processes, one after another.";
const keepACopy = "If backups have records under this key, first copy the key to a safe place.";

/** The environment variable that holds further keys, in addition to the keys in a mounted file or directory. */
export interface OtherKeys {
  /** The name of the environment variable. */
  readonly variable: string;
  /** The ids of the keys in the environment variable. */
  readonly ids: readonly string[];
}

/** Keys in a file or a directory of files. */
interface KeysOnDisk {
  /** The path of the file or the directory. */
  readonly path: string;
  /** The id of the primary. */
  readonly primary: string;
  /** The keys beside the file or the directory; `undefined` if no environment variable holds keys. */
  readonly others: OtherKeys | undefined;
}

/**
 * Describes how to change a directory of keys. Each new file gets the owner and the mode of the file of the primary key.
 *
 * @throws KeywardError `KEY_INVALID` if the id of the new key is `primary`, because the file with this name holds the id
 * of the primary key.
 */
export function changeDirectory(change: KeyringChange, { path, primary, others }: KeysOnDisk): ChangeInstruction {
  const { keyId } = change;
  if (keyId === primaryFile) {
    throw new KeywardError("KEY_INVALID", `A key in a directory cannot have the id "${primaryFile}"`, {
      keyId,
      hint: `The file "${primaryFile}" holds the id of the primary key. Choose another id for the new key.`,
    });
  }
  if (others?.ids.includes(keyId) === true && change.kind !== "add") return changeBoth(change, path, others);
  const [words, onDisk, inKubernetes] = directoryCommands(change, resolve(path), primary);
  return {
    text: `${words}
On a disk: ${onDisk}
In Kubernetes, where NAME is the Secret that is mounted: ${inKubernetes}
If a controller such as External Secrets writes the Secret, make the same change where the controller reads the keys.`,
    needsRestart: false,
  };
}

/** Describes how to change a key if the keys are in a directory, and this key is in the environment variable beside it. */
function changeBoth(change: KeyringChange, path: string, { variable }: OtherKeys): ChangeInstruction {
  const { keyId } = change;
  if (change.kind === "remove") {
    const text = `${removedFrom(variable, keyId)} If the directory ${path} has a file "${keyId}" too, remove the file.`;
    return { text: `${text}\n${restart}`, needsRestart: true };
  }
  const former = change.kind === "replace" ? ` Remove the file "${change.former}", or its text in ${variable}.` : "";
  const text = `Write the key "${keyId}" from ${variable}, without the text "${keyId}=", into a file "${keyId}" in the directory ${path}. Then write "${keyId}" into the file "${primaryFile}".${former}`;
  return { text, needsRestart: false };
}

type Commands = readonly [words: string, onDisk: string, inKubernetes: string];

function directoryCommands(change: KeyringChange, path: string, primary: string): Commands {
  const { keyId } = change;
  const patch = "kubectl patch secret NAME --type";
  const madeNew = inFolder(path, ".new");
  switch (change.kind) {
    case "add":
      return [
        `Add a file "${keyId}" with a new key to the directory ${path}. Keep every other file. If several machines have this directory, make the key once, and copy it to all of them.`,
        // The copy gives the new file the owner and the mode of a file that the application can read.
        `${copyTo(madeNew, inFolder(path, primary))} && openssl rand -base64 32 > ${madeNew} && mv ${madeNew} ${inFolder(path, keyId)}`,
        `printf '{"stringData":{"${keyId}":"%s"}}' "$(openssl rand -base64 32)" | ${patch} merge --patch-file /dev/stdin`,
      ];
    case "promote":
      return [
        `Write "${keyId}" into the file "${primaryFile}" in the directory ${path}. Keep every other file.`,
        replacePrimary(path, keyId),
        `${patch} merge --patch '{"stringData":{"${primaryFile}":"${keyId}"}}'`,
      ];
    case "remove":
      return [
        `Remove the file "${keyId}" from the directory ${path}. ${keepACopy}`,
        `rm ${inFolder(path, keyId)}`,
        `${patch} json --patch '[{"op":"remove","path":"/data/${keyId}"}]'`,
      ];
    case "replace": {
      const encoded = Buffer.from(keyId).toString("base64");
      return [
        `Write "${keyId}" into the file "${primaryFile}" in the directory ${path}, and remove the file "${change.former}" at the same time. ${keepACopy}`,
        `${replacePrimary(path, keyId)} && rm ${inFolder(path, change.former)}`,
        `${patch} json --patch '[{"op":"replace","path":"/data/${primaryFile}","value":"${encoded}"},{"op":"remove","path":"/data/${change.former}"}]'`,
      ];
    }
  }
}

function replacePrimary(path: string, keyId: string): string {
  const [primary, madeNew] = [inFolder(path, primaryFile), inFolder(path, ".new")];
  return `${copyTo(madeNew, primary)} && printf %s '${keyId}' > ${madeNew} && mv ${madeNew} ${primary}`;
}

/**
 * Returns a command that makes a file with the owner and the mode of another file. The owner of the file can write to it.
 */
function copyTo(madeNew: string, from: string): string {
  return `rm -f ${madeNew} && cp -p ${from} ${madeNew} && chmod u+w ${madeNew}`;
}

/** Returns the path of a file in a folder, quoted for a POSIX shell. */
function inFolder(folder: string, file: string): string {
  return `'${`${folder.replace(/\/+$/, "")}/${file}`.replaceAll("'", "'\\''")}'`;
}

/** Describes how to change a keyring document. `place` names the file or environment variable that holds it. */
export function changeDocument(change: KeyringChange, place: string, needsRestart: boolean): ChangeInstruction {
  const text = `Replace the keyring document in ${place} by the document that this expression returns, where \`document\` is the present document. Make the new document once, and copy it to every machine: exportKeyring(Keyring.parse(document)${changedDocument(change)})`;
  return { text: needsRestart ? `${text}\n${restart}` : text, needsRestart };
}

function changedDocument(change: KeyringChange): string {
  const { keyId } = change;
  switch (change.kind) {
    case "add":
      return `.add({ id: "${keyId}" })`;
    case "promote":
      return `.promote("${keyId}")`;
    case "remove":
      return `.disable("${keyId}").remove("${keyId}")`;
    case "replace":
      return `.promote("${keyId}").disable("${change.former}")`;
  }
}

/** Describes how to change the environment variables `name` and `others`, which hold single keys. */
export function changeVariables(change: KeyringChange, name: string, others: string): ChangeInstruction {
  return { text: `${variablesToSet(change, name, others)}\n${restart}`, needsRestart: true };
}

function variablesToSet(change: KeyringChange, name: string, others: string): string {
  const { keyId } = change;
  switch (change.kind) {
    case "add":
      return `${newKeyIn(others, keyId)} Keep ${name} as it is.`;
    case "promote":
      return `Exchange two keys: set ${name} to the text "${keyId}=…" from ${others}, with the id, and put the former value of ${name} (key "${change.former}") into ${others} instead of that text.`;
    case "remove":
      return removedFrom(others, keyId);
    case "replace":
      return `Set ${name} to the text "${keyId}=…" from ${others}, with the id. Remove that text from ${others}. Keep the former value of ${name} (key "${change.former}") in neither of the variables. ${keepACopy}`;
  }
}

function newKeyIn(others: string, keyId: string): string {
  return `Make one new key with "openssl rand -hex 32". Add the text "${keyId}=hex:" and the new key to ${others}, after a comma if ${others} has other keys already. Use the same text for every process.`;
}

function removedFrom(others: string, keyId: string): string {
  return `Remove key "${keyId}" from ${others}. A key without an id in ${others} is the key that was the primary before. Unset ${others} if no key is left in it. ${keepACopy}`;
}

/**
 * Describes how to change the keys if a file holds a single key, and the environment variable `others` holds the other
 * keys. If `others` is undefined, describes how to replace the file by a directory.
 */
export function changeSingleKeyFile(change: KeyringChange, { path, primary, others }: KeysOnDisk): ChangeInstruction {
  if (others === undefined) return changeToDirectory(change, path, primary);
  const { keyId } = change;
  const { variable, ids } = others;
  switch (change.kind) {
    case "add":
      return {
        text: `${newKeyIn(variable, keyId)} ${addPresentKey(path, primary, variable)} Keep the file as it is.\n${restart}`,
        needsRestart: true,
      };
    case "promote":
      if (!ids.includes(change.former)) {
        return { text: `${addPresentKey(path, change.former, variable)}\n${restart}`, needsRestart: true };
      }
      return {
        text: `Replace the content of the file ${path} by the text "${keyId}=…" from ${variable}, with the id. Keep ${variable} as it is.`,
        needsRestart: false,
      };
    case "remove":
      return { text: `${removedFrom(variable, keyId)}\n${restart}`, needsRestart: true };
    case "replace":
      return {
        text: `Replace the content of the file ${path} by the text "${keyId}=…" from ${variable}, with the id, and remove key "${change.former}" from ${variable}. ${keepACopy}\n${restart}`,
        needsRestart: true,
      };
  }
}

function addPresentKey(path: string, primary: string, variable: string): string {
  return `Add the present content of the file ${path} (key "${primary}") to ${variable} too, because the file holds the new key later.`;
}

/** Describes how to replace a file with a single key by a directory, because a file holds only one key. */
function changeToDirectory(change: KeyringChange, path: string, primary: string): ChangeInstruction {
  const text = `${path} is a file with a single key, and the rotation needs two keys for a while. Replace the file by a directory at the same path, with a file "${primary}" that holds the present key (without the text "${primary}=", if the file has it), a file "${change.keyId}" that holds a new key (made once with "openssl rand -base64 32"), and a file "${primaryFile}" that holds the text "${primary}". Give the files the owner and the mode of the present file.`;
  return { text, needsRestart: false };
}
