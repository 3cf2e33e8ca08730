// The op table as a whole: every row has its columns, its fields are those of the kernel's struct in cuda/,
// and some test of values or gradients reaches it.
import { describe, expect, test } from 'bun:test';
import { readdirSync, readFileSync } from 'node:fs';
import { opTable, pointerKinds } from '../../../src/plan/op.ts';

const ROOT = `${import.meta.dir}/../../..`;
const OPS = `${ROOT}/src/plan/ops`;
const read = (file: string) => readFileSync(file, 'utf8');

for (const file of readdirSync(OPS)) await import(`${OPS}/${file}`);
const table = opTable();

/**
 * Kernel name to its slots in order, as `kind name` or `kind *name`, from the structs of all sources in
 * cuda/.
 */
function kernelFields(): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const file of readdirSync(`${ROOT}/cuda`).filter((name) => /\.(cu|cpp|h)$/.test(name))) {
    const text = read(`${ROOT}/cuda/${file}`).replace(/\/\/.*$/gm, '');
    for (const [, name, body] of text.matchAll(/^struct (\w+) \{\n([\s\S]*?)^(?: {2}BODY|\};)/gm)) {
      found.set(name!, fieldsOf(body!));
    }
  }
  return found;
}

/** `const act *x, *w; long C;` to ['act *x', 'act *w', 'int C']. */
function fieldsOf(body: string): string[] {
  return [...body.matchAll(/^ {2}(?:const )?(act|real|i32|long|double)\b([^;()]*);/gm)].flatMap(
    ([, type, names]) =>
      names!.split(',').map((entry) => {
        const name = entry.trim();
        if (name.startsWith('*')) return `${type} *${name.slice(1)}`;
        return `${type === 'long' ? 'int' : 'real'} ${name}`;
      }),
  );
}

const split = (names: string | undefined, kind: string) =>
  (names ?? '').split(' ').flatMap((name) => (name ? [`${kind} ${name}`] : []));

describe('every row', () => {
  const structs = kernelFields();
  test('the sources name as many structs as the table has rows, at least', () => {
    expect(table.length).toBeGreaterThan(50);
    expect(structs.size).toBeGreaterThanOrEqual(table.length);
  });

  for (const op of table) {
    test(op.name, () => {
      expect(op.name).toMatch(/^[a-z][a-z0-9_]*$/);
      expect(op.formula.length).toBeGreaterThan(5);
      expect(op.outputs.length).toBeGreaterThan(0);
      expect(op.writes).toHaveLength(op.outputs.length);
      for (const operand of [...op.inputs, ...op.outputs]) expect(operand).toMatch(/^[A-Za-z]\w*\??$/);
      for (const [out, input] of op.inPlace ?? []) {
        expect(op.outputs[out], 'output of inPlace').toBeDefined();
        expect(op.inputs[input], 'input of inPlace').toBeDefined();
      }
      expect(op.tolerance.nmse).toBeGreaterThanOrEqual(0);
      expect(op.tolerance.nmse).toBeLessThan(1e-6);
      expect(op.tolerance.why.length).toBeGreaterThan(3);
      expect(['function', 'string']).toContain(typeof op.backward);
      if (typeof op.backward === 'string') expect(op.backward.length).toBeGreaterThan(5);

      const { ints, reals } = op.fields;
      const kinds = pointerKinds(op).map(({ name, kind }) => `${kind === 'any' ? 'act' : kind} *${name}`);
      const fields = [...kinds, ...split(ints, 'int'), ...split(reals, 'real')];
      expect(structs.get(op.name === 'gemm' ? 'Gemm' : op.name)).toEqual(fields);
    });
  }
});

describe('tests of values or gradients', () => {
  /** Top-level declarations of src/plan/ops by name, with their text. */
  const declarations = new Map<string, string>();
  for (const file of readdirSync(OPS)) {
    const parts = read(`${OPS}/${file}`).split(/^(?=(?:export )?(?:const|function) \w)/m);
    for (const part of parts) {
      const name = /^(?:export )?(?:const|function) (\w+)/.exec(part)?.[1];
      if (name) declarations.set(name, part);
    }
  }

  /** Declarations that are reached from what the tests of ops import. */
  function reached(): Set<string> {
    const tests = readdirSync(`${ROOT}/test/cpu`, { recursive: true, encoding: 'utf8' })
      .filter((file) => file.endsWith('.test.ts'))
      .map((file) => read(`${ROOT}/test/cpu/${file}`));
    const imports = tests.flatMap((text) =>
      [...text.matchAll(/^import \{([^}]*)\} from '[./]*\/src\/plan\/ops\/\S+';/gm)].flatMap(([, names]) =>
        names!.split(',').map((name) => name.trim().replace(/^type /, '')),
      ),
    );
    const seen = new Set<string>();
    const todo = imports.filter((name) => declarations.has(name));
    for (let name = todo.pop(); name !== undefined; name = todo.pop()) {
      if (seen.has(name)) continue;
      seen.add(name);
      const words = new Set(declarations.get(name)!.match(/\w+/g));
      todo.push(...[...declarations.keys()].filter((other) => words.has(other)));
    }
    return seen;
  }

  test('reach every op of the table', () => {
    const text = [...reached()].map((name) => declarations.get(name)!).join('\n');
    // Rows of a family are made by a function that is given the family's name.
    const names = (op: string) => [op, op.replace(/_(fwd|bwd)$/, '')].map((name) => `'${name}'`);
    const missing = table.filter(({ name }) => !names(name).some((quoted) => text.includes(quoted)));
    expect(missing.map(({ name }) => name)).toEqual([]);
  });
});
