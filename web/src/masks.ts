// A text with masks in it, and the same text once one of them is filled.

import { plainText } from './pieces'
import type { Recording } from './recording'

/** What stands for a word to be filled in, whatever the model's own word for it is. */
export const mask = '[MASK]'

/**
 * The text with the word of a token in the place of the mask that `place` is; null where the text has it not, or where
 * the token is no character (src/cutaway/inputs/text.py marks bytes ⟨E2⟩).
 */
export function filled(text: string, run: Recording, place: number, label: string): string | null {
  const own = run.pieces[place].text
  const found = [...text.matchAll(new RegExp(`${escaped(mask)}|${escaped(own)}`, 'g'))][run.masks.indexOf(place)]
  if (!found || label.includes('⟨')) return null
  const [before, after] = [text.slice(0, found.index), text.slice(found.index + found[0].length)]
  const word = plainText(label)
  if (label.startsWith('##')) return before.trimEnd() + word + after // WordPiece: it goes on with the word before
  return before + (/\s$/.test(before) || before === '' ? word.trimStart() : word) + after
}

const escaped = (text: string) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
