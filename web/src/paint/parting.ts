// Two streams that part: two threads, as far apart at each stop as the streams are.

import type { Comparison } from '../server'
import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

export const stopX = (stop: number, stops: number, width: number) => 14 + ((stop + 0.5) / stops) * (width - 28)

/** `inBlock`: how many stops there are from one block to the next. */
export function paintParting(pen: Pen, width: number, height: number, ink: Ink, found: Comparison, inBlock: number, lit: number | null): void {
  const distance = found.distance!
  const stops = distance.length
  const most = Math.max(...distance, 1e-9)
  /** How far each thread stands from the middle, in pixels: the largest distance fills the picture. */
  const reach = (d: number) => (d / most) * (height / 2 - 16)
  const middle = height / 2
  pen.strokeStyle = ink.line
  pen.lineWidth = 1
  for (let stop = 0; stop < stops; stop++) {
    const x = Math.round(stopX(stop, stops, width)) + 0.5
    const blockBegins = stop % inBlock === 0 && stop < stops - 1
    pen.beginPath()
    pen.moveTo(x, blockBegins ? 0 : middle - 3)
    pen.lineTo(x, blockBegins ? height : middle + 3)
    pen.stroke()
  }
  pen.globalAlpha = 0.14
  pen.fillStyle = ink.chosen
  pen.beginPath()
  distance.forEach((d, stop) => pen.lineTo(stopX(stop, stops, width), middle - reach(d)))
  for (let stop = stops - 1; stop >= 0; stop--) pen.lineTo(stopX(stop, stops, width), middle + reach(distance[stop]))
  pen.closePath()
  pen.fill()
  pen.globalAlpha = 1
  for (const side of [-1, 1]) {
    pen.strokeStyle = ink.chosen
    pen.lineWidth = 4
    path(pen, distance.map((d) => height / 2 + side * reach(d)), width)
    if (side < 0) continue
    pen.strokeStyle = ink.plate // B is hollow
    pen.lineWidth = 1.6
    path(pen, distance.map((d) => height / 2 + side * reach(d)), width)
  }
  pen.fillStyle = ink.ink
  pen.font = `600 15px ${ink.serif}`
  pen.textBaseline = 'middle'
  pen.textAlign = 'start'
  const last = reach(distance[stops - 1])
  const x = stopX(stops - 1, stops, width) + 8
  pen.fillText('A', x, middle - Math.max(last, 8))
  pen.fillText('B', x, middle + Math.max(last, 8))
  if (lit === null) return
  const at = stopX(lit, stops, width)
  pen.strokeStyle = ink.ink
  pen.lineWidth = 1.2
  pen.beginPath()
  pen.moveTo(at, middle - reach(distance[lit]))
  pen.lineTo(at, middle + reach(distance[lit]))
  pen.stroke()
}

function path(pen: Pen, ys: number[], width: number): void {
  pen.beginPath()
  ys.forEach((y, stop) => pen.lineTo(stopX(stop, ys.length, width), y))
  pen.stroke()
}
