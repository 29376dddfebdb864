import type { ChangeInstruction, KeyringChange } from "@keyward/core";

// These texts are read by operators in the middle of a rotation. They contain ids, paths and names of variables, and
// never key material: each command makes a new key where the key is stored.

/** Describes how to change a directory of keys. */
export function changeDirectory(change: KeyringChange, path: string): ChangeInstruction {
  const [words, onDisk, inKubernetes] = directoryCommands(change, path);
  return {
    text: `${words}
On a disk: ${onDisk}
In Kubernetes, where NAME is the Secret that is mounted: ${inKubernetes}
If a controller such as External Secrets writes the Secret, make the same change where the controller reads the keys.`,
    needsRestart: false,
  };
}

type Commands = readonly [words: string, onDisk: string, inKubernetes: string];

function directoryCommands(change: KeyringChange, path: string): Commands {
  const { keyId } = change;
  const patch = "kubectl patch secret NAME --type";
  switch (change.kind) {
    case "add":
      return [
        `Add a file "${keyId}" with a new key to the directory ${path}. Keep every other file.`,
        `(umask 077; openssl rand -base64 32 > ${inFolder(path, ".new")}) && mv ${inFolder(path, ".new")} ${inFolder(path, keyId)}`,
        `printf '{"stringData":{"${keyId}":"%s"}}' "$(openssl rand -base64 32)" | ${patch} merge --patch-file /dev/stdin`,
      ];
    case "promote":
      return [
        `Write "${keyId}" into the file "primary" in the directory ${path}. Keep every other file.`,
        replacePrimary(path, keyId),
        `${patch} merge --patch '{"stringData":{"primary":"${keyId}"}}'`,
      ];
    case "remove":
      return [
        `Remove the file "${keyId}" from the directory ${path}. Before, copy the file to a safe place if backups have records under this key.`,
        `rm ${inFolder(path, keyId)}`,
        `${patch} json --patch '[{"op":"remove","path":"/data/${keyId}"}]'`,
      ];
    case "replace": {
      const primary = Buffer.from(keyId).toString("base64");
      return [
        `Write "${keyId}" into the file "primary" in the directory ${path}, and remove the file "${change.former}", both at once.`,
        `${replacePrimary(path, keyId)} && rm ${inFolder(path, change.former)}`,
        `${patch} json --patch '[{"op":"replace","path":"/data/primary","value":"${primary}"},{"op":"remove","path":"/data/${change.former}"}]'`,
      ];
    }
  }
}

function replacePrimary(path: string, keyId: string): string {
  return `printf '${keyId}' > ${inFolder(path, ".new")} && mv ${inFolder(path, ".new")} ${inFolder(path, "primary")}`;
}

/** Returns the path of a file in a folder, quoted for a POSIX shell. */
function inFolder(folder: string, file: string): string {
  return `'${`${folder.replace(/\/+$/, "")}/${file}`.replaceAll("'", "'\\''")}'`;
}

/** Describes how to change a keyring document. `place` names the file or environment variable that holds it. */
export function changeDocument(change: KeyringChange, place: string, needsRestart: boolean): ChangeInstruction {
  const changed = {
    add: () => `.add({ id: "${change.keyId}" })`,
    promote: () => `.promote("${change.keyId}")`,
    remove: () => `.disable("${change.keyId}").remove("${change.keyId}")`,
    replace: () => (change.kind === "replace" ? `.promote("${change.keyId}").disable("${change.former}")` : ""),
  }[change.kind]();
  const text = `Replace the keyring document in ${place} by the document that this expression returns, where \`document\` is the present document: exportKeyring(Keyring.parse(document)${changed})`;
  return { text: needsRestart ? `${text}\n${restart}` : text, needsRestart };
}

const restart =
  "Make the change for every process that uses these keys and for the process that runs the rotation, and restart the processes, one after another.";

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
      return `Exchange two keys: set ${name} to the text "${keyId}=…" from ${others}, and put the former value of ${name} (key "${change.former}") into ${others} in place of that text.`;
    case "remove":
      return removedFrom(others, keyId);
    case "replace":
      return `Set ${name} to the text "${keyId}=…" from ${others}. Remove that text from ${others}. Keep the former value of ${name} (key "${change.former}") in neither of the variables.`;
  }
}

function newKeyIn(others: string, keyId: string): string {
  return `Make a new key with "openssl rand -base64 32". Add the text "${keyId}=" and the new key to ${others}, after a comma if ${others} has other keys already.`;
}

function removedFrom(others: string, keyId: string): string {
  return `Remove key "${keyId}" from ${others}. If its text there has no id, it is the key that was the primary before. Unset ${others} if no key is left in it.`;
}

/**
 * Describes how to change the keys if a file holds a single key, and the environment variable `others` holds the other
 * keys. If `others` is undefined, describes how to replace the file by a directory.
 */
export function changeSingleKeyFile(
  change: KeyringChange,
  { path, others, primary }: { readonly path: string; readonly others: string | undefined; readonly primary: string },
): ChangeInstruction {
  if (others === undefined) return changeToDirectory(change, path, primary);
  const { keyId } = change;
  switch (change.kind) {
    case "add":
      return {
        text: `${newKeyIn(others, keyId)} Add the present content of the file ${path} (key "${primary}") to ${others} too, because the file will hold the new key later. Keep the file as it is.\n${restart}`,
        needsRestart: true,
      };
    case "promote":
      return {
        text: `Replace the content of the file ${path} by the text "${keyId}=…" from ${others}. Keep ${others} as it is: it must have key "${change.former}".`,
        needsRestart: false,
      };
    case "remove":
      return { text: `${removedFrom(others, keyId)}\n${restart}`, needsRestart: true };
    case "replace":
      return {
        text: `Replace the content of the file ${path} by the text "${keyId}=…" from ${others}, and remove key "${change.former}" from ${others}.\n${restart}`,
        needsRestart: true,
      };
  }
}

/** Describes how to replace a file with a single key by a directory, because a file holds only one key. */
function changeToDirectory(change: KeyringChange, path: string, primary: string): ChangeInstruction {
  const text = `${path} is a file with a single key, and the rotation needs two keys for a while. Replace the file by a directory at the same path, with a file "${primary}" that holds the present key, a file "${change.keyId}" that holds a new key (made with "openssl rand -base64 32"), and a file "primary" that holds the text "${primary}".`;
  return { text, needsRestart: false };
}
