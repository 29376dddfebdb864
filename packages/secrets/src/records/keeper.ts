import { z } from "zod";
import { idField, timeField } from "../fields.ts";

/** The largest number of admins of a workspace, or of operators, that a caller may create. */
export const maxKeepers = 100;
/** The largest number of admins or operators if some replace others during the overlap of a rotation. */
export const maxRotatedKeepers = 150;
/** The largest number of admins or operators if some are recovered on the machine. Rotations leave room for them. */
export const maxKeptKeepers = 200;

/** The schema of a {@link Keeper}. */
export const keeperField = z.strictObject({ id: idField, expires: timeField.optional() });

/** A token that can manage a workspace (an admin) or the installation (an operator), and when the token expires. */
export type Keeper = z.infer<typeof keeperField>;
