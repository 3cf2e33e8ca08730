// An import of GPU code, compiled or as text, with { type: 'file' } is its path.
declare module '*.fatbin' {
  const path: string;
  export default path;
}
declare module '*.cu' {
  const path: string;
  export default path;
}
