/** DICOM values as people read them. */

/** A Person Name (PS3.5 6.2.1): the first group with anything in it, "Family, Given Middle". */
export function personName(value: string): string {
  const group = value.split("=").find((part) => part.replaceAll("^", "").trim() !== "") ?? "";
  const [family = "", given = "", middle = "", prefix = "", suffix = ""] = group.split("^").map((part) => part.trim());
  const first = [prefix, given, middle, suffix].filter((part) => part !== "").join(" ");
  return [family, first].filter((part) => part !== "").join(", ");
}

/** A DA value (20240131) as 2024-01-31; anything else as it is. */
export function date(value: string): string {
  const parts = /^(\d{4})\.?(\d{2})\.?(\d{2})$/.exec(value);
  return parts === null ? value : `${parts[1]}-${parts[2]}-${parts[3]}`;
}

export function count(number: number, singular: string, plural = `${singular}s`): string {
  return `${number} ${number === 1 ? singular : plural}`;
}

const TRANSFER_SYNTAXES: Record<string, string> = {
  "1.2.840.10008.1.2": "Implicit VR LE",
  "1.2.840.10008.1.2.1": "Explicit VR LE",
  "1.2.840.10008.1.2.1.98": "Encapsulated uncompressed",
  "1.2.840.10008.1.2.1.99": "Deflated",
  "1.2.840.10008.1.2.2": "Explicit VR BE",
  "1.2.840.10008.1.2.5": "RLE",
  "1.2.840.10008.1.2.8.1": "Deflated frame",
  "1.2.840.10008.1.2.4.50": "JPEG baseline",
  "1.2.840.10008.1.2.4.51": "JPEG extended",
  "1.2.840.10008.1.2.4.57": "JPEG lossless",
  "1.2.840.10008.1.2.4.70": "JPEG lossless",
  "1.2.840.10008.1.2.4.80": "JPEG-LS lossless",
  "1.2.840.10008.1.2.4.81": "JPEG-LS near-lossless",
  "1.2.840.10008.1.2.4.90": "JPEG 2000 lossless",
  "1.2.840.10008.1.2.4.91": "JPEG 2000",
  "1.2.840.10008.1.2.4.92": "JPEG 2000 multi-component lossless",
  "1.2.840.10008.1.2.4.93": "JPEG 2000 multi-component",
  "1.2.840.10008.1.2.4.110": "JPEG XL lossless",
  "1.2.840.10008.1.2.4.111": "JPEG XL recompression",
  "1.2.840.10008.1.2.4.112": "JPEG XL",
  "1.2.840.10008.1.2.4.201": "HTJ2K lossless",
  "1.2.840.10008.1.2.4.202": "HTJ2K lossless RPCL",
  "1.2.840.10008.1.2.4.203": "HTJ2K",
};

export function transferSyntax(uid: string): string {
  return TRANSFER_SYNTAXES[uid] ?? uid;
}
