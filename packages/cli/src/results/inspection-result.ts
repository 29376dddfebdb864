import type { KeywardErrorCode, RecordInspection } from "@keyward/core";

/** The parts of a stored record that can be read without a key, as `--json` prints them. Contains no part of the value. */
export type InspectionResult =
  | {
      readonly kind: "envelope";
      readonly version: number;
      readonly form: "text" | "binary";
      readonly keyId: string;
      readonly sizeBytes: number;
    }
  | {
      readonly kind: "broken";
      readonly code: KeywardErrorCode;
      readonly message: string;
      readonly hint: string;
      readonly keyId: string | null;
      readonly sizeBytes: number;
    }
  | { readonly kind: "foreign"; readonly shape: string; readonly sizeBytes: number | null };

/** Returns what `--json` prints for the inspection of a stored record. An inspection needs no key. */
export function inspectionResult(shown: RecordInspection): InspectionResult {
  switch (shown.kind) {
    case "envelope": {
      const { kind, version, form, keyId, bytes } = shown;
      return { kind, version, form, keyId, sizeBytes: bytes };
    }
    case "broken": {
      const { kind, code, problem, hint, keyId = null, bytes } = shown;
      return { kind, code, message: problem, hint, keyId, sizeBytes: bytes };
    }
    case "foreign":
      return { kind: shown.kind, shape: shown.shape, sizeBytes: shown.bytes ?? null };
  }
}
