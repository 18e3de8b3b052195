// The weave: every token a thread running through the blocks, as thick as its residual stream is long.

import type { BlockSpec } from '../cutawayfile'
import type { Recording } from '../recording'
import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

/**
 * The rows on screen: `count` of them from `first` on, each `height` pixels high; both may be fractions while a text
 * glides by. A row is a token; or, with `edges`, the tokens from edges[row] up to, not including, edges[row + 1].
 */
export interface Rows {
  first: number
  count: number
  height: number
  /** Rows of the whole text. */
  total: number
  edges: number[] | null
  /** The row of the token the head reads: its thread leads on. */
  leads: number
}

export const middle = (rows: Rows, row: number) => (row - rows.first + 0.5) * rows.height

/** The rows that are in sight, if only in part. */
export function inSight(rows: Rows): number[] {
  const first = Math.max(0, Math.floor(rows.first + 1e-6))
  const end = Math.min(rows.total, Math.ceil(rows.first + rows.count - 1e-6))
  return Array.from({ length: Math.max(0, end - first) }, (_, i) => first + i)
}

/** The row at a height of the drawing. */
export function rowAt(rows: Rows, y: number): number {
  const seen = inSight(rows)
  return Math.max(seen[0], Math.min(seen[seen.length - 1], Math.floor(rows.first + y / rows.height)))
}

/** The row a token is in. */
export function rowOf(rows: Rows, token: number): number {
  if (!rows.edges) return token
  let row = 0
  while (row + 2 < rows.edges.length && rows.edges[row + 1] <= token) row++
  return row
}

/** The tokens of a row: from `first` up to, not including, `end`. */
export const tokensOf = (rows: Rows, row: number) =>
  rows.edges ? { first: rows.edges[row], end: rows.edges[row + 1] } : { first: row, end: row + 1 }

/** Norm of a row's residual stream at a place of the run; of several tokens the mean. */
function normOf(run: Recording, rows: Rows, place: number, row: number): number {
  const { first, end } = tokensOf(rows, row)
  let sum = 0
  for (let t = first; t < end; t++) sum += run.norm(place, t)
  return sum / (end - first)
}

/** Thread thickness in pixels per unit of norm: the longest vector apart from the first token's fills 0.4 of a row. */
export function threadScale(run: Recording, height: number): number {
  let longest = 0
  for (let place = 0; place <= run.mouth; place++)
    for (let t = Math.min(1, run.length - 1); t < run.length; t++) longest = Math.max(longest, run.norm(place, t))
  return longest > 0 ? Math.min(0.4 * height, 13) / longest : 0
}

export function thickness(run: Recording, rows: Rows, scale: number, place: number, row: number): number {
  const width = normOf(run, rows, place, row) * scale
  return Number.isNaN(width) ? 1 : Math.min(0.55 * rows.height, Math.max(Math.min(0.6, 0.4 * rows.height), width))
}

/** A thread from x0 to x1 at the thickness it has at `place`, easing there from the thickness before. */
export function thread(pen: Pen, y: number, x0: number, x1: number, before: number, after: number, color: string): void {
  const ease = Math.min(x1 - x0, 9)
  pen.fillStyle = color
  pen.beginPath()
  pen.moveTo(x0, y - before / 2)
  pen.bezierCurveTo(x0 + ease / 2, y - before / 2, x0 + ease / 2, y - after / 2, x0 + ease, y - after / 2)
  pen.lineTo(x1, y - after / 2)
  pen.lineTo(x1, y + after / 2)
  pen.lineTo(x0 + ease, y + after / 2)
  pen.bezierCurveTo(x0 + ease / 2, y + after / 2, x0 + ease / 2, y + before / 2, x0, y + before / 2)
  pen.closePath()
  pen.fill()
}

type Range = [number, number]

/** Where the parts of a block stand, in a box of this width. */
interface BlockShape {
  attention: Range
  /** Where a decoder reads what its encoder made. */
  cross: Range | null
  mlp: Range
  /** The branches of the stream one after the other: where each leaves it, up to where it has added to it. */
  chain: { plate: Range; sum: number }[]
}

export function blockShape(width: number, { parallel, cross: crossed }: Pick<BlockSpec, 'parallel' | 'cross'>): BlockShape {
  const gap = Math.max(7, width * 0.045)
  if (parallel) {
    // Both read what comes in, and one sum takes what both have made: one plate of two halves.
    const attention: Range = [gap, gap + 0.56 * (width - 4.6 * gap)]
    const mlp: Range = [attention[1], width - 1.8 * gap]
    return { attention, cross: null, mlp, chain: [{ plate: [attention[0], mlp[1]], sum: mlp[1] + 0.8 * gap }] }
  }
  const shares = crossed ? [0.36, 0.34, 0.3] : [0.56, 0.44]
  const plates = width - (0.8 + 1.9 * shares.length) * gap
  let at = gap
  const chain = shares.map((share) => {
    const plate: Range = [at, at + share * plates]
    at = plate[1] + 1.9 * gap
    return { plate, sum: plate[1] + 0.8 * gap }
  })
  return { attention: chain[0].plate, cross: crossed ? chain[1].plate : null, mlp: chain.at(-1)!.plate, chain }
}

export interface BlockView {
  run: Recording
  layer: number
  head: number
  rows: Rows
  /** The row of the chosen token. */
  chosen: number
  /** Of a decoder, the token followed in what its encoder read, and how many there are. */
  from: { token: number; of: number } | null
  /** A row, or one ribbon of it, that the pointer or the keyboard is on. */
  lit: { to: number; from: number | null } | null
  scale: number
}

/** The chosen token's thread is dark, and so is the one that leads on, to the next token say. */
const threadColor = (ink: Ink, rows: Rows, row: number, chosen: number) =>
  row === chosen || row === rows.leads ? ink.chosen : ink.thread

export function paintBlock(pen: Pen, width: number, height: number, ink: Ink, view: BlockView): void {
  const { run, layer, rows, chosen, scale } = view
  const block = run.blocks[layer]
  const shape = blockShape(width, block)
  const { attention, cross, mlp, chain } = shape
  const seen = inSight(rows)
  const order = seen.filter((row) => row !== chosen)
  if (order.length < seen.length) order.push(chosen) // the chosen thread lies on top

  for (const part of [attention, cross, mlp]) if (part) plate(pen, part, height, ink)

  for (const row of order) {
    const y = middle(rows, row)
    const color = threadColor(ink, rows, row, chosen)
    const thick = (place: number) => thickness(run, rows, scale, place, row)
    pen.fillStyle = color
    straight(pen, y, 0, attention[0], thick(run.place(layer)))
    chain.forEach(({ plate, sum }, i) => {
      const next = chain[i + 1]?.plate[0]
      const [before, after] = [thick(run.place(layer, i)), thick(next === undefined ? run.place(layer + 1) : run.place(layer, i + 1))]
      straight(pen, y, plate[1], sum, before)
      thread(pen, y, sum, next ?? width, before, after, color)
      pen.globalAlpha = 0.2
      straight(pen, y, ...plate, before)
      pen.globalAlpha = 1
    })
  }

  for (const ribbon of ribbons(view)) paintRibbon(pen, ribbon, attention, height, ink, view)
  if (!rows.edges) {
    const most = largestHidden(run, layer)
    for (const row of order) {
      const values = run.hidden(layer, row)
      if (values) paintStrokes(pen, values, most, mlp, middle(rows, row), rows.height, threadColor(ink, rows, row, chosen))
    }
  }
  if (cross && !rows.edges) {
    if (view.from) column(pen, cross, view.from, height, ink)
    const most = largest(run.along(`${run.block(layer)}.cross.mean`)?.data, 0)
    for (const row of order) {
      const values = run.crossing(layer, row)
      pen.globalAlpha = row === chosen ? 1 : 0.6
      if (values) paintStrokes(pen, values, most, cross, middle(rows, row), rows.height, ink.value)
    }
    pen.globalAlpha = 1
  }
  for (const { sum } of chain) sums(pen, sum, order, rows, chosen, ink)
  if (block.parallel) {
    forks(pen, attention[0], order, rows, chosen, ink)
    if (rows.height >= 14) lanes(pen, shape, order, rows, chosen, ink)
  }
  for (const at of normTicks(shape, block.slots)) tick(pen, at, height, ink)
}

/** Where norms stand: before a branch reads, after it has worked, on the stream after each sum. */
export function normTicks(shape: BlockShape, slots: readonly string[]): number[] {
  const near = 2.5
  return [
    ...(slots.includes('pre') ? shape.chain.map(({ plate }) => plate[0] + near) : []),
    ...(slots.includes('post') ? shape.chain.map(({ plate }) => plate[1] - near) : []),
    ...(slots.includes('stream') ? shape.chain.map(({ sum }) => sum + 7) : []),
  ]
}

/** The place of one token that is read, through a plate in which a stroke stands for each. */
function column(pen: Pen, plate: Range, { token, of }: { token: number; of: number }, height: number, ink: Ink): void {
  const x = plate[0] + inset + ((token + 0.5) / of) * (plate[1] - plate[0] - 2 * inset)
  pen.fillStyle = ink.line
  pen.fillRect(x - 0.5, 1, 1, height - 2)
}

/** A norm: a short stroke at the head and the foot of where it stands. */
function tick(pen: Pen, x: number, height: number, ink: Ink): void {
  pen.fillStyle = ink.soft
  pen.fillRect(x - 0.5, 0, 1, 6)
  pen.fillRect(x - 0.5, height - 6, 1, 6)
}

/** A stretch of thread on which nothing happens. */
function straight(pen: Pen, y: number, x0: number, x1: number, thick: number): void {
  pen.fillRect(x0, y - thick / 2, x1 - x0, thick)
}

function plate(pen: Pen, [x0, x1]: [number, number], height: number, ink: Ink): void {
  pen.fillStyle = ink.plate
  pen.strokeStyle = ink.line
  pen.lineWidth = 1
  pen.fillRect(x0, 0.5, x1 - x0, height - 1)
  pen.strokeRect(Math.round(x0) + 0.5, 0.5, Math.round(x1 - x0), height - 1)
}

/** What one row reads from another, as drawn: `weight` is the entry of the pattern; of several tokens, of the coarse one. */
export interface Ribbon {
  to: number
  from: number
  weight: number
}

/** Below this weight no ribbon is drawn: rows that are thin leave no room for faint ones. */
export const faintest = (rows: Rows) => (rows.edges || rows.height >= 14 ? 0.02 : rows.height >= 7 ? 0.05 : 0.1)

/** What a row reads, from every row of the text; undefined on its way, null where the run has it not. */
export function reads(view: BlockView, row: number): Float32Array | null | undefined {
  const { run, layer, head, rows } = view
  if (!rows.edges) return run.reads(layer, head, row)
  const coarse = run.get(`${run.block(layer)}.attn.coarse`, head)
  return coarse && coarse.data.subarray(row * rows.total, (row + 1) * rows.total)
}

/** The entries of a row worth a ribbon, found once. */
const worth = new WeakMap<Float32Array, Ribbon[]>()

function worthwhile(weights: Float32Array, to: number): Ribbon[] {
  let found = worth.get(weights)
  if (!found) {
    found = []
    for (let from = 0; from < weights.length; from++)
      if (weights[from] >= 0.02) found.push({ to, from, weight: weights[from] })
    worth.set(weights, found)
  }
  return found
}

/** The visible ribbons of a head, the chosen and lit rows last so that they lie on top. */
export function ribbons(view: BlockView): Ribbon[] {
  const { rows, chosen, lit } = view
  const least = faintest(rows)
  const found: Ribbon[] = []
  for (const to of inSight(rows)) {
    const weights = reads(view, to)
    if (!weights) continue
    const all = worthwhile(weights, to)
    found.push(...(to === chosen || to === lit?.to ? all : all.filter((ribbon) => ribbon.weight >= least)))
  }
  const rank = (r: Ribbon) => (lit && r.to === lit.to ? 2 : r.to === chosen ? 1 : 0)
  return found.sort((a, b) => rank(a) - rank(b))
}

/** Which way a row lies that is out of sight: -1 above, 1 below, 0 in sight. */
export function beyond(rows: Rows, row: number): -1 | 0 | 1 {
  if (row + 1 <= rows.first) return -1
  return row >= rows.first + rows.count ? 1 : 0
}

/** Where a ribbon begins: at the thread it reads from, or at the edge behind which that lies. */
const start = (rows: Rows, from: number) => {
  const side = beyond(rows, from)
  return side === 0 ? middle(rows, from) : side < 0 ? 0 : rows.count * rows.height
}

/** The middle line of a ribbon: leaves the thread it reads from, arrives at the thread that reads. */
export function ribbonY(ribbon: Ribbon, rows: Rows, t: number): number {
  const [y0, y1] = [start(rows, ribbon.from), middle(rows, ribbon.to)]
  if (ribbon.from === ribbon.to) return y0 + 0.34 * rows.height * 4 * t * (1 - t) * 0.75 // a token reading itself: a sag
  return y0 + (y1 - y0) * (t * t * (3 - 2 * t))
}

function paintRibbon(pen: Pen, ribbon: Ribbon, [x0, x1]: [number, number], height: number, ink: Ink, view: BlockView): void {
  const { lit, chosen, rows } = view
  const strong = lit ? lit.to === ribbon.to && (lit.from === null || lit.from === ribbon.from) : ribbon.to === chosen
  const [y0, y1] = [start(rows, ribbon.from), middle(rows, ribbon.to)]
  pen.strokeStyle = ink.value
  pen.globalAlpha = strong ? 0.85 : lit && ribbon.to === lit.to ? 0.3 : rows.edges ? 0.06 : 0.14
  pen.lineWidth = Math.max(0.5, ribbon.weight * Math.min(10, 0.34 * rows.height))
  pen.beginPath()
  pen.moveTo(x0, y0)
  if (ribbon.from === ribbon.to) {
    const [a, b] = [x0 + (x1 - x0) / 3, x0 + (2 * (x1 - x0)) / 3]
    const sag = 0.34 * rows.height
    pen.bezierCurveTo(a, y0 + sag, b, y0 + sag, x1, y0)
  } else {
    const half = (x0 + x1) / 2
    pen.bezierCurveTo(half, y0, half, y1, x1, y1)
  }
  pen.stroke()
  const side = beyond(rows, ribbon.from)
  if (side !== 0 && strong) wedge(pen, x0 + 4, side < 0 ? 0.5 : height - 0.5, side, ink)
  pen.globalAlpha = 1
}

/** Where a ribbon comes from rows out of sight: a wedge that points their way. */
function wedge(pen: Pen, x: number, y: number, side: -1 | 1, ink: Ink): void {
  pen.fillStyle = ink.value
  pen.beginPath()
  pen.moveTo(x - 4, y - side * 6)
  pen.lineTo(x + 4, y - side * 6)
  pen.lineTo(x, y)
  pen.closePath()
  pen.fill()
}

/**
 * The scale that the strips of one tensor share: its largest magnitude apart from the first token's, whose activations
 * are often a hundred times everyone else's (they are cut off at the edge of the row).
 */
export function largest(values: Float32Array | null | undefined, perToken: number): number {
  if (!values) return 0
  const known = found.get(values)
  if (known !== undefined) return known
  let most = 0
  for (let i = values.length > perToken ? perToken : 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]))
  found.set(values, most)
  return most
}
const found = new WeakMap<Float32Array, number>()

/** Of a long text the rows that came along set the scale, so that it stands while the text goes by. */
export const largestHidden = (run: Recording, layer: number): number =>
  largest(run.along(`${run.block(layer)}.mlp.hidden`)?.data, run.blocks[layer].mlp.hidden)

const inset = 4 // pixels between a plate's edge and its first stroke

/** How many strokes `count` values make between x0 and x1: at most one and a half a pixel. */
const strokesIn = (count: number, [x0, x1]: [number, number]) =>
  Math.max(1, Math.min(count, Math.floor(1.5 * (x1 - x0 - 2 * inset))))

/** The first of the values in a stroke; the next stroke's is the end of this one. */
const firstIn = (stroke: number, strokes: number, count: number) => Math.floor((stroke * count) / strokes)

/** Values as strokes: up is positive, down is negative; where several share a stroke, the largest either way. */
export function paintStrokes(
  pen: Pen,
  values: Float32Array,
  most: number,
  [x0, x1]: [number, number],
  y: number,
  rowHeight: number,
  color: string,
): void {
  const strokes = strokesIn(values.length, [x0, x1])
  const step = (x1 - x0 - 2 * inset) / strokes
  const reach = 0.47 * rowHeight
  pen.fillStyle = color
  const thick = Math.max(0.55, step * 0.8)
  let i = 0
  for (let stroke = 0; stroke < strokes; stroke++) {
    const end = firstIn(stroke + 1, strokes, values.length)
    let up = 0
    let down = 0
    for (; i < end; i++) {
      const value = values[i]
      if (value > up) up = value
      else if (value < down) down = value
    }
    const top = Math.min(1, up / most) * reach
    const bottom = Math.max(-1, down / most) * reach
    if (top - bottom < 0.15) continue
    pen.fillRect(x0 + inset + stroke * step, y - top, thick, top - bottom)
  }
}

/** The value whose stroke is at x: of those that share it, the largest; and which ones share it. */
export function strokeAt(values: Float32Array, [x0, x1]: [number, number], x: number): { index: number; first: number; last: number } {
  const strokes = strokesIn(values.length, [x0, x1])
  const at = Math.floor(((x - x0 - inset) / (x1 - x0 - 2 * inset)) * strokes)
  const stroke = Math.max(0, Math.min(strokes - 1, at))
  const [first, end] = [firstIn(stroke, strokes, values.length), firstIn(stroke + 1, strokes, values.length)]
  let index = first
  for (let i = first; i < end; i++) if (Math.abs(values[i]) > Math.abs(values[index])) index = i
  return { index, first, last: end - 1 }
}

/** Where the stroke of value `index` stands. */
export function strokeX(values: Float32Array, [x0, x1]: [number, number], index: number): number {
  return x0 + inset + ((index + 0.5) / values.length) * (x1 - x0 - 2 * inset)
}

/** A branch joins the stream again: a circled plus on every thread; where rows are thin, a dot. */
function sums(pen: Pen, x: number, order: number[], rows: Rows, chosen: number, ink: Ink): void {
  const radius = Math.min(4.2, rows.height * 0.16)
  const dots = radius < 1.6
  for (const color of [ink.thread, ink.chosen]) {
    const ys = order.filter((row) => threadColor(ink, rows, row, chosen) === color).map((row) => middle(rows, row))
    pen.strokeStyle = color
    pen.fillStyle = dots ? color : ink.paper
    pen.lineWidth = 1.1
    pen.beginPath()
    for (const y of ys) {
      pen.moveTo(x + radius, y)
      pen.arc(x, y, radius, 0, 2 * Math.PI)
    }
    pen.fill()
    if (dots) continue
    for (const y of ys) {
      pen.moveTo(x - radius * 0.55, y)
      pen.lineTo(x + radius * 0.55, y)
      pen.moveTo(x, y - radius * 0.55)
      pen.lineTo(x, y + radius * 0.55)
    }
    pen.stroke()
  }
}

/** Two branches leave the stream at one place: a dot on every thread. */
function forks(pen: Pen, x: number, order: number[], rows: Rows, chosen: number, ink: Ink): void {
  const radius = Math.min(3, rows.height * 0.12)
  for (const row of order) {
    pen.fillStyle = threadColor(ink, rows, row, chosen)
    pen.beginPath()
    pen.arc(x, middle(rows, row), radius, 0, 2 * Math.PI)
    pen.fill()
  }
}

/** The MLP of a parallel block reads the stream past attention, and what attention made goes past the MLP to the sum. */
function lanes(pen: Pen, { attention, mlp, chain: [{ sum }] }: BlockShape, order: number[], rows: Rows, chosen: number, ink: Ink): void {
  const aside = 0.4 * rows.height
  pen.lineWidth = 0.8
  for (const row of order) {
    const y = middle(rows, row)
    pen.strokeStyle = threadColor(ink, rows, row, chosen)
    pen.beginPath()
    around(pen, attention[0], mlp[0] + 3, y, aside)
    around(pen, attention[1] - 3, sum, y, -aside)
    pen.stroke()
  }
}

/** A line from x0 to x1 that makes way for what stands between. */
function around(pen: Pen, x0: number, x1: number, y: number, aside: number): void {
  const turn = 8
  pen.moveTo(x0, y)
  pen.bezierCurveTo(x0 + turn / 2, y, x0 + turn / 2, y + aside, x0 + turn, y + aside)
  pen.lineTo(x1 - turn, y + aside)
  pen.bezierCurveTo(x1 - turn / 2, y + aside, x1 - turn / 2, y, x1, y)
}

/** Where the strokes of the embedding stand, in a box of this width; then the threads begin. */
export const embeddingStrip = (width: number): [number, number] => [0, width - 16]

/** Embedding rows, one strip of strokes a token, and the threads that begin there. */
export function paintEmbedding(pen: Pen, width: number, ink: Ink, run: Recording, rows: Rows, chosen: number, scale: number): void {
  const [start, end] = embeddingStrip(width)
  const most = largest(run.along(`${run.side}embed`)?.data, run.spec.stack.width)
  for (const row of inSight(rows)) {
    const y = middle(rows, row)
    const color = threadColor(ink, rows, row, chosen)
    const values = rows.edges ? null : run.line(`${run.side}embed`, row)
    if (values) paintStrokes(pen, values, most, [start, end], y, rows.height, color)
    thread(pen, y, rows.edges ? start : end, width, 0.5, thickness(run, rows, scale, 0, row), color)
  }
}

/** Where the threads of an encoder turn down, to the decoder below: the last one first. */
export const turnX = (rows: Rows, width: number, row: number): number => {
  const [from, to] = [0.34 * width, width - 8]
  const apart = Math.min(5, (to - from) / Math.max(1, rows.count))
  return to - (row - rows.first) * apart
}

/** The rows whose threads are drawn on their way down: of many, some, and the chosen one last. */
export function bundled(rows: Rows, chosen: number): number[] {
  const seen = inSight(rows)
  const every = Math.ceil(seen.length / 32)
  const some = seen.filter((row) => row % every === 0 && row !== chosen)
  return seen.includes(chosen) ? [...some, chosen] : some
}

/** After the last block of an encoder: the final norm, and all that it made turns down to the decoder's blocks. */
export function paintMemory(pen: Pen, width: number, height: number, ink: Ink, run: Recording, rows: Rows, chosen: number, scale: number): void {
  const normX = Math.round(width * 0.16)
  for (const row of inSight(rows)) {
    const y = middle(rows, row)
    const thick = thickness(run, rows, scale, run.mouth, row)
    const color = row === chosen ? ink.chosen : ink.thread
    thread(pen, y, 0, normX, thick, thick, color)
    thread(pen, y, normX, normX + 9, thick, 1.2, color)
  }
  for (const row of bundled(rows, chosen)) {
    const [x, y] = [turnX(rows, width, row), middle(rows, row)]
    const bend = Math.min(14, height - y)
    pen.strokeStyle = row === chosen ? ink.chosen : ink.thread
    pen.lineWidth = row === chosen ? 1.8 : 1.2
    pen.beginPath()
    pen.moveTo(normX + 9, y)
    pen.lineTo(x - bend, y)
    pen.quadraticCurveTo(x, y, x, y + bend)
    pen.lineTo(x, height)
    pen.stroke()
  }
  if (run.spec.stack.final_norm) normPlate(pen, normX, rows, ink)
}

/** The final norm: a slim plate that every thread passes. */
function normPlate(pen: Pen, x: number, rows: Rows, ink: Ink): void {
  const height = rows.count * rows.height
  pen.fillStyle = ink.plate
  pen.strokeStyle = ink.line
  pen.lineWidth = 1
  pen.fillRect(x - 3, 0.5, 6, height - 1)
  pen.strokeRect(x - 2.5, 0.5, 5, height - 1)
}

/**
 * After the last block: the final norm, where every thread but the chosen one ends, and the delta, in which the chosen
 * one opens into the vocabulary. `mouths` are the rows of the distribution: y, and the share of the probability.
 */
export function paintDelta(
  pen: Pen,
  width: number,
  ink: Ink,
  run: Recording,
  rows: Rows,
  chosen: number,
  scale: number,
  mouths: { y: number; share: number; kind: 'token' | 'rest' | 'drawn' }[],
): void {
  const place = run.mouth
  const normX = Math.round(width * 0.16)
  const source = Math.round(width * 0.34)
  const height = rows.count * rows.height
  for (const row of inSight(rows)) {
    const y = middle(rows, row)
    const thick = thickness(run, rows, scale, place, row)
    const color = row === chosen ? ink.chosen : ink.thread
    thread(pen, y, 0, normX, thick, thick, color)
    if (row !== chosen) {
      pen.globalAlpha = 0.45
      thread(pen, y, normX, normX + 9, thick, 0.5, color)
      pen.globalAlpha = 1
    }
  }
  normPlate(pen, normX, rows, ink)

  // The delta begins at the end of the chosen thread; or where that lies out of sight, at the edge on its side.
  const side = beyond(rows, chosen)
  const y = side === 0 ? middle(rows, chosen) : side < 0 ? 0 : height
  const full = Math.min(26, Math.max(10, rows.height * 0.8))
  if (side === 0) {
    const thick = thickness(run, rows, scale, place, chosen)
    pen.fillStyle = ink.chosen
    pen.beginPath()
    pen.moveTo(normX + 3, y - thick / 2)
    pen.bezierCurveTo(source - 8, y - thick / 2, source - 8, y - full / 2, source, y - full / 2)
    pen.lineTo(source, y + full / 2)
    pen.bezierCurveTo(source - 8, y + full / 2, source - 8, y + thick / 2, normX + 3, y + thick / 2)
    pen.closePath()
    pen.fill()
  }

  let from = y - full / 2
  const bend = (width - source) / 2
  for (const mouth of mouths) {
    const thin = mouth.share * full
    if (thin > 0) {
      const [a0, a1] = [from, from + thin]
      const shown = Math.max(thin, 0.7)
      const [b0, b1] = [mouth.y - shown / 2, mouth.y + shown / 2]
      pen.fillStyle = mouth.kind === 'drawn' ? ink.drawn : mouth.kind === 'rest' ? ink.thread : ink.chosen
      pen.globalAlpha = mouth.kind === 'drawn' ? 1 : 0.62
      pen.beginPath()
      pen.moveTo(source, a0)
      pen.bezierCurveTo(source + bend, a0, width - bend, b0, width, b0)
      pen.lineTo(width, b1)
      pen.bezierCurveTo(width - bend, b1, source + bend, Math.max(a1, a0 + 0.5), source, Math.max(a1, a0 + 0.5))
      pen.closePath()
      pen.fill()
    }
    from += thin
  }
  pen.globalAlpha = 1
}
