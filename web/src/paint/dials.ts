// Rotary positions as dials: each pair of numbers is a hand, turned by an angle that depends on the position.

import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

/** Pixels from one dial to the next. */
export const dial = 38
const radius = 16

export const dialsAcross = (width: number) => Math.max(1, Math.floor(width / dial))
export const dialsHeight = (pairs: number, width: number) => Math.ceil(pairs / dialsAcross(width)) * dial

/**
 * Numbers `i` and `i + pairs` turn together. A hand shows their angle, `before` thin, `after` full; the paler, the smaller
 * the pair. `at`: the dial that is read.
 */
export function paintDials(
  pen: Pen,
  width: number,
  ink: Ink,
  color: string,
  pairs: number,
  before: ArrayLike<number>,
  after: ArrayLike<number>,
  at: number | null,
): void {
  let longest = 0
  for (let i = 0; i < pairs; i++) longest = Math.max(longest, Math.hypot(after[i], after[i + pairs]))
  const across = dialsAcross(width)
  for (let i = 0; i < pairs; i++) {
    const x = ((i % across) + 0.5) * dial
    const y = (Math.floor(i / across) + 0.5) * dial
    pen.strokeStyle = i === at ? ink.ink : ink.line
    pen.lineWidth = i === at ? 1.5 : 1
    pen.beginPath()
    pen.arc(x, y, radius, 0, 2 * Math.PI)
    pen.stroke()
    const hand = (values: ArrayLike<number>, thick: number) => {
      const size = Math.hypot(values[i], values[i + pairs])
      if (size === 0) return
      pen.globalAlpha = 0.3 + 0.7 * (size / longest)
      pen.lineWidth = thick
      pen.beginPath()
      pen.moveTo(x, y)
      pen.lineTo(x + (values[i] / size) * (radius - 1), y - (values[i + pairs] / size) * (radius - 1))
      pen.stroke()
      pen.globalAlpha = 1
    }
    pen.strokeStyle = color
    hand(before, 0.9)
    hand(after, 2.4)
  }
}
