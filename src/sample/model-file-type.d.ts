// An import of a model with { type: 'file' } is the path of the file: in the tree, or inside the executable.
declare module '*.safetensors' {
  const path: string;
  export default path;
}
