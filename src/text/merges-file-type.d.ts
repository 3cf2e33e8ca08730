// An import of a vocabulary with { type: 'file' } is the path of the file: in the tree, or in the executable.
declare module '*.gz' {
  const path: string;
  export default path;
}
