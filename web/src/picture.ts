// The picture a run read, as it was put before the model: its grey levels again, and where its patches are.

import type { Recording } from './recording'

export interface Picture {
  /** Pixels across, and of a patch's side. */
  side: number
  patch: number
  /** Tokens that stand before the patches. */
  first: number
  canvas: HTMLCanvasElement
}

const known = new WeakMap<Recording, Picture | null>()

/** Null where the run read no picture, or did not bring it along. */
export function pictureOf(run: Recording): Picture | null {
  let picture = known.get(run)
  if (picture === undefined) known.set(run, (picture = made(run)))
  return picture
}

function made(run: Recording): Picture | null {
  const tensor = run.held('image')
  const { patch, extra_tokens: first } = run.spec.stem
  if (!tensor || !patch) return null
  const [channels, side] = tensor.shape
  const { scale, mean, std } = run.header.settings?.image ?? { scale: 1 / 255, mean: [], std: [] }
  const levels = new ImageData(side, side)
  for (let i = 0; i < side * side; i++) {
    for (let c = 0; c < 3; c++) {
      const channel = Math.min(c, channels - 1) // grey is the same in all three
      const value = tensor.data[channel * side * side + i]
      levels.data[4 * i + c] = Math.round((value * (std[channel] ?? 1) + (mean[channel] ?? 0)) / scale)
    }
    levels.data[4 * i + 3] = 255
  }
  const canvas = document.createElement('canvas')
  canvas.width = canvas.height = side
  canvas.getContext('2d')!.putImageData(levels, 0, 0)
  return { side, patch, first, canvas }
}

/** Where a token's patch is, in pixels of the picture; null for what stands before the patches. */
export function patchOf({ side, patch, first }: Picture, token: number): { x: number; y: number } | null {
  if (token < first) return null
  const across = side / patch
  return { x: ((token - first) % across) * patch, y: Math.floor((token - first) / across) * patch }
}

/** The token whose patch is at a place, given in shares of the side. */
export function tokenAt({ side, patch, first }: Picture, x: number, y: number): number {
  const across = side / patch
  const at = (share: number) => Math.max(0, Math.min(across - 1, Math.floor(share * across)))
  return first + at(y) * across + at(x)
}
