// What the reader looks at: the chosen token, the head shown in each block, the block that is open, the cell pointed at.

import { session } from './session.svelte'

export interface ReadOut {
  /** What it is, in words. */
  line: string
  /** Its name in the record with indices. */
  name: string
  /** Where to show it, in window coordinates. */
  x: number
  y: number
}

/** A place of the drawing that opens: a block by its number, the embedding, or what comes after the last block. */
export type Stop = number | 'embedding' | 'end'

class View {
  opened = $state<Stop | null>(null)
  readout = $state.raw<ReadOut | null>(null)
  narrow = $state(false)
  private picked = $state<{ [layer: number]: number }>({})
  private pickedToken = $state<number | null>(null)
  private suggested = $state.raw<number[]>([])

  /** The token that is followed through the drawing: the last one until another is chosen. */
  chosen = $derived.by(() => {
    const last = (session.run?.length ?? 1) - 1
    return this.pickedToken === null ? last : Math.min(this.pickedToken, last)
  })

  constructor() {
    const narrow = window.matchMedia('(max-width: 1180px)')
    this.narrow = narrow.matches
    session.onnewtext = () => this.suggestHeads()
    narrow.addEventListener('change', () => (this.narrow = narrow.matches))
  }

  head(layer: number): number {
    const heads = session.run?.blocks[layer]?.attn.heads ?? 1
    return Math.min(this.picked[layer] ?? this.suggested[layer] ?? 0, heads - 1)
  }

  pickHead(layer: number, head: number): void {
    this.picked[layer] = head
  }

  follow(token: number): void {
    this.pickedToken = token === (session.run?.length ?? 0) - 1 ? null : token
  }

  followLast(): void {
    this.pickedToken = null
  }

  /** Looks at the heads of a new text afresh; while tokens are drawn the heads stay. */
  private suggestHeads(): void {
    const run = session.run
    if (!run) return
    this.pickedToken = null
    this.suggested = run.blocks.map((_, layer) => run.tellingHead(layer, run.length - 1))
  }

  /** Closes what is open; the focus goes back to where it was opened. */
  close(): void {
    document.querySelector<HTMLElement>(`[data-stop="${this.opened}"] h2 button`)?.focus({ preventScroll: true })
    this.opened = null
  }

  toggle(stop: Stop): void {
    this.opened = this.opened === stop ? null : stop
  }
}

export const view = new View()
