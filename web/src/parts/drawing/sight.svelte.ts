// The part of a text that is in sight: how far back from its end, and how thin its rows.

import { tokensOf, rowOf, type Rows } from '../../paint/weave'

/** The room there is for rows: how many fit at their usual height, and that height. */
export interface Room {
  count: number
  height: number
}

const thinnest = 2.2
const mostBins = 64

/** Where the bins of a text begin, and its end; as `coarse` of src/cutaway/look/heads.py cuts it. */
export function binEdges(length: number): number[] {
  const count = Math.min(mostBins, length)
  return Array.from({ length: count + 1 }, (_, i) => Math.floor((i * length) / count))
}

/** Row heights from the usual one down to that at which the whole text is in sight; null: only in bins it is. */
export function heights(length: number, room: Room): (number | null)[] {
  const all = (room.count * room.height) / length
  const found: (number | null)[] = [room.height]
  for (let height = room.height * 0.7; height > Math.max(all, thinnest); height *= 0.7) found.push(height)
  if (all < room.height) found.push(all >= thinnest ? all : null)
  return found
}

/** The rows in sight, `back` of them from the end of the text, at one of `heights`. `leads`: the token that leads on. */
export function rowsOf(length: number, room: Room, height: number | null, back: number | null, leads = length - 1): Rows {
  const space = room.count * room.height
  if (height === null) {
    const edges = binEdges(length)
    const rows = { first: 0, count: edges.length - 1, height: space / (edges.length - 1), total: edges.length - 1, edges, leads }
    return { ...rows, leads: rowOf(rows, leads) }
  }
  const count = Math.min(length, space / height)
  const first = back === null ? leads - Math.floor(count / 2) : length - count - back
  return { first: Math.min(length - count, Math.max(0, first)), count, height, total: length, edges: null, leads }
}

export class Sight {
  /** Rows after those in sight; null: as many as bring the token that leads on into the middle. */
  private back = $state<number | null>(null)
  private level = $state(0)

  constructor(
    private readonly length: () => number,
    private readonly room: () => Room,
    private readonly leads: () => number,
  ) {}

  private readonly levels = $derived.by(() => heights(this.length(), this.room()))
  private readonly depth = $derived.by(() => Math.min(this.level, this.levels.length - 1))
  readonly rows = $derived.by(() => rowsOf(this.length(), this.room(), this.levels[this.depth], this.back, this.leads()))
  /** There is more text than fits. */
  readonly long = $derived(this.levels.length > 1)
  readonly canWiden = $derived(this.depth < this.levels.length - 1)
  readonly canNarrow = $derived(this.depth > 0)

  /** All of it at once, however thin that makes the rows. */
  whole(): void {
    this.level = this.levels.length - 1
  }

  /** Rows further down the text, or up; false at its ends. */
  move(by: number): boolean {
    const { first, count, total } = this.rows
    return this.to(first + by, count, total)
  }

  /** Puts this row first. */
  to(row: number, count = this.rows.count, total = this.rows.total): boolean {
    const back = Math.min(total - count, Math.max(0, total - count - row))
    const before = this.rows.total - this.rows.count - this.rows.first
    const moved = Math.abs(back - Math.min(before, total - count)) > 1e-6
    if (!this.rows.edges) this.back = back
    return moved && !this.rows.edges
  }

  /** More of the text at once (1) or less (-1), with the token `around` staying where it is. */
  zoom(by: 1 | -1, around: number): void {
    const before = this.rows
    const y = (rowOf(before, around) - before.first) / before.count
    this.level = Math.max(0, Math.min(this.levels.length - 1, this.depth + by))
    const { count, edges } = this.rows
    if (!edges) this.to(around - y * count)
  }

  /** The bins give way to the tokens of one. */
  enter(row: number): void {
    const { first, end } = tokensOf(this.rows, row)
    this.level = Math.max(0, this.levels.length - 2)
    this.to((first + end - this.rows.count) / 2)
  }

  /** Brings a token into sight. */
  reveal(token: number): void {
    const { first, count, edges } = this.rows
    if (edges) return
    if (token < first) this.to(token)
    else if (token + 1 > first + count) this.to(token + 1 - count)
  }
}
