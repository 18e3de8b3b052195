// Pieces of text as a reader can see them.

// Characters that would draw nothing, or turn the text around them: shown by their number instead.
const unseen = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\u2028\u2029\u00a0\u3164\u115f\u1160\u2800]/u
// How the server writes a lone byte, ⟨E2⟩, and a character nobody could see, ⟨U+200B⟩.
const marked = /⟨([0-9A-F]{2}|U\+[0-9A-F]{4,6})⟩/u

interface Part {
  text: string
  boxed: boolean
}

export function parts(piece: string): Part[] {
  const found: Part[] = []
  piece.split(marked).forEach((text, i) => {
    if (i % 2) found.push({ text, boxed: true })
    else for (const character of text) add(found, character)
  })
  return found
}

/** The text of a token that is shown as readable (src/cutaway/inputs/text.py). */
export const plainText = (label: string) => label.replace(/^##/, '').replaceAll('␣', ' ').replaceAll('↵', '\n').replaceAll('⇥', '\t')

/** A piece inside a sentence: quoted, nothing unseen in it, and its direction kept to itself. */
export function quoted(piece: string): string {
  const text = parts(piece).map((part) => (part.boxed ? `⟨${part.text}⟩` : part.text))
  return `\u2068“${text.join('')}”\u2069`
}

function add(found: Part[], character: string): void {
  const boxed = unseen.test(character)
  const text = boxed ? 'U+' + character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0') : character
  const last = found.at(-1)
  if (last && !boxed && !last.boxed) last.text += text
  else found.push({ text, boxed })
}
