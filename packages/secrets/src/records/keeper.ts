import { z } from "zod";
import { idField, timeField } from "../fields.ts";

/** The largest number of admins of a workspace, or of operators, that a caller may create. */
export const maxKeepers = 100;
/** The largest number with those that replace others during an overlap. */
export const maxRotatedKeepers = 150;
/** The largest number with those that are recovered on the machine, for which rotations leave room. */
export const maxKeptKeepers = 200;

/** The schema of a {@link Keeper}. */
export const keeperField = z.strictObject({ id: idField, expires: timeField.optional() });

/** A token that can manage a workspace (an admin) or the installation (an operator), and when the token expires. */
export type Keeper = z.infer<typeof keeperField>;
