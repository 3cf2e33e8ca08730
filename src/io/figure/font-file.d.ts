// An import of a font file with { type: 'file' } is its path; an import of a package's LICENSE with
// { type: 'text' } is its text.
declare module '*.woff2' {
  const path: string;
  export default path;
}

declare module '@fontsource/inter/LICENSE' {
  const text: string;
  export default text;
}
