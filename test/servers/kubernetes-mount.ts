import { randomBytes } from "node:crypto";
import { mkdir, readdir, rename, rm, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** Updates a mount as the kubelet of Kubernetes does: writes a new directory, and points one link to the new directory. */
export async function publish(mount: string, files: Readonly<Record<string, string>>): Promise<void> {
  const data = `..${randomBytes(6).toString("hex")}`;
  await mkdir(join(mount, data), { recursive: true });
  for (const [name, text] of Object.entries(files)) await writeFile(join(mount, data, name), text);
  const before = await readdir(mount);
  await symlink(data, join(mount, "..data_tmp"));
  await rename(join(mount, "..data_tmp"), join(mount, "..data"));
  for (const name of Object.keys(files)) {
    if (!before.includes(name)) await symlink(join("..data", name), join(mount, name));
  }
  for (const name of before) {
    if (!name.startsWith("..") && !(name in files)) await rm(join(mount, name));
    if (name.startsWith("..") && name !== "..data" && name !== data) await rm(join(mount, name), { recursive: true });
  }
}
