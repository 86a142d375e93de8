/** The open study, series and slice in the address's fragment, so that a reload and a link bring them back. */

export interface Address {
  study: string | null;
  series: string | null;
  /** From 1, as it is shown. */
  slice: number;
}

const UID = /^[0-9.]{1,64}$/;

export function readAddress(): Address {
  const parts = new Map<string, string>();
  const words = location.hash.replace(/^#\/?/, "").split("/");
  for (let i = 0; i + 1 < words.length; i += 2) parts.set(words[i] as string, words[i + 1] as string);
  const uid = (name: string): string | null => {
    const value = parts.get(name) ?? "";
    return UID.test(value) ? value : null;
  };
  const slice = Number(parts.get("slice") ?? "1");
  return { study: uid("study"), series: uid("series"), slice: Number.isInteger(slice) && slice > 0 ? slice : 1 };
}

/** Replaces the entry in the history: scrolling must not fill it. */
export function writeAddress({ study, series, slice }: Address): void {
  const parts = [
    ...(study === null ? [] : [`study/${study}`]),
    ...(series === null ? [] : [`series/${series}`, `slice/${slice}`]),
  ];
  const hash = parts.length === 0 ? "#/" : `#/${parts.join("/")}`;
  if (location.hash !== hash) history.replaceState(null, "", hash);
}
