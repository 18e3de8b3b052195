// Arcs over a line of words: from the word that reads to the words it reads, as thick as the weight.

import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

/** Where a word stands: its middle, and the top and the foot of its line. */
export interface Place {
  x: number
  top: number
  foot: number
}

interface Arc {
  from: Place
  weight: number
  /** The word the pointer is on. */
  lit: boolean
}

/** Weights below this are not drawn. */
export const faintest = 0.01
const thickest = 13

/** The highest an arc rises: lines of words keep this much room between them. */
export const rise = 46

export function paintArcs(pen: Pen, ink: Ink, to: Place, arcs: Arc[]): void {
  for (const { from, weight, lit } of [...arcs].sort((a, b) => a.weight - b.weight)) {
    pen.strokeStyle = ink.value
    pen.globalAlpha = lit ? 1 : 0.3 + 0.5 * Math.min(1, 2 * weight)
    pen.lineWidth = Math.max(0.7, weight * thickest)
    pen.beginPath()
    const [start, one, two, end] = path(to, from)
    pen.moveTo(...start)
    pen.bezierCurveTo(...one, ...two, ...end)
    pen.stroke()
  }
  pen.globalAlpha = 1
}

type Point = [x: number, y: number]

/** On one line an arch above it; to another line a curve that leaves one word's edge and meets the other's squarely. */
export function path(to: Place, from: Place): [Point, Point, Point, Point] {
  if (to === from || (to.x === from.x && to.top === from.top)) {
    const reach = 9
    return [
      [to.x - reach, to.top],
      [to.x - 1.8 * reach, to.top - 26],
      [to.x + 1.8 * reach, to.top - 26],
      [to.x + reach, to.top],
    ]
  }
  if (to.top === from.top) {
    const height = (4 / 3) * Math.min(rise - 8, 12 + 0.16 * Math.abs(to.x - from.x))
    return [
      [to.x, to.top],
      [to.x, to.top - height],
      [from.x, from.top - height],
      [from.x, from.top],
    ]
  }
  const [start, end] = to.top > from.top ? [to.top, from.foot] : [to.foot, from.top]
  const lean = (end - start) * 0.6
  return [
    [to.x, start],
    [to.x, start + lean],
    [from.x, end - lean],
    [from.x, end],
  ]
}
