// Exact labels of drawn shapes: scenes are asked for in words, and colour, shape and relation are read off
// the samples.
import type { Backend } from '../backend/backend.ts';
import { captionOfScene, emptyScene, RELATIONS, type Scene, sceneAt } from '../data/shapes.ts';
import type { Recipe } from '../recipe/schema.ts';
import type { Model } from '../sample/model-file.ts';
import { sampleImages } from '../sample/sampler.ts';
import type { FidelityOptions } from './fidelity.ts';
import { readScene } from './scene-reader.ts';

/** What of a scene was drawn as it was asked for. */
export interface Verdict {
  /** Of every shape that was asked for. */
  readonly colour: boolean;
  readonly shape: boolean;
  /** How the first stands to the second; of one shape alone, that there is no other. */
  readonly relation: boolean;
}

/** Shares of the samples, null of none; `all` of those of which everything is right. */
export interface SceneFidelity extends Readonly<Record<keyof Verdict | 'all', number | null>> {
  readonly count: number;
}

/** Draws the scenes that models are measured on, always the same ones. Runs draw by their own seeds. */
export const SCENE_SEED = 0x5ce7e;

/** Whether a recipe trains on drawn shapes. */
export function learnsShapes(recipe: Recipe): boolean {
  return recipe.data.source.some(({ name, weight }) => name === 'shapes' && weight !== 0);
}

/** Samples `count` scenes with a model and reads them. */
export async function sceneFidelity(
  backend: Backend,
  model: Model,
  { count, steps, cfg_scale, seed, batchSize, onPicture }: FidelityOptions,
): Promise<SceneFidelity> {
  const scenes = Array.from({ length: count }, (_, i) => sceneAt(SCENE_SEED, i, emptyScene()));
  const requests = scenes.map((scene, i) => ({
    ...{ prompt: captionOfScene(scene), negative_prompt: '', seed: seed + i, steps, cfg_scale },
  }));
  const pictures = await sampleImages(backend, model, requests, {
    batchSize,
    onPicture: (done) => onPicture?.(done, count),
  });
  const verdicts = pictures.map(({ pixels }, i) => {
    return judgeScene(scenes[i]!, pixels ? (readScene(pixels)?.scene ?? null) : null);
  });
  const share = (right: (verdict: Verdict) => boolean) =>
    count > 0 ? verdicts.filter(right).length / count : null;
  return {
    colour: share(({ colour }) => colour),
    shape: share(({ shape }) => shape),
    relation: share(({ relation }) => relation),
    all: share(({ colour, shape, relation }) => colour && shape && relation),
    count,
  };
}

interface Thing {
  readonly shape: number;
  readonly colour: number;
}

function thingsOf({ relation, shape, colour, shape2, colour2 }: Scene): Thing[] {
  const first = { shape, colour };
  return relation === 0 ? [first] : [first, { shape: shape2, colour: colour2 }];
}

/** A relation seen from the second shape; of `inside` there is none. */
const REVERSED: Readonly<Record<string, string>> = {
  ...{ 'left of': 'right of', 'right of': 'left of', above: 'below', below: 'above' },
};

/**
 * Compares with what was read; null: no scene. Shapes belong together so that most is right, colours first.
 */
export function judgeScene(asked: Scene, read: Scene | null): Verdict {
  if (!read) return { colour: false, shape: false, relation: false };
  const [wanted, seen] = [thingsOf(asked), thingsOf(read)];
  const relation = RELATIONS[read.relation]!;
  const ways = [
    { things: seen, relation },
    { things: seen.toReversed(), relation: seen.length === 1 ? relation : REVERSED[relation] },
  ];
  const verdicts = ways.map(({ things, relation }) => {
    const right = (key: keyof Thing) => wanted.filter((thing, i) => thing[key] === things[i]?.[key]).length;
    const [colours, shapes] = [right('colour'), right('shape')];
    const stands = relation === RELATIONS[asked.relation];
    const verdict = {
      colour: colours === wanted.length,
      shape: shapes === wanted.length,
      relation: stands,
    };
    return { verdict, points: 8 * colours + 2 * shapes + Number(stands) };
  });
  return verdicts.reduce((a, b) => (b.points > a.points ? b : a)).verdict;
}
