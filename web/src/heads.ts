// The heads of a block as a reader meets them: what each does in this text, which to look at first, and a text too long
// for its square cut into bins.

/** In the order of the record's `kinds` (src/cutaway/look/heads.py). */
export const kinds = ['previous', 'first', 'self', 'same', 'induction', 'local', 'broad'] as const
type Kind = (typeof kinds)[number]

/** How far above even reading a head must be to be named for it (`label` in src/cutaway/look/heads.py). */
export const leastAbove = 0.1

/** The kind whose weight is furthest above that of a head that reads all it may evenly; broad, where none is. */
export function kindOf(scores: ArrayLike<number>, even: ArrayLike<number>): { kind: Kind; score: number } {
  const broad = kinds.indexOf('broad')
  let best = 0
  for (let k = 1; k < broad; k++) if (scores[k] - even[k] > scores[best] - even[best]) best = k
  if (scores[best] - even[best] < leastAbove) best = broad
  return { kind: kinds[best], score: scores[best] }
}

/** What a token reads most besides itself and the very first, which many heads use as a place to rest. */
export function tellingRead(row: ArrayLike<number>, reader: number): { from: number; weight: number } | null {
  let best: { from: number; weight: number } | null = null
  for (let from = 1; from < row.length; from++)
    if (from !== reader && row[from] > (best?.weight ?? 0)) best = { from, weight: row[from] }
  return best
}

export function strongest(row: ArrayLike<number>): number {
  let best = 0
  for (let i = 1; i < row.length; i++) if (row[i] > row[best]) best = i
  return best
}

export interface HeadCard {
  head: number
  kind: Kind | null
  score: number
  read: { from: number; weight: number } | null
}
export type Order = 'token' | 'kind' | 'number'

export function ranked(cards: HeadCard[], by: Order): HeadCard[] {
  const place = (card: HeadCard) => (card.kind === null ? kinds.length : kinds.indexOf(card.kind))
  const compare = {
    token: (a: HeadCard, b: HeadCard) => (b.read?.weight ?? 0) - (a.read?.weight ?? 0),
    kind: (a: HeadCard, b: HeadCard) => place(a) - place(b) || b.score - a.score,
    number: () => 0,
  }[by]
  return [...cards].sort((a, b) => compare(a, b) || a.head - b.head)
}

/** Tokens `first` up to, not including, `end`. */
export interface Span {
  first: number
  end: number
}

export const mostBins = 64

/** Where the bins of a text begin, and its end (as `bins` in src/cutaway/look/heads.py). */
export function binEdges(length: number): number[] {
  const count = Math.min(mostBins, length)
  return Array.from({ length: count + 1 }, (_, i) => Math.floor((i * length) / count))
}

/** `size` tokens of a text, with `centre` in their middle where the ends of the text allow it. */
export function spanAround(centre: number, size: number, length: number): Span {
  const count = Math.min(size, length)
  const first = Math.max(0, Math.min(length - count, Math.round(centre - count / 2)))
  return { first, end: first + count }
}

/** A piece of a long line of words: shown, or left out, with what its words weigh together. */
export interface Stretch extends Span {
  shown: boolean
  weight: number
}

/**
 * The words worth showing of a long text: around the reader and around what it reads, more than `least` of its weight; the
 * rest is left out. Nothing is left out of a text of `room` words.
 */
export function stretches(row: ArrayLike<number>, reader: number, room: number, least = 0): Stretch[] {
  const length = row.length
  const shown = new Uint8Array(length)
  if (length <= room) shown.fill(1)
  else {
    const around = (token: number, before: number, after: number) =>
      shown.fill(1, Math.max(0, token - before), Math.min(length, token + after + 1))
    around(reader, 10, 3)
    const order = Array.from({ length }, (_, i) => i).sort((a, b) => row[b] - row[a])
    for (const token of order) {
      if (row[token] <= least || shown.reduce((sum, one) => sum + one, 0) > room - 5) break
      around(token, 2, 2)
    }
  }
  const found: Stretch[] = []
  for (let i = 0; i < length; i++) {
    const last = found.at(-1)
    if (last && last.shown === (shown[i] === 1)) [last.end, last.weight] = [i + 1, last.weight + row[i]]
    else found.push({ first: i, end: i + 1, shown: shown[i] === 1, weight: row[i] })
  }
  return found
}
