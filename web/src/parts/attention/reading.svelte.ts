// What the reader looks at in one opened attention: a head, the token that reads, the token it reads from. In the
// cross-attention of a decoder the tokens read are those of another text: what the encoder made of it.

import type { Piece, Tensor } from '../../cutawayfile'
import { mostBins, spanAround, strongest, type Span } from '../../heads'
import { isMasked, type Cell, type Sheet } from '../../paint/matrix'
import { quoted } from '../../pieces'
import { row } from '../../recording'
import type { Stage } from '../../stage'

export type Vector = 'q' | 'q_rot' | 'k' | 'k_rot' | 'v' | 'z'
export type Shown = 'scores' | 'masked' | 'pattern'

export class Reading {
  /** Not one head, but all of them together. */
  over = $state<'mean' | 'max' | null>(null)
  /** What the cells of the square hold. */
  shown = $state<Shown>('pattern')
  /** Readers are the columns of the square, as in the videos, instead of its rows. */
  turned = $state(false)
  /** The cell the pointer or the keyboard is on. */
  lit = $state.raw<Cell | null>(null)
  /** How many tokens the large square has room for. */
  size = $state(30)
  private pinned = $state<number | null>(null)
  /** The corner of the part shown large, for the token it was set for. */
  private corner = $state.raw<(Cell & { chosen: number }) | null>(null)

  constructor(
    private readonly stage: Stage,
    private readonly number: () => number,
    readonly kind: 'attn' | 'cross' = 'attn',
  ) {
    if (kind === 'cross') this.over = 'mean'
  }

  readonly layer = $derived.by(() => this.number())
  readonly run = $derived.by(() => this.stage.run!)
  /** The run whose tokens are read. */
  readonly readRun = $derived.by(() => (this.kind === 'cross' ? this.run.read! : this.run))
  readonly place = $derived.by(() => `${this.run.block(this.layer)}.${this.kind}`)
  readonly attn = $derived.by(() => this.run.blocks[this.layer][this.kind]!)
  readonly length = $derived(this.run.length)
  /** How many tokens are read. */
  readonly reach = $derived(this.readRun.length)
  /** Too long for one square: seen whole in bins, and cell by cell a part at a time. */
  readonly long = $derived(Math.max(this.length, this.reach) > mostBins)
  readonly head = $derived.by(() => this.stage.view.head(this.layer, this.kind))
  /** The key-value head that serves this head. */
  readonly kv = $derived(Math.floor(this.head / (this.attn.heads / this.attn.kv_heads)))
  readonly chosen = $derived.by(() => this.stage.view.chosen)

  /** (T): what the chosen token reads. */
  readonly reads = $derived.by(() => this.rowOf(this.chosen))
  /** The token it reads from: the one that was pointed out, otherwise the one it reads most. */
  readonly source = $derived(this.pinned !== null && this.pinned < this.reach ? this.pinned : this.reads ? strongest(this.reads) : 0)

  /** A token that reads, where there is little room: a patch by its row and column. */
  text = (token: number) => brief(this.run.pieces[token])
  /** One that is read. */
  textRead = (token: number) => brief(this.readRun.pieces[token])
  private readonly repeated = $derived(counted(this.run.pieces))
  private readonly repeatedRead = $derived(counted(this.readRun.pieces))
  /** A token that reads, in a sentence; with its position where its text stands more than once. */
  named = (token: number) => told(this.run.pieces[token], token, this.repeated)
  namedRead = (token: number) => told(this.readRun.pieces[token], token, this.repeatedRead)
  masked = (to: number, from: number) => isMasked(to, from, this.attn.causal, this.attn.window)

  /** The record's name of a tensor over (T, T), and what stands before its two indices there. */
  private names(what: 'pattern' | 'scores'): { name: string; first: string } {
    return this.over ? { name: `${this.place}.${this.over}`, first: '' } : { name: `${this.place}.${what}`, first: `${this.head},` }
  }

  cellName(what: 'pattern' | 'scores', { to, from }: Cell): string {
    const { name, first } = this.names(what)
    return `${name}[${first}${to},${from}]`
  }

  /** A row of the pattern, or of the scores; undefined on its way, null where this run has none. */
  rowOf(to: number, what: 'pattern' | 'scores' = 'pattern'): Float32Array | null | undefined {
    const { name, first } = this.names(what)
    if (this.long) return dataOf(this.run.get(name, `${first}${to}`))
    const whole = this.whole(what)
    return whole && whole.subarray(to * this.reach, (to + 1) * this.reach)
  }

  private whole(what: 'pattern' | 'scores'): Float32Array | null | undefined {
    const { name } = this.names(what)
    return dataOf(this.run.get(name, this.over ? null : this.head))
  }

  /** The numbers of a part of the square, readable cell by cell. */
  cells(what: 'pattern' | 'scores', readers: Span, reads: Span): ((to: number, from: number) => number) | null | undefined {
    if (!this.long) {
      const whole = this.whole(what)
      return whole && ((to, from) => whole[to * this.reach + from])
    }
    const { name, first } = this.names(what)
    const part = dataOf(this.run.get(name, `${first}${readers.first}:${readers.end},${reads.first}:${reads.end}`))
    const across = reads.end - reads.first
    return part && ((to, from) => part[(to - readers.first) * across + from - reads.first])
  }

  /** (T, E): a vector for every token, of this head or of the key and value it shares. */
  vectors(what: Vector): Tensor | null | undefined {
    return this.run.get(`${this.place}.${what}`, `:,${this.headOf(what)}`)
  }

  vector(what: Vector, token: number): Float32Array | null | undefined {
    const all = this.vectors(what)
    return all && row(all, token).data
  }

  headOf = (what: Vector) => (/^[kv]/.test(what) ? this.kv : this.head)
  numberName = (what: Vector, token: number) => (index: number) => `${this.place}.${what}[${token},${this.headOf(what)},${index}]`

  /** The part of the square that is shown large, `size` tokens either way. */
  readonly sheet = $derived.by((): Sheet => {
    const { turned, length, reach, corner, size } = this
    const set = corner?.chosen === this.chosen ? corner : null
    const at = (first: number, of: number): Span => spanAround(first + Math.min(size, of) / 2, size, of)
    return {
      turned,
      readers: at(set ? set.to : this.chosen + 3 - size, length),
      reads: set ? at(set.from, reach) : spanAround(this.source, size, reach),
    }
  })

  /** One number; of a part that is shown large, from what is there already. */
  numberAt(what: 'pattern' | 'scores', { to, from }: Cell): number | undefined {
    const { readers, reads } = this.sheet
    const inside = to >= readers.first && to < readers.end && from >= reads.first && from < reads.end
    return inside ? this.cells(what, readers, reads)?.(to, from) : this.rowOf(to, what)?.[from]
  }

  /** Shows the part of the square around a cell. */
  lookAt({ to, from }: Cell): void {
    this.corner = {
      to: spanAround(to, this.size, this.length).first,
      from: spanAround(from, this.size, this.reach).first,
      chosen: this.chosen,
    }
  }

  pick(head: number | 'mean' | 'max'): void {
    if (head === 'mean' || head === 'max') {
      this.over = head
      this.shown = 'pattern'
      return
    }
    this.over = null
    this.stage.view.pickHead(this.layer, head, this.kind)
  }

  /** Another token reads. */
  follow(token: number): void {
    this.pinned = null
    this.stage.view.follow(token)
  }

  /** Takes one reader and one that is read, and explains the number between them. */
  take({ to, from }: Cell, what: 'scores' | 'pattern' = this.shown === 'scores' ? 'scores' : 'pattern'): void {
    this.stage.view.follow(to)
    this.pinned = from
    if (this.over === null) this.explain(this.cellName(what, { to, from }))
  }

  /** Keeps the part of the square in place while another token is followed. */
  hold({ readers, reads }: Sheet): void {
    this.corner = { to: readers.first, from: reads.first, chosen: this.chosen }
  }

  explain(cell: string): void {
    this.stage.view.explain(cell)
  }
}

/** How often each token stands there. */
function counted(pieces: Piece[]): Map<number | string, number> {
  const counts = new Map<number | string, number>()
  for (const { id, text } of pieces) counts.set(id ?? text, (counts.get(id ?? text) ?? 0) + 1)
  return counts
}

const brief = ({ text, row, column }: Piece) => (row === undefined ? text : `${row}, ${column}`)

const told = ({ id, text }: Piece, token: number, counts: Map<number | string, number>) =>
  counts.get(id ?? text)! > 1 ? `${quoted(text)} (${token})` : quoted(text)

const dataOf = (tensor: { data: Float32Array } | null | undefined) => tensor && tensor.data
