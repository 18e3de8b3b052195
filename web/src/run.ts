// One recorded run as the page reads it: the same face whether its tensors lie in a file or behind the server.

import { parse, type BlockSpec, type Piece, type RecordHeader, type Tensor } from './cutawayfile'

/** Fetches one tensor, or with `at` one index of its first axis, that did not come along with the run. */
export type Fetch = (name: string, at: number | null) => Promise<Tensor | null>


export class Run {
  readonly header: RecordHeader
  readonly pieces: Piece[]
  readonly blocks: BlockSpec[]
  readonly length: number
  private readonly file: ReturnType<typeof parse>
  private readonly fetched = new Map<string, Promise<Tensor | null>>()

  constructor(
    bytes: ArrayBuffer,
    readonly origin: 'stored' | 'live',
    private readonly fetchSlice: Fetch | null,
  ) {
    this.file = parse(bytes)
    this.header = this.file.header
    this.length = this.header.tokens.length
    this.blocks = this.header.spec.stack.blocks
    this.pieces = this.header.pieces ?? this.header.tokens.map((id) => ({ id, text: `#${id}` }))
  }

  get names(): string[] {
    return this.file.names
  }

  /** A tensor that came with the run, at once; null when it did not. */
  tensor(name: string): Tensor | null {
    return this.file.tensor(name)
  }

  /** A tensor or its slice `name[at]`, from the run when it is there, else from the server; null when nobody has it. */
  slice(name: string, at: number | null): Promise<Tensor | null> {
    const key = at === null ? name : `${name}[${at}]`
    let found = this.fetched.get(key)
    if (!found) {
      const whole = this.file.tensor(name)
      const own = at === null ? whole : (whole ? row(whole, at) : this.file.tensor(key))
      found = own ? Promise.resolve(own) : this.fetchSlice ? this.fetchSlice(name, at) : Promise.resolve(null)
      found.catch(() => this.fetched.delete(key))
      this.fetched.set(key, found)
    }
    return found
  }

  embed(): Tensor | null {
    return this.tensor('embed')
  }

  /** (H, T, T): for each head, row = the token that reads, column = the token it reads from. */
  pattern(layer: number): Tensor | null {
    return this.tensor(`blocks.${layer}.attn.pattern`)
  }

  /** (T, F): what enters the down projection. */
  hidden(layer: number): Tensor | null {
    return this.tensor(`blocks.${layer}.mlp.hidden`)
  }

  /** The hidden activations of one token: a row of `hidden`, or the last row when only that was kept. */
  hiddenOf(layer: number, token: number): Float32Array | null {
    const all = this.hidden(layer)
    if (all) return row(all, token).data
    return token === this.length - 1 ? (this.tensor(`blocks.${layer}.mlp.hidden[-1]`)?.data ?? null) : null
  }

  /** Norm of token `t`'s residual stream before block 0, after its attention, after its MLP, ... : place 0 to 2L. */
  norm(place: number, t: number): number {
    const river = this.tensor('river')
    return river ? river.data[place * this.length + t] : NaN
  }

  /** Logits of the whole vocabulary after the last token. */
  logits(): Float32Array | null {
    return this.tensor('logits.last')?.data ?? null
  }
}

/** Index `at` of the first axis. */
export function row(tensor: Tensor, at: number): Tensor {
  const shape = tensor.shape.slice(1)
  const size = shape.reduce((a, b) => a * b, 1)
  const index = at < 0 ? tensor.shape[0] + at : at
  return { shape, data: tensor.data.subarray(index * size, (index + 1) * size) }
}

/**
 * The head to show first: the one in which `token` reads most from a token other than itself and the very first, which
 * many heads use as a place to rest. A choice of view only.
 */
export function tellingHead(pattern: Tensor, token: number): number {
  const [heads, length] = pattern.shape
  let best = 0
  let most = -1
  for (let h = 0; h < heads; h++) {
    for (let from = 1; from < token; from++) {
      const weight = pattern.data[(h * length + token) * length + from]
      if (weight > most) [best, most] = [h, weight]
    }
  }
  return best
}
