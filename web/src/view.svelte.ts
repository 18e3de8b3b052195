// What the reader looks at: the chosen token, the head shown in each block, what is open, the number being explained.

import type { Run } from './run'

/** A place of the drawing that opens: a block by its number, the embedding, or what comes after the last block. */
export type Stop = number | 'embedding' | 'end'

/** The stop at which a number of the record is made. */
function stopOf(cell: string): Stop {
  const block = /^(?:encoder\.|decoder\.)?blocks\.(\d+)\./.exec(cell)
  if (block) return Number(block[1])
  return /^(encoder\.|decoder\.)?(embed|pos)\b/.test(cell) ? 'embedding' : 'end'
}

const headKey = (layer: number, kind: 'attn' | 'cross') => `${kind === 'cross' ? 'x' : ''}${layer}`

export class View {
  opened = $state<Stop | null>(null)
  /** The numbers followed down to their terms, from the first that was asked about to the one shown. */
  trail = $state.raw<string[]>([])
  /** The token of which is shown what the model expected in its place, and the box beside which to show it. */
  predicted = $state.raw<{ token: number; beside: DOMRect } | null>(null)
  private soon: ReturnType<typeof setTimeout> | undefined
  private picked = $state<{ [of: string]: number }>({})
  private suggested = $state.raw<number[]>([])

  constructor(private readonly looked: { readonly run: Run | null; followed: number | null }) {}

  /** The token that is followed through the drawing: the one the head reads, until another is chosen. */
  get chosen(): number {
    const { run, followed } = this.looked
    if (!run) return 0
    return followed === null ? run.home : Math.min(followed, run.length - 1)
  }

  head(layer: number, kind: 'attn' | 'cross' = 'attn'): number {
    const heads = this.looked.run?.blocks[layer]?.[kind]?.heads ?? 1
    return Math.min(this.picked[headKey(layer, kind)] ?? (kind === 'attn' ? this.suggested[layer] : null) ?? 0, heads - 1)
  }

  pickHead(layer: number, head: number, kind: 'attn' | 'cross' = 'attn'): void {
    this.picked[headKey(layer, kind)] = head
  }

  /**
   * Shows what the model expected in a token's place, beside the element that stands for it; with null no more. Not
   * for a pointer that only passes, and without a blink between neighbours.
   */
  predict(token: number, beside: Element | null): void {
    clearTimeout(this.soon)
    const next = beside && { token, beside: beside.getBoundingClientRect() }
    if (next && this.predicted) this.predicted = this.predicted.token === token ? this.predicted : next
    else if (next || this.predicted) this.soon = setTimeout(() => (this.predicted = next), next ? 150 : 60)
  }

  /** The heads the reader chose, by block; those of cross-attention have an x in front. */
  get pickedHeads(): Readonly<{ [of: string]: number }> {
    return this.picked
  }

  follow(token: number): void {
    this.looked.followed = token === this.looked.run?.home ? null : token
  }

  followHome(): void {
    this.looked.followed = null
  }

  /** Looks at a new text afresh; while tokens are drawn the heads stay. */
  look(): void {
    const { run } = this.looked
    if (!run) return
    this.trail = []
    this.followHome()
    this.suggested = run.blocks.map((_, layer) => run.tellingHead(layer, run.home))
  }

  /** Shows how one number of the record was made, in the stop that is open, or in its own. */
  explain(cell: string): void {
    this.opened ??= stopOf(cell)
    this.trail = [cell]
  }

  /** From a number on show to one of those it was made of. */
  descend(cell: string): void {
    this.trail = [...this.trail, cell]
  }

  /** Back to an earlier number of the trail; to none with 0. */
  ascend(length: number): void {
    this.trail = this.trail.slice(0, length)
  }

  close(): void {
    this.opened = null
    this.trail = []
  }

  toggle(stop: Stop): void {
    this.trail = []
    this.opened = this.opened === stop ? null : stop
  }
}
