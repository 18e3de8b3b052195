// The logit lens: at each stop of the river the likeliest tokens, one cell each, and through them the rank of the token
// that is likeliest at the end, as a ribbon as thick as its probability there. Stops run along, ranks across; on a
// narrow screen along is down.

import { shade, type Ink } from './ink'

type Pen = CanvasRenderingContext2D

export interface LensShape {
  narrow: boolean
  /** Cells a stop shows. */
  ranks: number
  /** From one stop to the next, and how much of that its cells take. */
  pitch: number
  long: number
  /** A cell across, the gap between two stops' cells included, and the room for ranks beyond the last cell. */
  across: number
  deep: number
  /** How many tokens there are to be ranked. */
  vocabulary: number
}

export interface LensView {
  shape: LensShape
  /** The stops shown, as the record counts them. */
  stops: number[]
  p(stop: number, k: number): number
  /** Of the token that is likeliest at the end. */
  rank(stop: number): number
  final(stop: number): number
  /** Length of the stream at a stop, as a share of its largest. */
  norm(stop: number): number
  lit: { place: number; k: number } | null
}

/**
 * Tints stop short of where words on them would be hard to read, and go by the root, so that one percent can be told from
 * ten; the line in each cell is to scale.
 */
const darkest = 0.4
const head = 34 // pixels for the river itself

export const headOf = (shape: LensShape) => (shape.narrow ? 0 : head)

/** Where the cell of the stop at `place` for rank `k` lies. */
export function cellBox(shape: LensShape, place: number, k: number): { x: number; y: number; w: number; h: number } {
  const { narrow, pitch, long, across } = shape
  const along = place * pitch + (pitch - long) / 2
  const cross = headOf(shape) + k * across
  return narrow ? { x: cross, y: along, w: across - 3, h: long } : { x: along, y: cross, w: long, h: across - 3 }
}

/** Across: the middle of a rank's cell; beyond the cells a logarithmic scale down to the last token of all. */
export function rankAt(shape: LensShape, rank: number): number {
  const { ranks, across, deep, vocabulary } = shape
  if (rank < ranks) return headOf(shape) + (rank + 0.5) * across - 1.5
  const share = Math.log((rank + 1) / ranks) / Math.log(vocabulary / ranks)
  return headOf(shape) + ranks * across + 8 + share * (deep - 16)
}

export const depth = (shape: LensShape) => headOf(shape) + shape.ranks * shape.across + shape.deep

/** The cell at a point; k is null in the river and beyond the ranks that have cells. */
export function cellAt(shape: LensShape, stops: number, x: number, y: number): { place: number; k: number | null } {
  const [along, cross] = shape.narrow ? [y, x] : [x, y]
  const place = Math.max(0, Math.min(stops - 1, Math.floor(along / shape.pitch)))
  const k = Math.floor((cross - headOf(shape)) / shape.across)
  return { place, k: k >= 0 && k < shape.ranks ? k : null }
}

export function paintLens(pen: Pen, ink: Ink, view: LensView): void {
  const { shape, stops, lit } = view
  if (!shape.narrow) paintRiver(pen, ink, view)
  paintTrack(pen, ink, view)
  stops.forEach((stop, place) => {
    for (let k = 0; k < shape.ranks; k++) {
      const { x, y, w, h } = cellBox(shape, place, k)
      const p = view.p(stop, k)
      pen.fillStyle = shade(ink, darkest * Math.sqrt(p))
      pen.fillRect(x, y, w, h)
      pen.fillStyle = ink.chosen
      pen.fillRect(x, y + h - 2, Math.max(0.5, p * w), 2)
      if (k === view.rank(stop)) {
        pen.strokeStyle = ink.chosen
        pen.lineWidth = 1.5
        pen.strokeRect(x + 0.75, y + 0.75, w - 1.5, h - 1.5)
      }
    }
  })
  if (!lit) return
  const { x, y, w, h } = cellBox(shape, lit.place, lit.k)
  pen.strokeStyle = ink.ink
  pen.lineWidth = 2
  pen.strokeRect(x - 1, y - 1, w + 2, h + 2)
}

/** The stream itself above the stops, as thick as it is long; what each branch made joins it at a circled plus. */
function paintRiver(pen: Pen, ink: Ink, { shape, stops, norm }: LensView): void {
  const y = head / 2 - 4
  const x = (place: number) => (place + 0.5) * shape.pitch
  const thick = (place: number) => 1 + 13 * norm(stops[place])
  pen.fillStyle = ink.thread
  for (let place = 0; place + 1 < stops.length; place++) {
    pen.beginPath()
    pen.moveTo(x(place), y - thick(place) / 2)
    pen.lineTo(x(place + 1), y - thick(place + 1) / 2)
    pen.lineTo(x(place + 1), y + thick(place + 1) / 2)
    pen.lineTo(x(place), y + thick(place) / 2)
    pen.closePath()
    pen.fill()
  }
  stops.forEach((stop, place) => {
    const radius = 5.2
    pen.fillStyle = ink.paper
    pen.strokeStyle = ink.chosen
    pen.lineWidth = 1.2
    pen.beginPath()
    pen.arc(x(place), y, radius, 0, 2 * Math.PI)
    pen.fill()
    pen.stroke()
    pen.fillStyle = ink.line
    pen.fillRect(x(place) - 0.5, y + radius, 1, head - y - radius - 1)
    if (stop === 0) return
    pen.beginPath()
    pen.moveTo(x(place) - 3, y)
    pen.lineTo(x(place) + 3, y)
    pen.moveTo(x(place), y - 3)
    pen.lineTo(x(place), y + 3)
    pen.stroke()
  })
}

/** The rank of the token that is likeliest at the end, from stop to stop. */
function paintTrack(pen: Pen, ink: Ink, { shape, stops, rank, final }: LensView): void {
  const { narrow, pitch, long, across } = shape
  const point = (along: number, cross: number): [number, number] => (narrow ? [cross, along] : [along, cross])
  const half = (stop: number) => Math.max(1.1, final(stop) * (across - 3)) / 2
  pen.fillStyle = ink.chosen
  for (let place = 0; place < stops.length; place++) {
    const stop = stops[place]
    const cross = rankAt(shape, rank(stop))
    const [start, end] = [place * pitch + (pitch - long) / 2, place * pitch + (pitch + long) / 2]
    if (rank(stop) >= shape.ranks) {
      pen.globalAlpha = 0.75
      const [x, y] = point(start, cross - half(stop))
      pen.fillRect(x, y, narrow ? 2 * half(stop) : long, narrow ? long : 2 * half(stop))
      const [cx, cy] = point((start + end) / 2, cross)
      pen.beginPath()
      pen.arc(cx, cy, 3, 0, 2 * Math.PI)
      pen.fill()
      pen.globalAlpha = 1
    }
    const next = stops[place + 1]
    if (next === undefined) continue
    const [to, there] = [rankAt(shape, rank(next)), end + pitch - long]
    const bend = (end + there) / 2
    pen.globalAlpha = 0.75
    pen.beginPath()
    pen.moveTo(...point(end, cross - half(stop)))
    pen.bezierCurveTo(...point(bend, cross - half(stop)), ...point(bend, to - half(next)), ...point(there, to - half(next)))
    pen.lineTo(...point(there, to + half(next)))
    pen.bezierCurveTo(...point(bend, to + half(next)), ...point(bend, cross + half(stop)), ...point(end, cross + half(stop)))
    pen.closePath()
    pen.fill()
    pen.globalAlpha = 1
  }
}
