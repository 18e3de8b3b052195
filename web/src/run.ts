// One recorded run as the page reads it: the same face whether its tensors lie in a file or behind the server.

import { SvelteMap } from 'svelte/reactivity'
import type { At, Explanation } from './server'
import type { Entry, RecordFile, Tensor } from './cutawayfile'
import { Recording } from './recording'
import { Slices, type Stretch } from './slices.svelte'

/** Where a run's numbers are had that did not come along with it. */
export interface Source {
  /** One tensor, or with `at` a part of it; null: there is none of that name. */
  tensor(name: string, at: At, signal?: AbortSignal): Promise<Tensor | null>
  /** How one number was made. */
  explain(cell: string): Promise<Explanation>
  /** The server's name for the record. */
  record: string
}

export class Run extends Recording {
  /** Sentences a reader should know, such as a text cut to the context. */
  readonly notes: string[]
  private readonly asked: Set<string>
  private readonly slices: Slices | null
  /** What has been explained so far; goes along with a file that is taken away. */
  readonly explanations: SvelteMap<string, Explanation | null>
  /** What an encoder made of what it read, where this is the decoder behind it. */
  readonly read: Run | null

  /** `of`: the decoder's, where this is what its encoder read. */
  constructor(
    from: ArrayBuffer | RecordFile,
    readonly origin: 'stored' | 'live',
    readonly source: Source | null,
    of: Run | null = null,
  ) {
    super(from, of ? 'encoder.' : undefined)
    this.slices = source && new Slices((name, at, signal) => source.tensor(name, at, signal))
    this.notes = this.header.settings?.notes ?? []
    this.asked = of?.asked ?? new Set()
    this.explanations = of?.explanations ?? new SvelteMap()
    if (!of) for (const [cell, known] of Object.entries(this.header.explanations ?? {})) this.explanations.set(cell, known as Explanation)
    this.read = this.side === 'decoder.' ? new Run(this.file, origin, source, this) : null
  }

  protected override ask(name: string, at: At, rows: Stretch | null = null): Tensor | null | undefined {
    return this.slices ? this.slices.get(name, at, rows) : null
  }

  /** What was asked for since and arrived, to go along with a file that is taken away. */
  gathered(): [string, Entry][] {
    const arrived = [...(this.slices?.arrived ?? []), ...(this.read?.slices?.arrived ?? [])]
    return arrived.flatMap(([name, tensor]) => {
      if (!tensor) return []
      const { buffer, byteOffset, byteLength } = tensor.data
      return [[name, { dtype: 'F32', shape: tensor.shape, bytes: new Uint8Array(buffer, byteOffset, byteLength) }]]
    })
  }

  /** Numbers that were asked for are on their way. */
  get busy(): boolean {
    return this.slices?.busy ?? false
  }

  /** Rows in sight of the drawing: others are not waited for. */
  look(sight: Stretch): void {
    this.slices?.look(sight)
  }

  /** How one number was made; undefined until it is known, null when nobody here can say. */
  explained(cell: string): Explanation | null | undefined {
    if (!this.explanations.has(cell) && this.source && !this.asked.has(`explain ${cell}`)) {
      this.asked.add(`explain ${cell}`)
      this.source.explain(cell).then(
        (explanation) => this.explanations.set(cell, explanation),
        () => this.explanations.set(cell, null),
      )
    }
    return this.source ? this.explanations.get(cell) : (this.explanations.get(cell) ?? null)
  }
}
