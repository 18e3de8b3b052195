// A picture with what a token reads from it: patches that are read stand clear, the others behind a veil.

import { patchOf, type Picture } from '../picture'
import type { Ink } from './ink'

export interface PictureView {
  /** A share for each token; null: the picture as it is. */
  weights: ArrayLike<number> | null
  /** The share at which a patch stands wholly clear. */
  most: number
  /** The token that reads, and the one the pointer is on. */
  chosen: number | null
  lit: number | null
}

export function paintPicture(pen: CanvasRenderingContext2D, size: number, ink: Ink, picture: Picture, view: PictureView): void {
  const { side, patch, canvas, first } = picture
  const unit = size / side
  pen.imageSmoothingEnabled = unit < 1
  pen.drawImage(canvas, 0, 0, size, size)
  if (view.weights) {
    pen.fillStyle = ink.paper
    for (let token = first; token < view.weights.length; token++) {
      const { x, y } = patchOf(picture, token)!
      pen.globalAlpha = 0.86 * (1 - Math.min(1, Math.max(0, view.weights[token]) / view.most))
      pen.fillRect(x * unit, y * unit, patch * unit, patch * unit)
    }
    pen.globalAlpha = 1
  }
  for (const [token, color, width] of [[view.lit, ink.value, 1.5], [view.chosen, ink.drawn, 2.5]] as const) {
    const at = token === null ? null : patchOf(picture, token)
    if (!at) continue
    pen.strokeStyle = color
    pen.lineWidth = width
    pen.strokeRect(at.x * unit + width / 2, at.y * unit + width / 2, patch * unit - width, patch * unit - width)
  }
  pen.strokeStyle = ink.line
  pen.lineWidth = 1
  pen.strokeRect(0.5, 0.5, size - 1, size - 1)
}

/** One patch alone. */
export function paintPatch(pen: CanvasRenderingContext2D, size: number, picture: Picture, token: number): void {
  const at = patchOf(picture, token)
  if (!at) return
  pen.imageSmoothingEnabled = picture.patch > size
  pen.drawImage(picture.canvas, at.x, at.y, picture.patch, picture.patch, 0, 0, size, size)
}
