// An import of a shared library with { type: 'file' } is its path.
declare module '*.so' {
  const path: string;
  export default path;
}
