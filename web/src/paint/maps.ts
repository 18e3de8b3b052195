// Two small maps: the whole text with the part of it that is in sight, and all blocks with those that are.

import type { Recording } from '../recording'
import type { Ink } from './ink'
import type { Rows } from './weave'

type Pen = CanvasRenderingContext2D

/** Along which side a map of the text stands. */
export type Way = 'down' | 'across'

/** The share of the text that is in sight: from, to. */
export function share(rows: Rows): [number, number] {
  return [rows.first / rows.total, Math.min(1, (rows.first + rows.count) / rows.total)]
}

/**
 * The whole text: how long the vectors are that leave the last block, region by region (the longest of each), and what
 * `reads` (T) puts on each region, the chosen token's weights in one head.
 */
export function paintText(
  pen: Pen,
  width: number,
  height: number,
  ink: Ink,
  run: Recording,
  rows: Rows,
  chosen: number,
  reads: Float32Array | null,
  way: Way,
): void {
  const [along, across] = way === 'down' ? [height, width] : [width, height]
  const bar = (from: number, size: number, low: number, high: number) =>
    way === 'down' ? pen.fillRect(low, from, high - low, size) : pen.fillRect(from, low, size, high - low)
  const regions = Math.max(1, Math.min(run.length, Math.floor(along / 2)))
  const step = along / regions
  const last = run.mouth
  const norms = new Float64Array(regions)
  const weights = new Float64Array(regions)
  for (let t = 0; t < run.length; t++) {
    const region = Math.min(regions - 1, Math.floor((t * regions) / run.length))
    norms[region] = Math.max(norms[region], run.norm(last, t) || 0)
    if (reads) weights[region] += reads[t]
  }
  // As everywhere, the first token's norm does not set the scale.
  const longest = regions > 1 ? norms.subarray(1).reduce((a, b) => Math.max(a, b), 0) : norms[0]
  const most = weights.reduce((a, b) => Math.max(a, b), 0)
  const [from, to] = share(rows)
  pen.fillStyle = ink.plate
  bar(from * along, (to - from) * along, 0, across)
  const half = across * 0.46
  for (let i = 0; i < regions; i++) {
    pen.fillStyle = ink.thread
    bar(i * step, Math.max(0.8, step - 0.6), across / 2 - half, across / 2 - half + Math.min(1, norms[i] / longest) * half)
    if (weights[i] === 0) continue
    pen.fillStyle = ink.value
    const reach = (weights[i] / most) * half
    if (reach > 0.3) bar(i * step, Math.max(1, step - 0.4), across - reach, across)
  }
  pen.fillStyle = ink.chosen
  bar(((chosen + 0.5) / run.length) * along - 1, 2, 0, across)
  pen.strokeStyle = ink.ink
  pen.lineWidth = 1.2
  const size = Math.max(6, (to - from) * along)
  const top = Math.min(along - size, from * along)
  if (way === 'down') pen.strokeRect(0.6, top + 0.6, across - 1.2, size - 1.2)
  else pen.strokeRect(top + 0.6, 0.6, size - 1.2, across - 1.2)
}

/** Where block `layer` stands on the map of the blocks, from and to. */
export function onMap(layer: number, layers: number, width: number): [number, number] {
  const step = width / layers
  const gap = Math.min(4, step * 0.3)
  return [layer * step + gap / 2, (layer + 1) * step - gap / 2]
}

/** The block at x on the map. */
export const blockAt = (x: number, layers: number, width: number) =>
  Math.max(0, Math.min(layers - 1, Math.floor((x / width) * layers)))

/** All blocks as slim plates, and through them the chosen token's stream, as thick as it is long at every stop. */
export function paintBlocks(
  pen: Pen,
  width: number,
  height: number,
  ink: Ink,
  run: Recording,
  token: number,
  seen: [number, number],
  opened: number | null,
): void {
  const layers = run.blocks.length
  const norms = Array.from({ length: run.mouth + 1 }, (_, place) => run.norm(place, token))
  const longest = norms.reduce((a, b) => Math.max(a, b || 0), 0)
  const y = height / 2
  for (let layer = 0; layer < layers; layer++) {
    const [x0, x1] = onMap(layer, layers, width)
    pen.fillStyle = ink.plate
    pen.strokeStyle = layer === opened ? ink.ink : ink.line
    pen.lineWidth = layer === opened ? 1.6 : 1
    pen.fillRect(x0, 3.5, x1 - x0, height - 7)
    pen.strokeRect(x0, 3.5, x1 - x0, height - 7)
  }
  const half = (place: number) => Math.max(0.4, ((norms[place] || 0) / longest) * (height / 2 - 8))
  const x = (place: number) => (place / run.mouth) * width
  pen.fillStyle = ink.chosen
  pen.globalAlpha = 0.85
  pen.beginPath()
  pen.moveTo(0, y - half(0))
  for (let place = 1; place <= run.mouth; place++) pen.lineTo(x(place), y - half(place))
  for (let place = run.mouth; place >= 0; place--) pen.lineTo(x(place), y + half(place))
  pen.closePath()
  pen.fill()
  pen.globalAlpha = 1
  const [from, to] = seen
  pen.strokeStyle = ink.ink
  pen.lineWidth = 1.2
  pen.strokeRect(from * width + 0.6, 0.6, Math.max(8, (to - from) * width) - 1.2, height - 1.2)
}
