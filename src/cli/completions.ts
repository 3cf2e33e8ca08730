// Command: shell completion scripts, made from the command table.

import type { Command } from './command.ts';
import { command } from './command.ts';
import { COMMANDS } from './commands.ts';
import type { Flag } from './flags.ts';
import { stdout } from './stdout.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;

export const completions = command({
  name: 'completions',
  summary: 'Prints a completion script for your shell',
  args: [{ name: 'shell', meaning: 'Shell', required: true, options: SHELLS }],
  examples: [
    ['source <(microdiff completions bash)', 'for this shell; put the line in ~/.bashrc to keep it'],
    ['microdiff completions zsh > ~/.zfunc/_microdiff', 'with ~/.zfunc in $fpath'],
    ['microdiff completions fish > ~/.config/fish/completions/microdiff.fish', 'for every fish'],
  ],
  run({ args }) {
    stdout.write(script(args[0] as (typeof SHELLS)[number], COMMANDS));
    return 0;
  },
});

/** The completion script of a shell. */
export function script(shell: (typeof SHELLS)[number], rows: readonly Command[]): string {
  return { bash: bashScript, zsh: zshScript, fish: fishScript }[shell](rows);
}

function words(row: Command): string[] {
  const flags = Object.entries(row.flags).flatMap(([name, { alias }]) => [
    `--${name}`,
    ...(alias ? [`-${alias}`] : []),
  ]);
  return [...(row.args[0]?.options ?? []), ...flags];
}

function bashScript(rows: readonly Command[]): string {
  const cases = rows.map((row) => `    ${row.name}) words='${words(row).join(' ')}' ;;`);
  const names = rows.map((row) => row.name).join(' ');
  return `# bash completion of microdiff
_microdiff() {
  local current="\${COMP_WORDS[COMP_CWORD]}" words
  case "\${COMP_WORDS[1]}" in
${cases.join('\n')}
    *) words='--help --version' ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words='${names} --help --version'
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [ "\${#COMPREPLY[@]}" -eq 0 ] && COMPREPLY=($(compgen -f -- "$current"))
}
complete -o filenames -F _microdiff microdiff
`;
}

function zshScript(rows: readonly Command[]): string {
  const names = rows.map((row) => `    ${quote(`${row.name}:${row.summary.replace(/:/g, '\\:')}`)}`);
  const cases = rows.map((row) => {
    const specs = Object.entries(row.flags).map(([name, entry]) => quote(zshFlag(name, entry)));
    const options = row.args[0]?.options;
    const rest = options ? `1:${row.args[0]!.name}:(${options.join(' ')})` : '*:file:_files';
    return `    ${row.name}) _arguments ${[...specs, quote(rest)].join(' ')} ;;`;
  });
  return `#compdef microdiff
# zsh completion of microdiff
_microdiff() {
  local -a commands
  commands=(
${names.join('\n')}
  )
  if (( CURRENT == 2 )); then
    _describe command commands
    return
  fi
  local name="$words[2]"
  shift words
  (( CURRENT-- ))
  case "$name" in
${cases.join('\n')}
  esac
}
if [ "$funcstack[1]" = "_microdiff" ]; then _microdiff "$@"; else compdef _microdiff microdiff; fi
`;
}

function zshFlag(name: string, row: Flag): string {
  const meaning = row.meaning.replace(/[[\]:]/g, '\\$&');
  if (row.kind === 'bool') return `--${name}[${meaning}]`;
  const values = row.options ? `(${row.options.join(' ')})` : '_files';
  return `${row.many ? '*' : ''}--${name}=[${meaning}]:value:${values}`;
}

function fishScript(rows: readonly Command[]): string {
  const lines = rows.flatMap((row) => {
    const here = `-n '__fish_seen_subcommand_from ${row.name}'`;
    const first = `complete -c microdiff -n __fish_use_subcommand -f -a ${row.name} -d ${quote(row.summary)}`;
    const options = row.args[0]?.options;
    const args = options ? [`complete -c microdiff ${here} -f -a '${options.join(' ')}'`] : [];
    const flags = Object.entries(row.flags).map(([name, entry]) => {
      const alias = entry.alias ? ` -s ${entry.alias}` : '';
      const value =
        entry.kind === 'bool' ? '' : entry.options ? ` -x -a '${entry.options.join(' ')}'` : ' -r';
      return `complete -c microdiff ${here} -l ${name}${alias}${value} -d ${quote(entry.meaning)}`;
    });
    return [first, ...args, ...flags];
  });
  return `# fish completion of microdiff\n${lines.join('\n')}\n`;
}

/** A word in single quotes, as all three shells read it. */
function quote(text: string): string {
  return `'${text.replace(/'/g, `'\\''`)}'`;
}
