// Pieces of text as a reader can see them.

// Characters that would draw nothing, or turn the text around them: shown by their number instead.
const unseen = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\u2028\u2029\u00a0\u3164\u115f\u1160\u2800]/u
const loneByte = /^⟨[0-9A-F]{2}⟩$/

export interface Part {
  text: string
  boxed: boolean
}

export function parts(piece: string): Part[] {
  if (loneByte.test(piece)) return [{ text: piece.slice(1, -1), boxed: true }]
  const found: Part[] = []
  for (const character of piece) {
    const boxed = unseen.test(character)
    const text = boxed ? 'U+' + character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0') : character
    const last = found.at(-1)
    if (last && !boxed && !last.boxed) last.text += text
    else found.push({ text, boxed })
  }
  return found
}
