// Numbers that describe a model as a whole: parameters, and those that one token meets.
import type { Parameters } from '../plan/params.ts';
import type { ModelConfig } from './config.ts';
import type { DiT } from './dit.ts';

/** Trainable parameters, the experts' counted with the share that a token meets on average. */
export function activeParameters(parameters: Parameters, config: ModelConfig): number {
  const share = config.expert_capacity / config.num_experts;
  return parameters.list.reduce((sum, { tags, count }) => {
    if (tags.frozen) return sum;
    return sum + (tags.expert ? share * count : count);
  }, 0);
}

/** Names of the mixture-of-experts modules, in the order of the model. */
export function expertModules(m: DiT): string[] {
  return [...m.mixer, ...m.blocks].filter((b) => b.mlp.kind === 'experts').map((b) => `${b.name}.mlp`);
}
