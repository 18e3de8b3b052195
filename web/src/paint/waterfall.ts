// Numbers added up, one after the other: each stroke begins where the one before ended.

import { number } from '../format'
import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

interface Waterfall {
  values: number[]
  /** `sums[i]`: the first i values together. */
  sums: number[]
  lit: number | null
}

const inset = 4
const margin = 16 // above and below, for the numbers at the end

export const fallX = (count: number, width: number, index: number) => inset + ((index + 0.5) / count) * (width - 2 * inset)
export const fallAt = (count: number, width: number, x: number) =>
  Math.max(0, Math.min(count - 1, Math.floor(((x - inset) / (width - 2 * inset)) * count)))

export function paintWaterfall(pen: Pen, width: number, height: number, ink: Ink, { values, sums, lit }: Waterfall): void {
  let [low, high] = [0, 0]
  for (const sum of sums) [low, high] = [Math.min(low, sum), Math.max(high, sum)]
  const reach = high - low || 1
  const y = (value: number) => margin + ((high - value) / reach) * (height - 2 * margin)
  const step = (width - 2 * inset) / values.length
  const thick = Math.max(0.7, Math.min(step * 0.78, step - 0.6))

  pen.fillStyle = ink.line
  pen.fillRect(0, y(0), width, 0.8)
  if (lit !== null) {
    pen.fillStyle = ink.lit
    pen.fillRect(inset + lit * step, 0, Math.max(1.5, step), height)
  }
  values.forEach((value, i) => {
    const [top, bottom] = [y(Math.max(sums[i], sums[i + 1])), y(Math.min(sums[i], sums[i + 1]))]
    pen.fillStyle = value < 0 ? ink.thread : ink.chosen
    pen.fillRect(inset + i * step, top, thick, Math.max(0.7, bottom - top))
  })

  const end = y(sums[values.length])
  pen.strokeStyle = ink.soft
  pen.lineWidth = 0.8
  pen.setLineDash([2, 3])
  pen.beginPath()
  pen.moveTo(0, end)
  pen.lineTo(width, end)
  pen.stroke()
  pen.setLineDash([])
  pen.font = `12px ${ink.serif}`
  pen.fillStyle = ink.soft
  pen.textAlign = 'right'
  pen.textBaseline = end < y(0) ? 'bottom' : 'top'
  const away = end < y(0) ? -3 : 3
  pen.fillText(number(sums[values.length]), width - 3, end + away)
}
