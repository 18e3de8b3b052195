// A recorded run as its file has it: what the drawing is painted from. run.ts adds what is asked of a server.

import { isTwoStacks, parse, sideOf, type BlockSpec, type Piece, type RecordFile, type RecordHeader, type Side, type Spec, type Tensor } from './cutawayfile'
import type { At } from './server'
import type { Stretch } from './slices.svelte'

/** Of a long text rows come this many at a time. */
export const chunk = 32
/** How many of its last rows come along with the run itself, as the answer's size allows. */
export const tails = [64, 1]

/**
 * What a model does: continue a text, fill what is masked in one, tell its class, or that of a picture; write a text
 * after another, or what is said in a sound (model/spec.py).
 */
export type Task = 'continue' | 'fill' | 'classify' | 'see' | 'rewrite' | 'transcribe'

/** A picture or a sound is given instead of a text. */
export const readsText = (task: Task): boolean => task !== 'see' && task !== 'transcribe'
/** An encoder reads what is given, and the decoder behind it writes. */
export const writesAfter = (task: Task): task is 'rewrite' | 'transcribe' => task === 'rewrite' || task === 'transcribe'

export class Recording {
  readonly header: RecordHeader
  /** The stem and the stack this is drawn of; the head is the model's. */
  readonly spec: Spec
  readonly task: Task
  /** Its logits are of classes, of the whole text or picture; else of tokens, at every token. */
  readonly classes: boolean
  readonly pieces: Piece[]
  readonly blocks: BlockSpec[]
  readonly length: number
  readonly tokens: number[]
  readonly file: RecordFile
  /** What leaves the stream in a block and joins it again, one after the other. */
  readonly branches: readonly ('attention' | 'cross' | 'mlp')[]

  readonly side: Side

  /** `side`: which of two stacks this is drawn of; the one that writes, unless told otherwise. */
  constructor(from: ArrayBuffer | RecordFile, side?: Side) {
    this.file = from instanceof ArrayBuffer ? parse(from) : from
    this.header = this.file.header
    this.side = side ?? (isTwoStacks(this.header.spec) ? 'decoder.' : '')
    const { spec, tokens, pieces } = sideOf(this.header, this.side)
    ;[this.spec, this.tokens] = [spec, tokens]
    this.length = tokens.length || pieces.length
    this.blocks = spec.stack.blocks
    this.branches = this.blocks[0].cross ? ['attention', 'cross', 'mlp'] : ['attention', 'mlp']
    this.classes = Boolean(spec.head?.pool)
    if (isTwoStacks(this.header.spec)) this.task = this.header.spec.source.bins ? 'transcribe' : 'rewrite'
    else if (this.classes) this.task = spec.stem.patch ? 'see' : 'classify'
    else this.task = this.blocks[0].attn.causal ? 'continue' : 'fill'
    this.pieces = pieces.length ? pieces : tokens.map((id) => ({ id, text: `#${id}` }))
  }

  /** What stands before the record's names of a block's parts, such as attn.pattern. */
  block(layer: number): string {
    return `${this.side}blocks.${layer}`
  }

  /** The weights of the stem or the stack, as the record names them. */
  weights(of: 'stem' | 'stack'): string {
    const part = this.side === '' ? of : { 'encoder.': { stem: 'source', stack: 'encoder' }, 'decoder.': { stem: 'target', stack: 'decoder' } }[this.side][of]
    return `weights.${part}`
  }

  /** What did not come along with the run; null where there is nobody to ask. `rows`: of use while those are in sight. */
  protected ask(_name: string, _at: At, _rows?: Stretch): Tensor | null | undefined {
    return null
  }

  /**
   * A tensor, or with `at` one index of its first axis. What did not come with the run is asked for once; until it
   * arrives this is undefined, and whoever read it is painted again then. Null: nobody has it.
   */
  get(name: string, at: At = null): Tensor | null | undefined {
    return this.held(name, at) ?? this.ask(name, at)
  }

  /**
   * Row `t` of a tensor over the text, which may be far too large to have whole: it is asked for with the rows around
   * it. `first`: the index that stands before the row's, such as a head's. Undefined and null as in `get`.
   */
  line(name: string, t: number, first: number | null = null): Float32Array | null | undefined {
    const whole = this.file.tensor(name)
    if (whole) return first === null ? this.rows(whole)[t] : this.rows(whole)[first * whole.shape[1] + t]
    const before = first === null ? '' : `${first},`
    const tail = first === null ? this.tail(name) : null
    if (tail && t >= this.length - tail.shape[0]) return this.rows(tail)[t - this.length + tail.shape[0]]
    const rows = { first: t - (t % chunk), end: Math.min(this.length, t - (t % chunk) + chunk) }
    const part = this.ask(name, `${before}${rows.first}:${rows.end}`, rows)
    return part && this.rows(part)[t - rows.first]
  }

  /** As much of a tensor as came along with the run: all of it, or its last rows. */
  along(name: string): Tensor | null {
    return this.file.tensor(name) ?? this.tail(name)
  }

  /** The last rows of a tensor, where those alone came along. */
  private tail(name: string): Tensor | null {
    for (const count of tails) {
      const tensor = this.file.tensor(`${name}[-${count}:]`)
      if (tensor) return tensor
    }
    return null
  }

  private readonly cut = new WeakMap<Tensor, Float32Array[]>()

  /** Every row of a tensor, the same objects each time. */
  private rows(tensor: Tensor): Float32Array[] {
    let rows = this.cut.get(tensor)
    if (!rows) {
      const width = tensor.shape.at(-1)!
      rows = Array.from({ length: tensor.data.length / width }, (_, i) => tensor.data.subarray(i * width, (i + 1) * width))
      this.cut.set(tensor, rows)
    }
    return rows
  }

  /** As `get`, but never asks anybody. */
  held(name: string, at: At = null): Tensor | null {
    const whole = this.file.tensor(name)
    if (at === null) return whole
    if (whole) return part(whole, at)
    return this.file.tensor(`${name}[${at}]`)
  }

  /** (T) of one head: what token `to` reads from each. */
  reads(layer: number, head: number, to: number): Float32Array | null | undefined {
    return this.line(`${this.block(layer)}.attn.pattern`, to, head)
  }

  /** (S): what token `to` reads of what the encoder made, the mean over heads. */
  crossing(layer: number, to: number): Float32Array | null | undefined {
    return this.line(`${this.block(layer)}.cross.mean`, to)
  }

  /** The block whose cross-attention reads in the fewest places: the one to show first. A choice of view only. */
  get clearestCrossing(): number {
    const sharp = this.blocks.map((_, layer) => {
      let sum = 0
      for (let to = 0; to < this.length; to++) sum += Math.max(...(this.crossing(layer, to) ?? [0]))
      return sum
    })
    return sharp.indexOf(Math.max(...sharp))
  }

  /** (F): what enters the down projection at one token. */
  hidden(layer: number, token: number): Float32Array | null | undefined {
    return this.line(`${this.block(layer)}.mlp.hidden`, token)
  }

  /** The place of the river before a block, or with `branch` after as many of its branches. */
  place(layer: number, branch = 0): number {
    return layer * this.branches.length + branch
  }

  /** The last place of the river: after all blocks. */
  get mouth(): number {
    return this.place(this.blocks.length)
  }

  /** Norm of token `t`'s residual stream at a place: before block 0, after its attention, after its MLP, ... */
  norm(place: number, t: number): number {
    const river = this.held(`${this.side}river`)
    return river ? river.data[place * this.length + t] : NaN
  }

  /** What stands after the last block: a norm, a layer of the head, or nothing before the unembedding; or what reads it. */
  get ending(): 'norm' | 'layer' | 'plain' | 'read' {
    const { stack, head } = this.spec
    if (this.side === 'encoder.') return 'read'
    return stack.final_norm ? 'norm' : head.transform ? 'layer' : 'plain'
  }

  /** Where the masks are that a model like this one fills. */
  get masks(): number[] {
    return this.header.settings?.masks ?? []
  }

  /** Tokens are appended to the text: the head reads the last one. */
  get writes(): boolean {
    return this.task === 'continue' || this.side === 'decoder.'
  }

  /** The token the head reads: the last one; the first mask; of a classifier the first, or the last. */
  get home(): number {
    if (this.writes || this.spec.head?.pool === 'last') return this.length - 1
    if (this.classes || this.spec.stem.bins) return 0
    const words = [...this.pieces.keys()].filter((token) => !this.pieces[token].special)
    return this.masks[0] ?? words.at(-1) ?? 0
  }

  /** Logits of the whole vocabulary at the token that is read, or of the classes. */
  logits(token = this.home): Float32Array | null {
    if (this.classes) return this.held('logits')?.data ?? null
    if (this.writes) return this.held('logits.last')?.data ?? null
    return this.get('logits', token)?.data ?? null
  }

  /**
   * The head of a block to show first: the one in which `token` reads most from a token other than itself and those at
   * the ends that frame a text, which many heads use as a place to rest. A choice of view only.
   */
  tellingHead(layer: number, token: number): number {
    const patterns = this.held(`${this.block(layer)}.attn.pattern`)
    if (!patterns) return 0
    const [heads, length] = patterns.shape
    let best = 0
    let most = -1
    for (let head = 0; head < heads; head++) {
      for (let from = 1; from < length; from++) {
        if (from === token || this.pieces[from].special) continue
        const weight = patterns.data[(head * length + token) * length + from]
        if (weight > most) [best, most] = [head, weight]
      }
    }
    return best
  }
}

/** What `at` names, as Python would: one entry per axis from the left, an index or a range. */
export function part(tensor: Tensor, at: number | string): Tensor {
  const [entry, ...rest] = String(at).split(',')
  const inner = (index: number) => (rest.length ? part(row(tensor, index), rest.join(',')) : row(tensor, index))
  if (!entry.includes(':')) return inner(Number(entry))
  const from = (text: string, otherwise: number) => (text ? Number(text) + (Number(text) < 0 ? tensor.shape[0] : 0) : otherwise)
  const [a, b] = entry.split(':')
  const [first, end] = [from(a, 0), Math.min(tensor.shape[0], from(b, tensor.shape[0]))]
  const each = Array.from({ length: Math.max(0, end - first) }, (_, i) => inner(first + i))
  const shape = each[0]?.shape ?? tensor.shape.slice(1)
  const data = new Float32Array(each.reduce((sum, one) => sum + one.data.length, 0))
  each.forEach((one, i) => data.set(one.data, i * one.data.length))
  return { shape: [each.length, ...shape], data }
}

/** Index `at` of the first axis; negative counts from the end. */
export function row(tensor: Tensor, at: number): Tensor {
  const shape = tensor.shape.slice(1)
  const size = shape.reduce((a, b) => a * b, 1)
  const index = at < 0 ? tensor.shape[0] + at : at
  return { shape, data: tensor.data.subarray(index * size, (index + 1) * size) }
}
