// What a loss on held-out images is taken on: images and captions by number, wherever they come from.

/** Images and captions as the network takes them. */
export interface LossData {
  readonly name: string;
  readonly count: number;
  /** Numbers of an image and of a caption. */
  readonly imageSize: number;
  readonly captionSize: number;
  /**
   * Captions are rows of words for the small encoder [S, 2], states of a text tower [S, D], or token ids for
   * one [S, 2], each with -1.
   */
  readonly captions: 'words' | 'captions' | 'tokens';
  /** Caption length S. */
  readonly length: number;
  image(item: number, out: Float32Array, offset: number): void;
  caption(item: number, out: Float32Array | Int32Array, offset: number): void;
}
