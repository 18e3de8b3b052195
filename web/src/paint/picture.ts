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
  // Light around dark, to be seen on any picture.
  for (const [token, color] of [[view.lit, ink.value], [view.chosen, ink.chosen]] as const) {
    const at = token === null ? null : patchOf(picture, token)
    if (!at) continue
    for (const [line, inset, width] of [[ink.paper, 0, 4], [color, 1, 2]] as const) {
      const edge = inset + width / 2
      pen.strokeStyle = line
      pen.lineWidth = width
      pen.strokeRect(at.x * unit + edge, at.y * unit + edge, patch * unit - 2 * edge, patch * unit - 2 * edge)
    }
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
