// Parts of tensors on their way from the server, and those that have come: few on the way at a time, and no more kept
// than there is room for. What was read longest ago goes first, and is asked for again when it is looked at again.

import { SvelteMap } from 'svelte/reactivity'
import type { Tensor } from './cutawayfile'
import type { At } from './server'

type Ask = (name: string, at: At, signal: AbortSignal) => Promise<Tensor | null>

/** Rows of a text, from `first` up to, not including, `end`. */
export interface Stretch {
  first: number
  end: number
}

interface Wanted {
  name: string
  at: At
  /** The rows it holds, when it is of use only while they are in sight. */
  rows: Stretch | null
}

/** A browser opens six lines to a server: one hears its events, one is left for the next run. */
const lanes = 4
/** Milliseconds the rows in sight must rest before they are asked for: a text that rushes by asks nothing. */
const rest = 50

const keyOf = (name: string, at: At) => (at === null ? name : `${name}[${at}]`)

export class Slices {
  readonly arrived = new SvelteMap<string, Tensor | null>()
  /** Bytes of each tensor that is kept, the one read longest ago first. */
  private readonly kept = new Map<string, number>()
  private bytes = 0
  /** Something is on its way. */
  busy = $state(false)
  private readonly waiting = new Map<string, Wanted>()
  private readonly onTheWay = new Map<string, { wanted: Wanted; stop: AbortController }>()
  private sight: Stretch = { first: 0, end: Infinity }
  private timer: ReturnType<typeof setTimeout> | undefined

  constructor(
    private readonly ask: Ask,
    private readonly room = 128 * 2 ** 20,
  ) {}

  /** What has come; undefined until it does, and then whoever read it reads again. Null: there is none. */
  get(name: string, at: At, rows: Stretch | null = null): Tensor | null | undefined {
    const key = keyOf(name, at)
    const size = this.kept.get(key)
    if (size !== undefined) {
      this.kept.delete(key)
      this.kept.set(key, size)
    } else if (!this.waiting.has(key) && !this.onTheWay.has(key)) {
      this.waiting.set(key, { name, at, rows })
      if (rows) this.timer ??= setTimeout(() => this.send(), rest)
      else queueMicrotask(() => this.send())
    }
    return this.arrived.get(key)
  }

  /** The rows now in sight: nothing is asked about others any more. */
  look(sight: Stretch): void {
    this.sight = sight
    for (const { wanted, stop } of this.onTheWay.values()) if (!this.seen(wanted)) stop.abort()
    for (const [key, wanted] of this.waiting) if (!this.seen(wanted)) this.waiting.delete(key)
    clearTimeout(this.timer)
    this.timer = setTimeout(() => this.send(), rest)
  }

  private seen({ rows }: Wanted): boolean {
    const margin = this.sight.end - this.sight.first
    return rows === null || (rows.end > this.sight.first - margin && rows.first < this.sight.end + margin)
  }

  private send(): void {
    clearTimeout(this.timer)
    this.timer = undefined
    for (const [key, wanted] of this.waiting) {
      if (this.onTheWay.size >= lanes) break
      this.waiting.delete(key)
      const stop = new AbortController()
      this.onTheWay.set(key, { wanted, stop })
      this.ask(wanted.name, wanted.at, stop.signal)
        .then(
          (tensor) => this.keep(key, tensor),
          () => undefined, // asked for again when it is read again
        )
        .finally(() => {
          this.onTheWay.delete(key)
          this.send()
        })
    }
    this.busy = this.onTheWay.size > 0
  }

  private keep(key: string, tensor: Tensor | null): void {
    const size = tensor?.data.byteLength ?? 0
    this.bytes += size
    this.kept.set(key, size)
    for (const [oldest, its] of this.kept) {
      if (this.bytes <= this.room || oldest === key) break
      this.bytes -= its
      this.kept.delete(oldest)
      this.arrived.delete(oldest)
    }
    this.arrived.set(key, tensor)
  }
}
