// A spectrogram: time to the right and high tones above; or, beside the threads, time downwards and high tones to the right.

import type { Spectrogram } from '../sound'
import type { Ink } from './ink'
import { shade } from './ink'
import { inSight, tokensOf, type Rows } from './weave'

type Pen = CanvasRenderingContext2D

const framesIn = 2 // a position

/** The mean of a stretch of frames in one mel bin, from 0 for the quietest of the sound to 1. */
function loudness({ values, frames, least, most }: Spectrogram, bin: number, first: number, end: number): number {
  let sum = 0
  for (let r = first; r < end; r++) sum += values[bin * frames + r]
  return (sum / (end - first) - least) / (most - least || 1)
}

export function paintSpectrogram(pen: Pen, width: number, height: number, ink: Ink, sound: Spectrogram): void {
  const { bins, frames } = sound
  const columns = Math.min(frames, Math.floor(width))
  for (let column = 0; column < columns; column++) {
    const [first, end] = [Math.floor((column * frames) / columns), Math.floor(((column + 1) * frames) / columns)]
    for (let bin = 0; bin < bins; bin++) {
      pen.fillStyle = shade(ink, loudness(sound, bin, first, end))
      const top = height - ((bin + 1) * height) / bins
      pen.fillRect((column * width) / columns, top, width / columns + 0.5, height / bins + 0.5)
    }
  }
}

/** What each row is made of: its stretch of the spectrogram, lying. */
export function paintSlices(pen: Pen, width: number, ink: Ink, sound: Spectrogram, rows: Rows): void {
  for (const row of inSight(rows)) {
    const { first, end } = tokensOf(rows, row)
    const y = (row - rows.first) * rows.height
    for (let bin = 0; bin < sound.bins; bin++) {
      pen.fillStyle = shade(ink, loudness(sound, bin, first * framesIn, end * framesIn))
      pen.fillRect((bin * width) / sound.bins, y, width / sound.bins + 0.4, rows.height + 0.4)
    }
  }
}

/** How much is read of every moment, as a line of bars, each from the foot up. */
export function paintReads(pen: Pen, width: number, height: number, ink: Ink, reads: Float32Array): void {
  const most = reads.reduce((a, b) => Math.max(a, b), 0)
  const step = width / reads.length
  pen.fillStyle = ink.value
  reads.forEach((weight, t) => {
    const tall = (weight / (most || 1)) * height
    if (tall > 0.2) pen.fillRect(t * step, height - tall, Math.max(0.8, step * 0.85), tall)
  })
}
