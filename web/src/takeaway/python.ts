// The Python that makes what is on screen.

import type { Run } from '../run'

// Characters that draw nothing or turn the text around them: an editor would hide them.
const unseen = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\p{Zl}\p{Zp}\u00a0]/gu

/** A text as a Python literal, every character in sight. */
export function literal(text: string): string {
  const escaped = text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n').replaceAll('\t', '\\t')
  return `"${escaped.replace(unseen, (character) => {
    const code = character.codePointAt(0)!.toString(16)
    return code.length > 4 ? `\\U${code.padStart(8, '0')}` : `\\u${code.padStart(4, '0')}`
  })}"`
}

/** `typed`: the run reads the text as it stands, with nothing drawn or cut; else its tokens are what is certain. */
export function runIn(run: Run, typed: boolean): string {
  const { model, text, edits, settings } = run.header
  const ids = (tokens: number[]) => `[${tokens.join(', ')}]`
  const read = run.read ?? run
  const certain = (typed || run.read !== null) && text !== null && run.notes.length === 0
  const written = run.read ? run.tokens.slice(settings?.begun ?? 1) : []
  const input = (certain ? literal(text) : `tokens=${ids(read.tokens)}`) + (written.length ? `, target=${ids(written)}` : '')
  const edited = edits?.length ? `# this run was edited at ${edits.join(', ')}; the one below is not\n` : ''
  return `import cutaway\n\n${edited}model = cutaway.load(${literal(model.name)})\nrun = model.run(${input})\n`
}

export const tensorIn = (name: string): string => `run[${literal(name)}]\n`
