// Rotary positions as dials: each pair of numbers is a hand, turned by an angle that depends on the position.

import type { Ink } from './ink'

type Pen = CanvasRenderingContext2D

/** Pixels from one dial to the next. */
export const dial = 38
const radius = 16

export const dialsAcross = (width: number) => Math.max(1, Math.floor(width / dial))
export const dialsHeight = (pairs: number, width: number) => Math.ceil(pairs / dialsAcross(width)) * dial

/** Numbers `i` and `i + pairs` turn together. `before` thin, `after` full; `at`: the dial that is read. */
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
      const reach = longest > 0 ? (radius - 1) / longest : 0
      pen.lineWidth = thick
      pen.beginPath()
      pen.moveTo(x, y)
      pen.lineTo(x + values[i] * reach, y - values[i + pairs] * reach)
      pen.stroke()
    }
    pen.strokeStyle = color
    hand(before, 0.8)
    hand(after, 2.2)
  }
}
