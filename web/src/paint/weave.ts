// The weave: every token a thread running through the blocks, as thick as its residual stream is long.

import type { Run } from '../run'
import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

/** The rows on screen: tokens `first` to `first + count - 1`, each `height` pixels high. */
export interface Rows {
  first: number
  count: number
  height: number
}

export const middle = (rows: Rows, token: number) => (token - rows.first + 0.5) * rows.height

/** Thread thickness in pixels per unit of norm: the longest vector apart from the first token's fills 0.4 of a row. */
export function threadScale(run: Run, rows: Rows): number {
  let longest = 0
  for (let place = 0; place <= 2 * run.blocks.length; place++)
    for (let t = Math.min(1, run.length - 1); t < run.length; t++) longest = Math.max(longest, run.norm(place, t))
  return longest > 0 ? Math.min(0.4 * rows.height, 13) / longest : 0
}

export function thickness(run: Run, rows: Rows, scale: number, place: number, token: number): number {
  const width = run.norm(place, token) * scale
  return Number.isNaN(width) ? 1 : Math.min(0.55 * rows.height, Math.max(0.6, width))
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

/** Where the parts of a block stand, in a box of this width. */
export interface BlockShape {
  attention: [number, number]
  firstSum: number
  mlp: [number, number]
  secondSum: number
}

export function blockShape(width: number): BlockShape {
  const gap = Math.max(7, width * 0.045)
  const plates = width - 4.6 * gap
  const attention: [number, number] = [gap, gap + 0.56 * plates]
  const firstSum = attention[1] + 0.8 * gap
  const mlp: [number, number] = [firstSum + 1.1 * gap, firstSum + 1.1 * gap + 0.44 * plates]
  return { attention, firstSum, mlp, secondSum: mlp[1] + 0.8 * gap }
}

export interface BlockView {
  run: Run
  layer: number
  head: number
  rows: Rows
  chosen: number
  /** A row, or one ribbon of it, that the pointer or the keyboard is on. */
  lit: { to: number; from: number | null } | null
  scale: number
}

/** The chosen token's thread is dark, and so is the last one's, which leads to the next token. */
const threadColor = (ink: Ink, run: Run, token: number, chosen: number) =>
  token === chosen || token === run.length - 1 ? ink.chosen : ink.thread

export function paintBlock(pen: Pen, width: number, height: number, ink: Ink, view: BlockView): void {
  const { run, layer, rows, chosen, scale } = view
  const shape = blockShape(width)
  const last = rows.first + rows.count
  const tokens = [...Array(rows.count).keys()].map((i) => rows.first + i).filter((t) => t !== chosen)
  if (chosen >= rows.first && chosen < last) tokens.push(chosen) // the chosen thread lies on top

  plate(pen, shape.attention, height, ink)
  plate(pen, shape.mlp, height, ink)

  for (const t of tokens) {
    const y = middle(rows, t)
    const color = threadColor(ink, run, t, chosen)
    const thick = (place: number) => thickness(run, rows, scale, place, t)
    const [before, between, after] = [thick(2 * layer), thick(2 * layer + 1), thick(2 * layer + 2)]
    thread(pen, y, 0, shape.attention[0], before, before, color)
    behind(pen, y, shape.attention, before, color)
    thread(pen, y, shape.attention[1], shape.firstSum, before, before, color)
    thread(pen, y, shape.firstSum, shape.mlp[0], before, between, color)
    behind(pen, y, shape.mlp, between, color)
    thread(pen, y, shape.mlp[1], shape.secondSum, between, between, color)
    thread(pen, y, shape.secondSum, width, between, after, color)
  }

  for (const ribbon of ribbons(view)) paintRibbon(pen, ribbon, shape.attention, rows, ink, view)
  const most = largestHidden(run, layer)
  for (const t of tokens) {
    const values = run.hidden(layer, t)
    const color = threadColor(ink, run, t, chosen)
    if (values) paintStrokes(pen, values, most, shape.mlp, middle(rows, t), rows.height, color)
    sum(pen, shape.firstSum, middle(rows, t), rows, color, ink)
    sum(pen, shape.secondSum, middle(rows, t), rows, color, ink)
  }
}

/** The stream goes on behind a plate: the plate's work branches off it and is added back. */
function behind(pen: Pen, y: number, [x0, x1]: [number, number], thick: number, color: string): void {
  pen.globalAlpha = 0.2
  thread(pen, y, x0, x1, thick, thick, color)
  pen.globalAlpha = 1
}

function plate(pen: Pen, [x0, x1]: [number, number], height: number, ink: Ink): void {
  pen.fillStyle = ink.plate
  pen.strokeStyle = ink.line
  pen.lineWidth = 1
  pen.fillRect(x0, 0.5, x1 - x0, height - 1)
  pen.strokeRect(Math.round(x0) + 0.5, 0.5, Math.round(x1 - x0), height - 1)
}

/** What one token reads from another, as drawn: `weight` is the entry of the pattern. */
export interface Ribbon {
  to: number
  from: number
  weight: number
}

const faintest = 0.02

/** The visible ribbons of a head, the chosen and lit rows last so that they lie on top. */
export function ribbons(view: BlockView): Ribbon[] {
  const { run, layer, head, rows, chosen, lit } = view
  const pattern = run.pattern(layer, head)
  if (!pattern) return []
  const length = run.length
  const found: Ribbon[] = []
  for (let to = rows.first; to < rows.first + rows.count; to++)
    for (let from = 0; from < length; from++) {
      const weight = pattern[to * length + from]
      if (weight >= faintest) found.push({ to, from, weight })
    }
  const rank = (r: Ribbon) => (lit && r.to === lit.to ? 2 : r.to === chosen ? 1 : 0)
  return found.sort((a, b) => rank(a) - rank(b))
}

/** The middle line of a ribbon: leaves the thread it reads from, arrives at the thread that reads. */
export function ribbonY(ribbon: Ribbon, rows: Rows, t: number): number {
  const [y0, y1] = [middle(rows, ribbon.from), middle(rows, ribbon.to)]
  if (ribbon.from === ribbon.to) return y0 + 0.34 * rows.height * 4 * t * (1 - t) * 0.75 // a token reading itself: a sag
  return y0 + (y1 - y0) * (t * t * (3 - 2 * t))
}

function paintRibbon(pen: Pen, ribbon: Ribbon, [x0, x1]: [number, number], rows: Rows, ink: Ink, view: BlockView): void {
  const { lit, chosen } = view
  const strong = lit ? lit.to === ribbon.to && (lit.from === null || lit.from === ribbon.from) : ribbon.to === chosen
  const [y0, y1] = [middle(rows, ribbon.from), middle(rows, ribbon.to)]
  pen.strokeStyle = ink.value
  pen.globalAlpha = strong ? 0.85 : lit && ribbon.to === lit.to ? 0.3 : 0.14
  pen.lineWidth = Math.max(0.5, ribbon.weight * Math.min(10, 0.34 * rows.height))
  pen.beginPath()
  pen.moveTo(x0, y0)
  const [a, b] = [x0 + (x1 - x0) / 3, x0 + (2 * (x1 - x0)) / 3]
  if (ribbon.from === ribbon.to) {
    const sag = 0.34 * rows.height
    pen.bezierCurveTo(a, y0 + sag, b, y0 + sag, x1, y0)
  } else {
    const half = (x0 + x1) / 2
    pen.bezierCurveTo(half, y0, half, y1, x1, y1)
  }
  pen.stroke()
  pen.globalAlpha = 1
}

/**
 * The scale that the strips of one tensor share: its largest magnitude apart from the first token's, whose activations
 * are often a hundred times everyone else's (they are cut off at the edge of the row).
 */
export function largest(values: Float32Array | null | undefined, perToken: number): number {
  if (!values) return 0
  let most = 0
  for (let i = values.length > perToken ? perToken : 0; i < values.length; i++) most = Math.max(most, Math.abs(values[i]))
  return most
}

export function largestHidden(run: Run, layer: number): number {
  const whole = run.held(`blocks.${layer}.mlp.hidden`)?.data
  return largest(whole ?? run.hidden(layer, run.length - 1), run.blocks[layer].mlp.hidden)
}

const inset = 4 // pixels between a plate's edge and its first stroke

/** How many strokes `count` values make between x0 and x1: at most one and a half a pixel. */
const strokesIn = (count: number, [x0, x1]: [number, number]) =>
  Math.max(1, Math.min(count, Math.floor(1.5 * (x1 - x0 - 2 * inset))))

/** The values that share a stroke: from `first` up to, not including, `end`. */
const sharing = (stroke: number, strokes: number, count: number) => {
  const first = Math.floor((stroke * count) / strokes)
  return { first, end: Math.max(first + 1, Math.floor(((stroke + 1) * count) / strokes)) }
}

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
  for (let stroke = 0; stroke < strokes; stroke++) {
    const { first, end } = sharing(stroke, strokes, values.length)
    let up = 0
    let down = 0
    for (let i = first; i < end; i++) {
      up = Math.max(up, values[i])
      down = Math.min(down, values[i])
    }
    const [top, bottom] = [Math.min(1, up / most) * reach, Math.max(-1, down / most) * reach]
    if (top - bottom < 0.15) continue
    pen.fillRect(x0 + inset + stroke * step, y - top, Math.max(0.55, step * 0.8), top - bottom)
  }
}

/** The value whose stroke is at x: of those that share it, the largest; and which ones share it. */
export function strokeAt(values: Float32Array, [x0, x1]: [number, number], x: number): { index: number; first: number; last: number } {
  const strokes = strokesIn(values.length, [x0, x1])
  const at = Math.floor(((x - x0 - inset) / (x1 - x0 - 2 * inset)) * strokes)
  const { first, end } = sharing(Math.max(0, Math.min(strokes - 1, at)), strokes, values.length)
  let index = first
  for (let i = first; i < end; i++) if (Math.abs(values[i]) > Math.abs(values[index])) index = i
  return { index, first, last: end - 1 }
}

/** Where the stroke of value `index` stands. */
export function strokeX(values: Float32Array, [x0, x1]: [number, number], index: number): number {
  return x0 + inset + ((index + 0.5) / values.length) * (x1 - x0 - 2 * inset)
}

/** A branch joins the stream again: a circled plus. */
function sum(pen: Pen, x: number, y: number, rows: Rows, color: string, ink: Ink): void {
  const radius = Math.min(4.2, rows.height * 0.16)
  pen.fillStyle = ink.paper
  pen.strokeStyle = color
  pen.lineWidth = 1.1
  pen.beginPath()
  pen.arc(x, y, radius, 0, 2 * Math.PI)
  pen.fill()
  pen.stroke()
  pen.beginPath()
  pen.moveTo(x - radius * 0.55, y)
  pen.lineTo(x + radius * 0.55, y)
  pen.moveTo(x, y - radius * 0.55)
  pen.lineTo(x, y + radius * 0.55)
  pen.stroke()
}

/** Where the strokes of the embedding stand, in a box of this width; then the threads begin. */
export const embeddingStrip = (width: number): [number, number] => [0, width - 16]

/** Embedding rows, one strip of strokes a token, and the threads that begin there. */
export function paintEmbedding(pen: Pen, width: number, ink: Ink, run: Run, rows: Rows, chosen: number, scale: number): void {
  const embed = run.held('embed')
  const [start, end] = embeddingStrip(width)
  const most = largest(embed?.data, embed?.shape[1] ?? 1)
  for (let t = rows.first; t < rows.first + rows.count; t++) {
    const y = middle(rows, t)
    const color = threadColor(ink, run, t, chosen)
    if (embed) {
      const size = embed.shape[1]
      paintStrokes(pen, embed.data.subarray(t * size, (t + 1) * size), most, [start, end], y, rows.height, color)
    }
    thread(pen, y, end, width, 0.5, thickness(run, rows, scale, 0, t), color)
  }
}

/**
 * After the last block: the final norm, where every thread but the chosen one ends, and the delta, in which the chosen
 * one opens into the vocabulary. `mouths` are the rows of the distribution: y, and the share of the probability.
 */
export function paintDelta(
  pen: Pen,
  width: number,
  ink: Ink,
  run: Run,
  rows: Rows,
  chosen: number,
  scale: number,
  mouths: { y: number; share: number; kind: 'token' | 'rest' | 'drawn' }[],
): void {
  const place = 2 * run.blocks.length
  const normX = Math.round(width * 0.16)
  const source = Math.round(width * 0.34)
  const height = rows.count * rows.height
  for (let t = rows.first; t < rows.first + rows.count; t++) {
    const y = middle(rows, t)
    const thick = thickness(run, rows, scale, place, t)
    const color = t === chosen ? ink.chosen : ink.thread
    thread(pen, y, 0, normX, thick, thick, color)
    if (t !== chosen) {
      pen.globalAlpha = 0.45
      thread(pen, y, normX, normX + 9, thick, 0.5, color)
      pen.globalAlpha = 1
    }
  }
  pen.fillStyle = ink.plate
  pen.strokeStyle = ink.line
  pen.fillRect(normX - 3, 0.5, 6, height - 1)
  pen.strokeRect(normX - 2.5, 0.5, 5, height - 1)

  if (chosen < rows.first || chosen >= rows.first + rows.count) return
  const y = middle(rows, chosen)
  const full = Math.min(26, rows.height * 0.8)
  const thick = thickness(run, rows, scale, place, chosen)
  pen.fillStyle = ink.chosen
  pen.beginPath()
  pen.moveTo(normX + 3, y - thick / 2)
  pen.bezierCurveTo(source - 8, y - thick / 2, source - 8, y - full / 2, source, y - full / 2)
  pen.lineTo(source, y + full / 2)
  pen.bezierCurveTo(source - 8, y + full / 2, source - 8, y + thick / 2, normX + 3, y + thick / 2)
  pen.closePath()
  pen.fill()

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
