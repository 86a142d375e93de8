// Stands in for xmlbuilder2, which only Cornerstone's mesh reader uses and which needs Node's modules to load.
export function create() {
  throw new Error("XML meshes are not read here");
}
