// The type of `import path from '....pack' with { type: 'file' }`: where the embedded bytes can be opened.
declare module '*.pack' {
  const path: string;
  export default path;
}
