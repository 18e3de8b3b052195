// The draw: probabilities laid end to end in id order, and the needle at u.

import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

export function paintDraw(
  pen: Pen,
  width: number,
  height: number,
  ink: Ink,
  probabilities: Float64Array,
  next: { id: number; u: number | null },
  label: (id: number) => string,
): void {
  const top = 14
  const bottom = height - 4
  pen.fillStyle = ink.plate
  pen.fillRect(0, top, width, bottom - top)
  let from = 0
  let dark = false
  let drawn: [number, number] = [0, 0]
  const names: { text: string; x: number; room: number; on: string }[] = []
  for (let id = 0; id < probabilities.length; id++) {
    const p = probabilities[id]
    if (p === 0) continue
    pen.fillStyle = dark ? ink.data[150] : ink.data[70]
    pen.fillRect(from * width, top, p * width, bottom - top)
    if (id === next.id) drawn = [from, from + p]
    if (p * width > 34) {
      const on = id === next.id ? '#23252b' : dark ? ink.plate : ink.ink
      names.push({ text: label(id), x: (from + p / 2) * width, room: p * width - 8, on })
    }
    dark = !dark
    from += p
  }
  pen.fillStyle = ink.drawn
  pen.fillRect(drawn[0] * width, top, Math.max(1.5, (drawn[1] - drawn[0]) * width), bottom - top)
  pen.font = `500 15px ${ink.serif}`
  pen.textAlign = 'center'
  pen.textBaseline = 'middle'
  for (const name of names) {
    if (pen.measureText(name.text).width > name.room) continue
    pen.fillStyle = name.on
    pen.fillText(name.text, name.x, (top + bottom) / 2 + 1)
  }
  pen.strokeStyle = ink.line
  pen.lineWidth = 1
  pen.strokeRect(0.5, top + 0.5, width - 1, bottom - top - 1)

  if (next.u === null) return
  const x = next.u * width
  pen.strokeStyle = pen.fillStyle = ink.ink
  pen.lineWidth = 1.5
  pen.beginPath()
  pen.moveTo(x, 8)
  pen.lineTo(x, height)
  pen.stroke()
  pen.beginPath()
  pen.moveTo(x - 5, 1)
  pen.lineTo(x + 5, 1)
  pen.lineTo(x, 10)
  pen.closePath()
  pen.fill()
}

/** The token whose stretch of the bar holds the point `share` of the way along it. */
export function segmentAt(probabilities: Float64Array, share: number): { id: number; from: number; to: number } {
  let from = 0
  let found = { id: 0, from: 0, to: 0 }
  for (let id = 0; id < probabilities.length; id++) {
    if (probabilities[id] === 0) continue
    found = { id, from, to: from + probabilities[id] }
    if (found.to > share) return found
    from = found.to
  }
  return found
}
