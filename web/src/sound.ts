// The sound a run heard, as it was put before the model.

import { moment } from './cutawayfile'
import type { Recording } from './recording'

/** The log-mel spectrogram a run heard: `bins` by `frames`, low bins first. */
export interface Spectrogram {
  bins: number
  frames: number
  values: Float32Array
  least: number
  most: number
}

const known = new WeakMap<Recording, Spectrogram | null>()

/** Of the run of the encoder that heard it; null where it heard none, or did not bring it along. */
export function spectrogramOf(run: Recording): Spectrogram | null {
  let found = known.get(run)
  if (found === undefined) {
    const tensor = run.spec.stem.bins ? run.held(`${run.side}frames`) : null
    let [least, most] = [Infinity, -Infinity]
    for (const value of tensor?.data ?? []) [least, most] = [Math.min(least, value), Math.max(most, value)]
    found = tensor && { bins: tensor.shape[0], frames: tensor.shape[1], values: tensor.data, least, most }
    known.set(run, found)
  }
  return found
}

/** Seconds from the beginning to the middle of a position. */
export const timeOf = (token: number) => (token + 0.5) * moment
