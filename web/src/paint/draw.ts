// The draw: probabilities laid end to end in id order, and the needle at u.

import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

/** A part of the bar: one token, or neighbours in id order, each too narrow to be seen by itself. */
export interface Stretch {
  /** The first and the last token id with any probability. */
  first: number
  last: number
  tokens: number
  from: number
  to: number
}

/** The bar cut into parts: tokens below `least` are gathered; `apart` stands by itself however narrow it is. */
export function stretches(probabilities: Float64Array, least: number, apart: number): Stretch[] {
  const found: Stretch[] = []
  let from = 0
  let open = false // the last part takes in narrow neighbours
  for (let id = 0; id < probabilities.length; id++) {
    const p = probabilities[id]
    if (p === 0) continue
    const narrow = p < least && id !== apart
    const last = found.at(-1)
    if (narrow && open && last) {
      last.last = id
      last.tokens++
      last.to = from + p
    } else found.push({ first: id, last: id, tokens: 1, from, to: from + p })
    open = narrow
    from += p
  }
  return found
}

/** The part that holds the point `share` of the way along the bar. */
export function stretchAt(parts: Stretch[], share: number): number {
  const found = parts.findIndex((part) => part.to > share)
  return found < 0 ? parts.length - 1 : found
}

interface DrawPicture {
  parts: Stretch[]
  next: { id: number; u: number | null }
  /** The part under the pointer or the keyboard cursor. */
  lit: number | null
  /** What is written into a part that has room. */
  label: (part: Stretch) => string
}

export function paintDraw(pen: Pen, width: number, height: number, ink: Ink, picture: DrawPicture): void {
  const { parts, next, lit, label } = picture
  const top = 14
  const tall = height - top - 4
  const lies = (part: Stretch) => part.tokens === 1 && part.first === next.id
  pen.fillStyle = ink.plate
  pen.fillRect(0, top, width, tall)
  pen.textAlign = 'center'
  pen.textBaseline = 'middle'
  parts.forEach((part, i) => {
    const [x, wide] = [part.from * width, (part.to - part.from) * width]
    const drawn = lies(part)
    pen.fillStyle = drawn ? ink.drawn : ink.data[part.tokens > 1 ? 34 : 96]
    pen.fillRect(x, top, drawn ? Math.max(1.5, wide) : wide, tall)
    if (wide > 3) {
      pen.fillStyle = ink.paper
      pen.fillRect(x + wide - 0.5, top, 1, tall)
    }
    if (i === lit) {
      pen.strokeStyle = ink.ink
      pen.lineWidth = 2
      pen.strokeRect(x + 1, top + 1, Math.max(1, wide - 2), tall - 2)
    }
  })
  for (const part of parts) {
    const wide = (part.to - part.from) * width
    if (wide < 26) continue
    pen.font = part.tokens > 1 ? `italic 400 13px ${ink.serif}` : `500 15px ${ink.serif}`
    const text = label(part)
    if (pen.measureText(text).width > wide - 8) continue
    pen.fillStyle = lies(part) ? '#23252b' : part.tokens > 1 ? ink.soft : ink.ink
    pen.fillText(text, ((part.from + part.to) / 2) * width, top + tall / 2 + 1)
  }
  pen.strokeStyle = ink.line
  pen.lineWidth = 1
  pen.strokeRect(0.5, top + 0.5, width - 1, tall - 1)

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
