// An attention pattern as a square: rows read, columns are read from.

import { shade, type Ink } from './ink'

type Pen = CanvasRenderingContext2D

export interface MatrixView {
  /** (T, T), row by row. */
  pattern: Float32Array
  length: number
  /** A query sees its own and earlier tokens only, and of these the newest `window`. */
  causal: boolean
  window: number | null
  chosen: number | null
  lit: { to: number; from: number } | null
}

export const isMasked = (to: number, from: number, causal: boolean, window: number | null) =>
  (causal && from > to) || (window !== null && Math.abs(to - from) >= window)

export function paintMatrix(pen: Pen, width: number, height: number, ink: Ink, view: MatrixView): void {
  const { length } = view
  const cell = Math.min(width, height) / length
  const gap = cell > 7 ? 1 : 0
  for (let to = 0; to < length; to++)
    for (let from = 0; from < length; from++) {
      if (isMasked(to, from, view.causal, view.window)) continue
      const weight = view.pattern[to * length + from]
      pen.fillStyle = shade(ink, weight)
      pen.fillRect(from * cell, to * cell, cell - gap, cell - gap)
    }
  if (cell > 4) hatch(pen, length, cell, ink, view)
  if (view.chosen !== null) frame(pen, 0, view.chosen, Math.min(view.chosen + 1, length), cell, ink.value)
  if (view.lit) frame(pen, view.lit.from, view.lit.to, 1, cell, ink.ink)
}

/** Cells behind the mask hold no number: an engraver's hatching. */
function hatch(pen: Pen, length: number, cell: number, ink: Ink, view: MatrixView): void {
  pen.strokeStyle = ink.line
  pen.lineWidth = 0.6
  pen.beginPath()
  const step = Math.max(3, cell / 5)
  for (let to = 0; to < length; to++)
    for (let from = 0; from < length; from++) {
      if (!isMasked(to, from, view.causal, view.window)) continue
      const [x, y] = [from * cell, to * cell]
      for (let d = step / 2; d < 2 * cell; d += step) {
        const [a, b] = [Math.max(0, d - cell), Math.min(d, cell)]
        pen.moveTo(x + a, y + d - a)
        pen.lineTo(x + b, y + d - b)
      }
    }
  pen.stroke()
}

function frame(pen: Pen, from: number, to: number, span: number, cell: number, color: string): void {
  pen.strokeStyle = color
  pen.lineWidth = 1.5
  pen.strokeRect(from * cell - 0.5, to * cell - 0.5, span * cell, cell)
}
