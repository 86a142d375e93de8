/** Stands in for xmlbuilder2, which only Cornerstone's mesh reader uses and which needs Node's modules to load. */
export function create(): never {
  throw new Error("XML meshes are not part of this viewer");
}
