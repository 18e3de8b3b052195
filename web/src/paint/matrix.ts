// Attention as a square: who reads, whom they read, one cell each. `turned`: readers are the columns instead of the rows.

import type { Span } from '../heads'
import { shade, type Ink } from './ink'

type Pen = CanvasRenderingContext2D

/** Which tokens the square shows, and how they lie. */
export interface Sheet {
  readers: Span
  reads: Span
  turned: boolean
}

interface MatrixView extends Sheet {
  /** The number of a cell; undefined while it is on its way. */
  value(to: number, from: number): number | undefined
  /** The magnitude that is drawn darkest. */
  most: number
  /** Cells behind the mask, which are hatched. Null: nothing is masked yet. */
  masked: ((to: number, from: number) => boolean) | null
  /** Write what stands in a masked cell, where there is room. */
  written?: string
}

export interface Cell {
  to: number
  from: number
}

/** A query sees its own and, if causal, earlier tokens only, and of these the newest `window`. */
export const isMasked = (to: number, from: number, causal: boolean, window: number | null) =>
  (causal && from > to) || (window !== null && Math.abs(to - from) >= window)

const count = (span: Span) => span.end - span.first

/** Columns and rows of the square as it lies. */
const sides = (sheet: Sheet): { across: Span; down: Span } =>
  sheet.turned ? { across: sheet.readers, down: sheet.reads } : { across: sheet.reads, down: sheet.readers }

/** Where a cell lies: its corner and its size. */
export function cellBox(sheet: Sheet, width: number, height: number, { to, from }: Cell) {
  const { across, down } = sides(sheet)
  const [w, h] = [width / count(across), height / count(down)]
  const [column, row] = sheet.turned ? [to, from] : [from, to]
  return { x: (column - across.first) * w, y: (row - down.first) * h, w, h }
}

/** The cell at a point, the nearest one outside. */
export function cellAt(sheet: Sheet, width: number, height: number, x: number, y: number): Cell {
  const { across, down } = sides(sheet)
  const at = (span: Span, share: number) => span.first + Math.max(0, Math.min(count(span) - 1, Math.floor(share * count(span))))
  const [column, row] = [at(across, x / width), at(down, y / height)]
  return sheet.turned ? { to: column, from: row } : { to: row, from: column }
}

/** The cell one step further on the screen. */
export function neighbour(sheet: Sheet, { to, from }: Cell, right: number, down: number): Cell {
  return sheet.turned ? { to: to + right, from: from + down } : { to: to + down, from: from + right }
}

export function paintMatrix(pen: Pen, width: number, height: number, ink: Ink, view: MatrixView): void {
  const { readers, reads, masked } = view
  const { w, h } = cellBox(view, width, height, { to: 0, from: 0 })
  const gap = Math.min(w, h) > 7 ? 1 : 0
  for (let to = readers.first; to < readers.end; to++)
    for (let from = reads.first; from < reads.end; from++) {
      if (masked?.(to, from)) continue
      const value = view.value(to, from)
      if (value === undefined) continue
      const { x, y } = cellBox(view, width, height, { to, from })
      const share = view.most > 0 ? Math.abs(value) / view.most : 0
      pen.fillStyle = shade(ink, share)
      pen.fillRect(x, y, w - gap, h - gap)
      if (value < 0) minus(pen, x, y, w - gap, h - gap, share > 0.5 ? ink.plate : ink.data[255])
    }
  if (masked && Math.min(w, h) > 3) hatch(pen, width, height, ink, view)
}

/** A number below zero carries its sign: shade tells only how far it is from zero. */
function minus(pen: Pen, x: number, y: number, w: number, h: number, color: string): void {
  if (w < 4) return
  pen.fillStyle = color
  const thick = Math.max(0.8, Math.min(1.4, h / 10))
  pen.fillRect(x + 0.27 * w, y + (h - thick) / 2, 0.46 * w, thick)
}

/** Cells behind the mask: an engraver's hatching, in one sheet of lines. */
function hatch(pen: Pen, width: number, height: number, ink: Ink, view: MatrixView): void {
  const boxes = []
  for (let to = view.readers.first; to < view.readers.end; to++)
    for (let from = view.reads.first; from < view.reads.end; from++)
      if (view.masked!(to, from)) boxes.push(cellBox(view, width, height, { to, from }))
  if (boxes.length === 0) return
  pen.save()
  pen.beginPath()
  for (const { x, y, w, h } of boxes) pen.rect(x, y, w, h)
  pen.clip()
  pen.strokeStyle = ink.line
  pen.lineWidth = 0.7
  pen.beginPath()
  for (let d = 2.5; d < width + height; d += 5) {
    pen.moveTo(d, 0)
    pen.lineTo(d - height, height)
  }
  pen.stroke()
  pen.restore()
  if (!view.written || boxes[0].w < 19) return
  pen.font = `11px ${ink.serif}`
  pen.textAlign = 'center'
  pen.textBaseline = 'middle'
  for (const { x, y, w, h } of boxes) {
    pen.fillStyle = ink.plate
    pen.fillRect(x + w / 2 - 9, y + h / 2 - 6, 18, 12)
    pen.fillStyle = ink.soft
    pen.fillText(view.written, x + w / 2, y + h / 2)
  }
}

/** What lies over the square: the row of the query, the column of the key, the cell the pointer or the keyboard is on. */
export function paintMarks(pen: Pen, width: number, height: number, ink: Ink, sheet: Sheet, query: number, key: number | null, lit: Cell | null): void {
  const { readers, reads } = sheet
  const line = (a: Cell, b: Cell, color: string, thick: number) => {
    const [from, to] = [cellBox(sheet, width, height, a), cellBox(sheet, width, height, b)]
    pen.strokeStyle = color
    pen.lineWidth = thick
    pen.strokeRect(from.x - 0.5, from.y - 0.5, to.x + to.w - from.x, to.y + to.h - from.y)
  }
  const inside = (span: Span, token: number) => token >= span.first && token < span.end
  if (key !== null && inside(reads, key)) line({ to: readers.first, from: key }, { to: readers.end - 1, from: key }, ink.key, 1)
  if (inside(readers, query)) line({ to: query, from: reads.first }, { to: query, from: reads.end - 1 }, ink.query, 1.5)
  if (lit && inside(readers, lit.to) && inside(reads, lit.from)) line(lit, lit, ink.ink, 2)
}

/** Of a whole text in small: the part that is shown large. */
export function paintFrame(pen: Pen, width: number, height: number, ink: Ink, whole: Sheet, part: Sheet): void {
  const a = cellBox(whole, width, height, { to: part.readers.first, from: part.reads.first })
  const b = cellBox(whole, width, height, { to: part.readers.end, from: part.reads.end })
  pen.strokeStyle = ink.ink
  pen.lineWidth = 1.5
  pen.strokeRect(Math.max(0.75, a.x), Math.max(0.75, a.y), Math.min(width - 1.5, b.x) - Math.max(0, a.x), Math.min(height - 1.5, b.y) - Math.max(0, a.y))
}

/** The scale of a square: from none to most, and below zero with its sign. */
export function paintScale(pen: Pen, width: number, height: number, ink: Ink, signed: boolean): void {
  const steps = signed ? 11 : 6
  for (let i = 0; i < steps; i++) {
    const share = signed ? (i - 5) / 5 : i / 5
    const [x, w] = [(i * width) / steps, width / steps - 1]
    pen.fillStyle = shade(ink, Math.abs(share))
    pen.fillRect(x, 0, w, height)
    if (share < 0) minus(pen, x, 0, w, height, share < -0.5 ? ink.plate : ink.data[255])
  }
}
